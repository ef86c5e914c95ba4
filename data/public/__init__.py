"""Datasets that come with this program or can be downloaded: known public ones, and synthetic tissue."""

FETCHED = ("fashion-mnist", "cifar10")
"""Names of the datasets that `study data fetch` can download."""

"""Datasets that nobody has to bring: known public ones, and synthetic tissue."""

FETCHED = ("fashion-mnist", "cifar10")
"""Datasets that `study data fetch` can download."""

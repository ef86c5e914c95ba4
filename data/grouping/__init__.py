"""Grouping: which images share a source, and whether a split keeps them together."""

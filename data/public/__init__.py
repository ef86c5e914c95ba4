"""Datasets that nobody has to bring: known public ones, and synthetic tissue."""

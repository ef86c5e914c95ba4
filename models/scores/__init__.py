"""Scores of a trained network, with their uncertainty."""

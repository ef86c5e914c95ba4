"""A model folder: written, described, checked, loaded and used."""

"""A model folder in use: on image files, and on a labelled folder from elsewhere."""

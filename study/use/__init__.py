"""Use of a model folder: on image files, on labelled images from elsewhere, in a notebook and behind a web page."""

"""Reading how labelled images are organised: which files there are, and what folders and lists say about each."""

"""How people keep labelled images: which files there are, and what folders and lists say of each."""

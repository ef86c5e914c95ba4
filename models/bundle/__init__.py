"""Model folders: writing, describing, checking, loading and using them."""

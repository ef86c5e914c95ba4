"""What decoding a file would take, counted by its headers before a decoder sees it."""

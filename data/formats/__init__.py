"""Checks of image formats: what decoding a file would take, counted from its headers before a decoder sees it."""

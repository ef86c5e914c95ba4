"""Image formats: what decoding a file would cost, counted from its headers; and images of more than 8 bits."""

"""Configuration of a study: its fields, ready-made studies, what may be searched, and the arithmetic of pruning."""

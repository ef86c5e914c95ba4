"""Studies in a SQLite file: one writer at a time, all workers on one machine."""

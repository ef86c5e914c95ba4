"""Studies in a PostgreSQL database: workers on many machines."""

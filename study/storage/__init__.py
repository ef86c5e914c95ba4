"""The only door to the databases: how they are opened and shared, who runs what, and their history in SQL."""

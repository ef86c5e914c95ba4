"""The only access to the databases: opening and sharing them, which process runs which trial, and history in SQL."""

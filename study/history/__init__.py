"""History of studies in SQL: readable views, queries that can only read, and questions that are worth asking."""

"""A point of the space -> a trained network. Knows nothing of trials."""

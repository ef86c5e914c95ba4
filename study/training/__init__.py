"""Training of the network at a point of the space. It knows nothing of trials."""

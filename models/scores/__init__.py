"""What a trained network is worth, with its uncertainty."""

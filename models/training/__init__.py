"""Training a network: its settings, the state that training changes, one step, the loop, and checkpoints."""

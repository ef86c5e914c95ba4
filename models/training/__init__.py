"""A network is trained: the recipe, what changes, a step, the loop, and its checkpoints."""

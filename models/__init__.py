"""Networks: built, trained, scored, saved. Knows nothing of where images come from or of Optuna."""


class ModelError(ValueError):
    """A network or a saved model cannot be used as asked; the message says what, and what to do next."""

"""Images in, parts and batches out. Knows nothing of networks or of Optuna."""


class DataError(ValueError):
    """The user's data cannot be used as it is; the message says what, and what to do next."""

"""Images in, parts and batches out. Knows nothing of networks or of Optuna."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is done, work done, work in all)."""


class DataError(ValueError):
    """The user's data cannot be used as it is; the message says what, and what to do next."""

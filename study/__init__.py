"""Optuna studies over CNN architectures. The only package that knows Optuna."""


class StudyError(ValueError):
    """A study cannot be done as asked; the message says what was given, what is allowed, and what to do next."""

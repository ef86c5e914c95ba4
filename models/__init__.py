"""Networks: how they are built, trained, scored and saved. Knows neither where images come from nor Optuna."""


class ModelError(ValueError):
    """Error for a network or a saved model that cannot be used as asked; the message says why."""

"""Shell completion of studies, presets and fields."""

from collections.abc import Callable
from pathlib import Path


def _offered(choices: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    def offered(incomplete: str) -> list[str]:
        return [one for one in choices() if one.startswith(incomplete)]

    return offered


def _here() -> list[str]:
    """Return the names of the studies in the current folder's database."""
    from study.storage.names import DEFAULT_URL
    from study.storage.sqlite.tables import names_in

    return names_in(Path(DEFAULT_URL.removeprefix("sqlite:///")))


def _presets() -> list[str]:
    from study.config.presets import PRESETS

    return list(PRESETS)


def _settings() -> list[str]:
    from study.config.fields import names

    return [f"{name}=" for name in names()]


def _fields() -> list[str]:
    from study.config.fields import names

    return [*names(), *(name.removeprefix("space.") for name in names() if name.startswith("space."))]


studies, presets, settings, fields = map(_offered, (_here, _presets, _settings, _fields))

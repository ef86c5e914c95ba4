"""What the shell offers for a word that has begun: studies, presets and fields."""

from collections.abc import Callable
from contextlib import suppress

from study import StudyError
from study.config.fields import names
from study.config.presets import PRESETS
from study.storage.door import DEFAULT_URL, open_storage, study_names


def _offered(choices: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    def offered(incomplete: str) -> list[str]:
        with suppress(StudyError, OSError):  # a shell has no place for what is wrong
            return [one for one in choices() if one.startswith(incomplete)]
        return []

    return offered


def _here() -> list[str]:
    """The studies of the database in the current folder."""
    return study_names(open_storage(DEFAULT_URL, create=False, write=False))


studies = _offered(_here)
presets = _offered(lambda: list(PRESETS))
settings = _offered(lambda: [f"{name}=" for name in names()])
fields = _offered(lambda: [*names(), *(name.removeprefix("space.") for name in names() if name.startswith("space."))])

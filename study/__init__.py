"""Optuna studies over CNN architectures; the only package that knows Optuna."""

import logging
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SPINS = 2000
"""Number of times that torch's threads spin while they wait for each other, before they give their processor back.

Without a limit they spin for a long time, and if another program takes one processor, all threads wait for the one that
lost it. With 2,000 nothing was lost on a quiet machine, and on a busy one a step took 0.6 times as long (BENCHMARKS.md,
"Beside other work").
"""


class StudyError(ValueError):
    """Error for a study that cannot be done as asked: what was given, what is allowed, and what to do next."""


_CALLS = {"run": "study.cli.python", "resume": "study.cli.python", "load_model": "study.cli.python"}
_CALLS["History"] = "study.use.history"


def __getattr__(name: str) -> Any:
    """Import a name of the Python interface when it is first used: torch alone takes seconds to import."""
    if name not in _CALLS:
        raise AttributeError(f"module 'study' has no attribute {name!r} (there are: {', '.join(_CALLS)})")
    return getattr(import_module(_CALLS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_CALLS])


def _wait_briefly() -> None:
    """Limit how long torch's threads spin, before torch is loaded, in this process and in all that it starts.

    Values that the user has set stay.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    if {"torch", "ipykernel"} <= sys.modules.keys():
        logging.getLogger(__name__).warning(
            "torch was loaded before: beside other programs its threads may wait for each other for long "
            "(import study first, or set GOMP_SPINCOUNT=%s before Python starts)",
            SPINS,
        )


def _check_packages() -> None:
    """Raise ImportError if another package named `data` or `models` is found instead of ours.

    Under `python -m study`, write one line and exit with code 2 instead.
    """
    for room in ("data", "models"):
        spec = find_spec(room)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        found = next((place for place in places if place), "nothing")
        if Path(found).resolve() != Path(__file__).resolve().parents[1] / room / "__init__.py":
            line = f"{found} hides the package {room!r} of this program (rename it, or start in another folder)"
            if sys.argv[:1] == ["-m"]:
                sys.stderr.write(f"study: {line}\n")
                raise SystemExit(2)
            raise ImportError(line)


_wait_briefly()
_check_packages()

"""Optuna studies over CNN architectures. The only package that knows Optuna."""

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

SPINS = 2000
"""Turns of a loop in which torch's threads wait for each other before they give their processor back.

Without a limit they wait so for a long time, and where another program takes a processor, it is the one that all of
them wait for. With 2,000 nothing was lost on a quiet machine, and a step took 0.6 of the time on a busy one
(BENCHMARKS.md, "Beside other work").
"""


class StudyError(ValueError):
    """A study cannot be done as asked; the message says what was given, what is allowed, and what to do next."""


def _wait_briefly() -> None:
    """Set how threads wait, before torch is loaded, here and in all processes that this one starts.

    What the user has set stays.
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


def _check_rooms() -> None:
    """Raise ImportError where somebody's own `data` or `models` is found in the place of ours.

    Of `python -m study` that is a line and exit code 2.
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
_check_rooms()

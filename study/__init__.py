"""Optuna studies over CNN architectures. The only package that knows Optuna."""

import logging
import os
import sys

SPINS = 2000
"""Turns of a loop in which torch's threads wait for each other before they give their processor back.

Without a limit they wait so for a long time, and where another program takes a processor, it is the one that all of
them wait for. 2,000 cost nothing on a quiet machine, and halve a step on a busy one (BENCHMARKS.md, "Beside other
work").
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


_wait_briefly()

"""Handling of Ctrl-C and SIGTERM: unwind at once, and never take longer than five seconds."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENCE = 4.0
"""Seconds allowed for unwinding; what is on disk by then is whole, because every file appears by being renamed."""


class Interruption(KeyboardInterrupt):
    """End of work that goes on another time: what is whole is saved, what is held is given back."""


class TimeIsUp(Interruption):
    """End of the study's hours, as far as this stage may use them."""


class StopRequest(Interruption):
    """End of this process, wanted by the user or by the machine's owner."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


_heard: list[int] = []
"""Signals that this process has received."""


def as_stopped(error: KeyboardInterrupt) -> KeyboardInterrupt:
    """Return a StopRequest if a library (Ray) replaced it by a plain KeyboardInterrupt; else the error itself."""
    return StopRequest(_heard[-1]) if _heard and not isinstance(error, Interruption) else error


def stop_behind(error: BaseException | None) -> StopRequest | None:
    """Return the stop that led to an error: a signal may come while a library cleans up, which then fails for it."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, StopRequest):
            return one
        seen.add(id(one))
        left += [one.__cause__, one.__context__]
    return None


@contextmanager
def unmasked() -> Iterator[None]:
    """Raise a stop again where a library has turned it into an error of its own."""
    try:
        yield
    except Exception as error:
        if stopped := stop_behind(error):
            raise stopped from None
        raise


def stop() -> None:
    """Stop this process as SIGTERM would, unless it is stopping already: a second signal would end it at once."""
    if not _heard:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def stoppable(farewell: Callable[[], str] = str) -> Iterator[None]:
    """Raise StopRequest on the first SIGINT or SIGTERM; a second signal, or four seconds, end the process at once.

    A process that ends at once writes to stderr what `farewell` returns by then.
    """

    def first(number: int, frame: FrameType | None) -> None:
        def at_once(*_: object) -> None:
            os.write(2, farewell().encode())
            os._exit(128 + number)

        def again(*_: object) -> None:
            for other in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                signal.signal(other, at_once)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            _heard.append(number)
            raise StopRequest(number)

        def swallowed(what: Any) -> None:
            if isinstance(what.exc_value, StopRequest):  # no exception gets out of that place: raise it later
                signal.signal(signal.SIGALRM, again)
                signal.setitimer(signal.ITIMER_REAL, 0.01)
            else:
                sys.__unraisablehook__(what)

        sys.unraisablehook = swallowed
        logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # errors of what is interrupted are no news
        again()

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        before[number] = signal.getsignal(number)
    signal.signal(signal.SIGINT, first)
    signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = sys.__unraisablehook__
        _heard.clear()
        for number, handler in before.items():
            signal.signal(number, handler)

"""PostgreSQL for many workers: a server that is restarted is waited for, and what was cut off is told from mistakes."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine, event

from study import StudyError

PATIENCE = 600.0
"""Seconds to wait for a server that was there before."""
SAY_AFTER = 5.0
"""Seconds after which the user is told what is waited for."""
CUTS = 10
"""In a row, after which it is no restart: something ends each connection in the middle of the same thing."""

CONNECTIONS = {
    "pool_pre_ping": True,  # one that was cut off is replaced before it is used
    "pool_size": 2,  # of a worker: its own, and the heartbeat's; a lock is held on one more
    "pool_timeout": 60,
}
"""SQLAlchemy's settings of an engine."""

Given = ParamSpec("Given")
Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Exception during reset")


def wait_for_restarts(engine: Engine, address: str) -> None:
    """Let every later connection of the engine wait for the server; the first one, made already, showed it is right.

    StudyError after `PATIENCE`. A server that is full is waited for too: workers come and go.
    """

    # A connection that was cut off cannot be reset; whoever used it says so, or does it again.
    logging.getLogger("sqlalchemy.pool.impl.QueuePool").addFilter(_is_news)

    @event.listens_for(engine, "do_connect")
    def _patient(dialect: Any, record: Any, given: Any, options: Any) -> Any:
        start, said = time.monotonic(), False
        while True:
            try:
                return dialect.connect(*given, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                waited = time.monotonic() - start
                reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
                if waited > PATIENCE:
                    raise StudyError(
                        f"the server of {address} has not been reached for {waited:.0f} seconds: {reason} (what is "
                        "saved stays; start it, then give the same command)"
                    ) from error
                if waited > SAY_AFTER and not said:
                    said = True
                    logger.warning(f"the server of {address} cannot be reached; waiting for it: {reason}")
                time.sleep(0.2)


def was_cut_off(error: BaseException | None) -> bool:
    """Whether a connection was lost in the middle of something, so that nobody knows whether it was done."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated


def repeated(operation: Callable[Given, Found]) -> Callable[Given, Found]:
    """A decorator for what does no harm when it is done twice: it is done again when its connection was cut off."""

    @wraps(operation)
    def patient(*args: Given.args, **options: Given.kwargs) -> Found:
        for _ in range(CUTS):
            try:
                return operation(*args, **options)
            except (sqlalchemy.exc.DBAPIError, StorageInternalError) as error:
                if not was_cut_off(error):
                    raise
        return operation(*args, **options)

    return patient

"""Connections to PostgreSQL that wait for a server that restarts."""

import logging
import time
from typing import Any

from sqlalchemy import Engine, event

from study import StudyError

PATIENCE = 600.0
"""Seconds to wait for a server that was there before."""
SAY_AFTER = 5.0
"""Seconds of waiting after which the user is told what for."""
CONNECTIONS = {
    "pool_pre_ping": True,  # a connection that was cut off is replaced before it is used
    "pool_size": 2,  # a worker's own connection, and its heartbeat's; a lock is held on one more
    "pool_timeout": 60,
}
"""Settings of SQLAlchemy's engine for PostgreSQL."""

logger = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Exception during reset")


def wait_for_restarts(engine: Engine, address: str) -> None:
    """Make every later connection of the engine wait for the server, whose address is known to be right by now.

    A connection raises StudyError after `PATIENCE` seconds. A server that is full is waited for too: workers come and
    go.
    """

    # A connection that was cut off cannot be reset, which is no news: the code that used it reports it, or repeats.
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

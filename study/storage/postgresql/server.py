"""Connections to PostgreSQL that wait for a server that restarts."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine, event
from sqlalchemy.engine import URL

from study import StudyError
from study.storage.trouble import CUTS

PATIENCE = 600.0
"""Seconds to wait for a server that was there before."""
SAY_AFTER = 5.0
"""Seconds of waiting after which the user is told what for."""
NOTICE = {
    "connect_timeout": 10,  # of a server that accepts and says nothing; psycopg by itself waits for 130 seconds
    "keepalives_idle": 60,  # the connection that holds a lock is silent for a whole final training
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 90_000,  # milliseconds
}
"""Settings of libpq by which a client notices that its server or the network is gone."""
KEPT_ALIVE = "SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
"""Statement by which a server notices that a client is gone, whose locks would bar all others; for hours, by default.

Over a Unix socket it changes nothing.
"""
CONNECTIONS = {
    "pool_pre_ping": True,  # a connection that was cut off is replaced before it is used
    "pool_size": 2,  # a worker's own connection, and its heartbeat's; a lock is held on one more
    "pool_timeout": 60,
}
"""Settings of SQLAlchemy's engine for PostgreSQL."""

Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Exception during reset")


def settings(place: URL) -> dict[str, Any]:
    """Return the settings of an engine: CONNECTIONS and, for a driver that knows them, those of NOTICE that an address
    leaves open."""
    if not _is_psycopg(place):
        return CONNECTIONS
    notice = {name: value for name, value in NOTICE.items() if name not in place.query}
    return {**CONNECTIONS, "connect_args": notice, "use_native_hstore": False}  # asking for hstore takes a query


def despite_cuts(place: URL, operation: Callable[[], Found]) -> Found:
    """Do an operation that makes connections, again when they are cut off and the server of `place` answers."""
    for _ in range(CUTS):
        try:
            return operation()
        except (sqlalchemy.exc.OperationalError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            if not isinstance(cause, sqlalchemy.exc.OperationalError) or not _answers(place):
                raise
    return operation()


def _answers(place: URL) -> bool:
    dialect = sqlalchemy.create_engine(place, **settings(place)).dialect
    given, options = dialect.create_connect_args(place)
    try:
        dialect.connect(*given, **{**options, **settings(place).get("connect_args", {})}).close()
    except dialect.loaded_dbapi.Error:
        return False
    return True


def _keep_alive(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(KEPT_ALIVE)
    connection.commit()


def _is_psycopg(place: URL) -> bool:
    return place.get_driver_name().startswith("psycopg")


def wait_for_restarts(engine: Engine, address: str) -> None:
    """Make every later connection of the engine wait for the server, whose address is known to be right by now.

    A connection raises StudyError when the server has been away for `PATIENCE` seconds. A server that is full is waited
    for too: workers come and go.
    """
    away: float | None = None  # when it was first missed; all who wait share this, so that nobody begins anew
    said = False
    # Not the engine itself: it would then live, with its connections, until Python looks for cycles.
    keep_alive = _keep_alive if _is_psycopg(engine.url) else None

    # A connection that was cut off cannot be reset, which is no news: the code that used it reports it, or repeats.
    logging.getLogger("sqlalchemy.pool.impl.QueuePool").addFilter(_is_news)

    @event.listens_for(engine, "do_connect")
    def _patient(dialect: Any, record: Any, given: Any, options: Any) -> Any:
        nonlocal away, said
        while True:
            start = time.monotonic()
            try:
                connection = dialect.connect(*given, **options)
                if keep_alive:
                    keep_alive(connection)
                away, said = None, False
                return connection
            except dialect.loaded_dbapi.OperationalError as error:
                away = start if away is None else away
                waited = time.monotonic() - away
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

    engine.dispose()  # what was connected before has none of this

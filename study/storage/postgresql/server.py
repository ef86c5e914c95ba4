"""Connections to PostgreSQL that wait for a server that restarts."""

import logging
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL

from study import StudyError
from study.storage.address import shown

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

logger = logging.getLogger(__name__)

# A connection that was cut off cannot be reset, which is no news: the code that used it reports it, or repeats.
logging.getLogger("sqlalchemy.pool.impl.QueuePool").addFilter(
    lambda record: not str(record.msg).startswith("Exception during reset")
)


def settings(place: URL, *, known: bool = False) -> dict[str, Any]:
    """Return the settings of an engine: CONNECTIONS, how it connects and, for a driver that knows them, those of NOTICE
    that the address leaves open.

    `known`: the address was right before, so that its server is waited for from the beginning.
    """
    if not place.get_driver_name().startswith("psycopg"):
        return {**CONNECTIONS, "creator": _patient(sqlalchemy.create_engine(place).dialect, place, {}, "", known)}
    native = {"use_native_hstore": False}  # asking for hstore takes a query
    notice = {name: value for name, value in NOTICE.items() if name not in place.query}
    dialect = sqlalchemy.create_engine(place, **native).dialect
    return {**CONNECTIONS, **native, "creator": _patient(dialect, place, notice, KEPT_ALIVE, known)}


def _patient(dialect: Any, place: URL, notice: dict[str, Any], first: str, known: bool) -> Callable[[], Any]:
    """Return a function that connects, does `first`, and waits for a server whose address was right before.

    It raises StudyError when the server has been away for `PATIENCE` seconds. A server that is full is waited for too:
    workers come and go. An address that is not `known` fails at the second attempt: the first may have been cut off.
    """
    given, options = dialect.create_connect_args(place)
    away: float | None = None  # when it was first missed; all who wait share this, so that nobody begins anew
    said = False

    def connect() -> Any:
        nonlocal away, said, known
        while True:
            start = time.monotonic()
            try:
                connection = dialect.connect(*given, **{**options, **notice})
                try:
                    if first:
                        connection.cursor().execute(first)
                        connection.commit()
                except BaseException:
                    connection.close()
                    raise
                away, said, known = None, False, True
                return connection
            except dialect.loaded_dbapi.OperationalError as error:
                if not known and away is not None:
                    raise
                away = start if away is None else away
                waited = time.monotonic() - away
                reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
                if known and waited > PATIENCE:
                    raise StudyError(
                        f"the server of {shown(place)} has not been reached for {waited:.0f} seconds: {reason} (what "
                        "is saved stays; start it, then give the same command)"
                    ) from error
                if known and waited > SAY_AFTER and not said:
                    said = True
                    logger.warning(f"the server of {shown(place)} cannot be reached; waiting for it: {reason}")
                time.sleep(0.2)

    return connect

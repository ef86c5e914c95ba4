"""The kind of database that is a PostgreSQL server's."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL

from study import StudyError
from study.storage.address import shown
from study.storage.backend import Backend, Storage, execute
from study.storage.postgresql import ask as queries
from study.storage.postgresql.expressions import PostgresqlExpressions
from study.storage.postgresql.server import CONNECTIONS, wait_for_restarts
from study.storage.trouble import cause_of, repeated

LOCK_KEY = 5318008
"""Key of the advisory lock that a transaction holds while it creates the views; any fixed number will do."""
NUMBER = "SELECT CAST(oid AS BIGINT), datname FROM pg_database WHERE datname = current_database()"
"""Query for what tells a database from others of its server."""


class PostgresqlBackend:
    """Studies in a PostgreSQL database; see `backend.Backend`."""

    one_machine = False
    expressions = PostgresqlExpressions()
    ask = staticmethod(queries.ask)

    def file(self, place: URL) -> None:
        """Return None: a server has the files."""

    def can_be_made(self, place: URL) -> bool:
        """Return False: a database is made by its administrator."""
        return False

    def open(
        self, place: URL, make: Callable[[dict[str, Any], bool], Storage], *, create: bool, write: bool
    ) -> Storage:
        """Open a database, and wait for its server from then on."""
        try:
            # Keepalive packets (psycopg): the connection that holds a lock is silent for a whole final training.
            alive = {"keepalives_idle": 60} if place.get_driver_name().startswith("psycopg") else {}
            storage = make({**CONNECTIONS, "connect_args": alive}, True)
            wait_for_restarts(storage.engine, shown(place))
            return storage
        except ImportError as error:  # raised by Optuna, which hides the driver's name
            driver = place.get_driver_name() or place.get_backend_name()
            raise StudyError(
                f"storage {shown(place)}: the driver {driver} is not installed "
                "(for PostgreSQL: pip install 'psycopg[binary]', and an address that starts with postgresql+psycopg://)"
            ) from error
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            raise StudyError(f"cannot open the storage {shown(place)}: {cause_of(error)}") from error

    def wait(self, place: URL) -> None:
        """Wait until a server answers. Raises StudyError after `server.PATIENCE` seconds."""
        engine = sqlalchemy.create_engine(place)
        wait_for_restarts(engine, shown(place))
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    @contextmanager
    def lock(
        self, engine: Engine, folder: Path, what: str, waiting: Callable[[], None] | None
    ) -> Iterator[Callable[[], None]]:
        """Hold an advisory lock on a connection of its own."""
        name = f"{folder.name}/{what}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with _locked(engine, key, waiting) as connection:
            try:
                yield lambda: connection.execute(text("SELECT 1")).close()
            finally:
                with suppress(sqlalchemy.exc.SQLAlchemyError):  # a connection that is lost holds no lock either
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})

    def insert(self, table: Table) -> Any:
        """Return PostgreSQL's own INSERT."""
        return insert(table)

    def identity(self, connection: Connection) -> str:
        """Return a server and the database's number: a copy on the same server has another number."""
        number, name = connection.execute(text(NUMBER)).one()
        if connection.scalar(text("SELECT has_function_privilege('pg_control_system()', 'execute')")):
            name = connection.scalar(text("SELECT system_identifier FROM pg_control_system()"))
        return f"postgresql:{name}/{number}"

    def snapshot(self, engine: Engine) -> Connection:
        """Open a connection that sees one state of the database."""
        return engine.connect().execution_options(isolation_level="REPEATABLE READ")

    def flush(self, engine: Engine) -> None:
        """Do nothing: a server's commits survive a power cut."""

    def views(self, connection: Connection) -> dict[str, str]:
        """Return the SELECT of each view, which is kept as a comment: PostgreSQL keeps another text."""
        query = (
            "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class "
            "WHERE relkind = 'v' AND relnamespace = current_schema()::regnamespace"
        )
        return {row.relname: row.obj_description for row in connection.exec_driver_sql(query)}

    def make_view(self, connection: Connection, name: str, select: str) -> None:
        """Make a view, with its text as a comment."""
        execute(connection, f"CREATE VIEW {name} AS {select}")
        quoted = select.replace("'", "''")
        execute(connection, f"COMMENT ON VIEW {name} IS '{quoted}'")

    def in_turn(self, connection: Connection) -> None:
        """Hold an advisory lock until the transaction ends."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")


@repeated
def _locked(engine: Engine, key: int, waiting: Callable[[], None] | None) -> Connection:
    """Wait for the lock, and return the connection that holds it."""
    ask_for = text("SELECT pg_try_advisory_lock(:key)")
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        while not connection.scalar(ask_for, {"key": key}):
            if waiting:
                waiting()
                waiting = None
            time.sleep(0.05)
    except BaseException:  # Ctrl-C: the lock may be held by now, and must not go back to the pool with its session
        connection.invalidate()
        connection.close()
        raise
    return connection


BACKEND: Backend = PostgresqlBackend()

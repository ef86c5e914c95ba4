"""The kind of database that is a PostgreSQL server's."""

import hashlib
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL
from typing_extensions import override

from study import StudyError
from study.storage.address import shown
from study.storage.backend import Backend, Storage, execute
from study.storage.postgresql.ask import ask
from study.storage.postgresql.expressions import PostgresqlExpressions
from study.storage.postgresql.server import settings
from study.storage.trouble import cause_of, repeated

LOCK_KEY = 5318008
"""Key of the advisory lock that a transaction holds while it creates the views; any fixed number will do."""
NUMBER = "SELECT CAST(oid AS BIGINT), datname FROM pg_database WHERE datname = current_database()"
"""Query for what tells a database from others of its server."""


class PostgresqlBackend(Backend):
    """Studies in a PostgreSQL database, which its administrator makes, and whose commits survive a power cut."""

    one_machine = False
    one_state: ClassVar = {"isolation_level": "REPEATABLE READ"}
    expressions = PostgresqlExpressions()
    ask = staticmethod(ask)

    @override
    def open(
        self, place: URL, make: Callable[[dict[str, Any], bool], Storage], *, create: bool, write: bool
    ) -> Storage:
        try:
            storage = make(settings(place), write)
            # Python frees an engine late, since it refers to itself; a server has some hundred connections for all.
            weakref.finalize(storage, storage.engine.dispose).atexit = False
            return storage
        except ImportError as error:  # raised by Optuna, which hides the driver's name
            driver = place.get_driver_name() or place.get_backend_name()
            raise StudyError(
                f"storage {shown(place)}: the driver {driver} is not installed "
                "(for PostgreSQL: pip install 'psycopg[binary]', and an address that starts with postgresql+psycopg://)"
            ) from error
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            if not write and "does not exist" in cause_of(error) and "relation" in cause_of(error):
                raise StudyError(f"no studies in {shown(place)} (start one with: study run)") from error
            raise StudyError(f"cannot open the storage {shown(place)}: {cause_of(error)}") from error

    @override
    def wait(self, place: URL) -> None:
        settings(place, known=True)["creator"]().close()

    @override
    @contextmanager
    def lock(
        self, engine: Engine, folder: Path, what: str, waiting: Callable[[], None] | None
    ) -> Iterator[Callable[[], None]]:
        name = f"{folder.name}/{what}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with _locked(engine, key, waiting) as connection:
            try:
                yield lambda: connection.execute(text("SELECT 1")).close()
            finally:
                try:
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
                except sqlalchemy.exc.SQLAlchemyError:
                    connection.invalidate()  # the lock ends with the session, which must not go back to the pool

    @override
    def identity(self, connection: Connection) -> str:
        number, name = connection.execute(text(NUMBER)).one()
        if connection.scalar(text("SELECT has_function_privilege('pg_control_system()', 'execute')")):
            name = connection.scalar(text("SELECT system_identifier FROM pg_control_system()"))
        return f"postgresql:{name}/{number}"

    @override
    def views(self, connection: Connection) -> dict[str, str]:
        query = (
            "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class "
            "WHERE relkind = 'v' AND relnamespace = current_schema()::regnamespace"
        )
        return {row.relname: row.obj_description for row in connection.exec_driver_sql(query)}

    @override
    def make_view(self, connection: Connection, name: str, select: str) -> None:
        super().make_view(connection, name, select)
        quoted = select.replace("'", "''")  # PostgreSQL keeps another text than it was given
        execute(connection, f"COMMENT ON VIEW {name} IS '{quoted}'")

    @override
    def in_turn(self, connection: Connection) -> None:
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


BACKEND = PostgresqlBackend()

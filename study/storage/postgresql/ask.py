"""Queries to PostgreSQL, in a transaction that can only read, by a role that cannot reach the server's files."""

from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from study import StudyError
from study.storage.backend import RefusedError

TOO_MIGHTY = """SELECT rolname, bool_or(rolsuper OR pg_has_role(rolname, mighty, 'MEMBER'))
FROM pg_roles, unnest(ARRAY['pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program']) AS mighty
WHERE rolname = session_user GROUP BY rolname"""
"""A query for the session's role and whether it can reach files of the server; SET ROLE in a query changes neither."""

MAKE_READER = "CREATE ROLE reader LOGIN PASSWORD '...'; GRANT pg_read_all_data TO reader;"

MAY_WRITE = """SELECT coalesce(bool_or(has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')), false)
FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"""


def ask(
    place: URL, sql: str, seconds: float, prepare: Callable[[Connection], None], warn: Callable[[str], None]
) -> Iterator[Any]:
    """Yield the column names of a query, then its rows; see `backend.Backend.ask`."""
    if place.get_driver_name() != "psycopg":
        raise StudyError("study sql asks PostgreSQL through psycopg (write postgresql+psycopg://USER@HOST/DATABASE)")
    import psycopg

    with sqlalchemy.create_engine(place).connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        role, too_mighty = connection.exec_driver_sql(TOO_MIGHTY).one()
        if too_mighty:
            raise StudyError(
                f"the role {role!r} may read and write files of the server, and so might a SELECT (ask as one that may "
                f"only read; to make one: {MAKE_READER})"
            )
        prepare(connection)
        connection.commit()
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, int(1000 * seconds))}")
        # This process is ended by a signal: the server then notices, and does not go on for nobody.
        connection.exec_driver_sql(
            "SELECT set_config(name, '1s', true) FROM pg_settings WHERE name = 'client_connection_check_interval'"
        )
        if connection.exec_driver_sql(MAY_WRITE).scalar():
            warn("this role may also write; nothing is written here, but one that may only SELECT is safer")
        try:
            # A cursor takes a SELECT and nothing else; a prepared statement is one statement.
            raw.execute(f"DECLARE answer NO SCROLL CURSOR FOR {sql.strip().rstrip(';')}", prepare=True)
            yield [column.name for column in raw.execute("FETCH 0 FROM answer").description]
            yield from raw.cursor().stream("FETCH ALL FROM answer")  # row by row, however large each is
        except psycopg.Error as error:
            raise RefusedError(str(error)) from error

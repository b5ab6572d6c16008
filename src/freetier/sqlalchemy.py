"""On a host's SQLAlchemy connection, blocking or async: whatever driver it has underneath.

Statements go through SQLAlchemy's own `text`, never around it: what is written belongs to the
connection's transaction, and the host commits it or rolls it back. SQLAlchemy 1.4 and 2.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import BigInteger, String, bindparam, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.future import Connection as FutureConnection
from sqlalchemy.sql.elements import TextClause

from freetier import _postgres_errors, _postgres_schema, _sqlite_errors, _sqlite_schema
from freetier._awaiting import AwaitingRepository
from freetier._blocking import BlockingRepository
from freetier._clock import with_clock
from freetier._postgres_text import check_encoding, named, parameters, quoted
from freetier._sql import Query
from freetier.errors import FreeTierError, InvalidInput, StoreUnavailable
from freetier.steps import Steps, perform

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]

# A host may have its own rows come by and by; a cursor on the server takes no INSERT.
_AT_ONCE: Mapping[str, Any] = {"stream_results": False, "yield_per": None}


class SQLAlchemyRepository(BlockingRepository):
    """A ledger on a host's own `sqlalchemy.Connection` (of a session: `session.connection()`).

    The connection must have the schema (`freetier.migrations`). schema: the database schema that
    has the tables; None is `public` on Postgres, and the only choice on SQLite.
    Raises `InvalidInput` for another object, or a database that is neither of the two.
    """

    def __init__(self, connection: Connection, *, schema: str | None = None) -> None:
        if not isinstance(connection, Connection):
            raise InvalidInput("connection", connection, "a sqlalchemy.Connection")
        self._connection = connection
        self._lock = threading.RLock()  # SQLAlchemy's connections are for one thread at a time
        self._dialect = _Dialect(connection.dialect.name, schema)

    def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        statement, params = self._dialect.statement(query)
        with self._lock, self._dialect.translating(writes=query.writes):
            self._dialect.check(self._connection)
            whole = self._connection.begin if _commits(self._connection) else nullcontext
            with whole():
                rows = _execute(self._connection, statement, params)
        return query.parse(rows)

    def close(self) -> None:
        """Nothing: the connection is the host's."""


class AsyncSQLAlchemyRepository(AwaitingRepository):
    """`SQLAlchemyRepository` on a host's own `sqlalchemy.ext.asyncio.AsyncConnection`."""

    def __init__(self, connection: AsyncConnection, *, schema: str | None = None) -> None:
        if not isinstance(connection, AsyncConnection):
            expected = "a sqlalchemy.ext.asyncio.AsyncConnection"
            raise InvalidInput("connection", connection, expected)
        self._connection = connection
        self._lock = asyncio.Lock()  # … and for one task
        self._dialect = _Dialect(connection.dialect.name, schema)

    async def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        fetching = self._fetch(query)
        return query.parse(await (_to_its_end(fetching) if self._dialect.sqlite else fetching))

    async def _fetch(self, query: Query[Any]) -> Rows:
        statement, params = self._dialect.statement(query)
        async with self._lock:
            with self._dialect.translating(writes=query.writes):
                self._dialect.check(self._connection.sync_connection)
                found = await self._connection.execute(
                    statement, params, execution_options=_AT_ONCE
                )
                return found.fetchall()

    async def close(self) -> None:
        """Nothing: the connection is the host's."""


async def _to_its_end(fetching: Coroutine[Any, Any, Rows]) -> Rows:
    """What it gives; a task that is cancelled meanwhile waits for that, and is cancelled then.

    Where a task is cancelled in its midst, SQLAlchemy gives up the connection, and SQLite keeps
    the lock until the garbage is collected. SQLite's thread would not stop for it anyway.
    """
    task = asyncio.ensure_future(fetching)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()  # nobody is left to tell; else it would be logged as never retrieved
        raise


def _execute(connection: Connection, statement: TextClause, params: dict[str, Any]) -> Rows:
    if isinstance(connection, FutureConnection):
        return connection.execute(statement, params, execution_options=_AT_ONCE).fetchall()
    # 1.4's first kind takes no options with a statement; what has them then is another object.
    return connection.execution_options(**_AT_ONCE).execute(statement, params).fetchall()


def migrate(connection: Connection, schema: str | None = None) -> int:
    """See `freetier.migrations.migrate`."""
    dialect = _Dialect(connection.dialect.name, schema)

    def execute(sql: str) -> Rows:
        # Not `connection.execution_options`, which sets them for the host's statements too.
        result = connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
        return result.fetchall() if result.returns_rows else []

    with dialect.translating(writes=True), _whole(connection, execute):
        return perform(dialect.migrate(), execute)


@contextmanager
def _whole(connection: Connection, execute: Callable[[str], Rows]) -> Iterator[None]:
    """A part of the host's transaction; a transaction, where each statement would be one."""
    if _commits(connection):
        with connection.begin():
            yield
    elif getattr(connection.connection.dbapi_connection, "autocommit", False) is not True:
        with connection.begin_nested():
            yield
    else:
        execute("BEGIN")
        try:
            yield
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")


async def migrate_async(connection: AsyncConnection, schema: str | None = None) -> int:
    """See `freetier.migrations.migrate_async`."""
    return await connection.run_sync(migrate, schema)


def _commits(connection: Connection) -> bool:
    """Whether SQLAlchemy itself commits after each statement: 1.4 does, unless it is `future`.

    It does so before the rows are read, and SQLite commits no statement that is not at its end. So
    a transaction is begun around it, which ends with the same commit.
    """
    return not isinstance(connection, FutureConnection) and not connection.in_transaction()


class _Dialect:
    """What differs between the two databases under SQLAlchemy."""

    def __init__(self, name: str, schema: str | None) -> None:
        if name not in ("sqlite", "postgresql"):
            raise InvalidInput("connection", name, "a connection to SQLite or Postgres")
        self.sqlite = name == "sqlite"
        if self.sqlite and schema is not None:
            raise InvalidInput("schema", schema, "None: SQLite has no schema names")
        self._name = schema
        self._schema = quoted(schema).replace(":", r"\:")  # `text` sees a parameter in it

    def statement(self, query: Query[Any]) -> tuple[TextClause, dict[str, Any]]:
        """The statement and its parameters, as this database takes them."""
        given = with_clock(query.params) if self.sqlite else query.params
        params = {name: given[name] for name in parameters(query.text)}
        sql = query.text if self.sqlite else named(query.text, self._schema)
        numbers = frozenset(name for name, value in params.items() if type(value) is int)
        return _typed(sql, tuple(params), numbers), params

    def check(self, connection: Connection | None) -> None:
        """Raise `ConfigError` for a connection that cannot carry every id."""
        if self.sqlite or connection is None:
            return
        if not (connection.closed or connection.invalidated):  # else the statement will say so
            driver: Any = connection.connection.driver_connection
            told = getattr(driver, "get_settings", None)  # asyncpg's; else as psycopg has it
            check_encoding(
                told().client_encoding if told else driver.info.parameter_status("client_encoding")
            )

    def migrate(self) -> Steps[int]:
        return _sqlite_schema.migrate() if self.sqlite else _postgres_schema.migrate(self._name)

    @contextmanager
    def translating(self, *, writes: bool) -> Iterator[None]:
        """Raise SQLAlchemy's errors as ours."""
        try:
            yield
        except DBAPIError as error:
            raise self._translated(error, writes=writes) from error
        except OSError as error:  # asyncpg's connections raise the socket's as they come
            told = _postgres_errors.words(error)
            raise _postgres_errors.translated(None, told, writes=writes) from error
        except SQLAlchemyError as error:  # its own complaint, before the database was asked
            raise StoreUnavailable(f"the host's connection: {error}") from error

    def _translated(self, error: DBAPIError, *, writes: bool) -> FreeTierError:
        original = error.orig
        if self.sqlite and isinstance(original, sqlite3.Error):
            return _sqlite_errors.translated(original, "the host's connection", writes=writes)
        state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
        return _postgres_errors.translated(state, str(original), writes=writes)


@cache
def _typed(sql: str, names: tuple[str, ...], numbers: frozenset[str]) -> TextClause:
    """The statement with its parameters' types, which SQLAlchemy else guesses from the values."""
    return text(sql).bindparams(
        *(bindparam(name, type_=BigInteger() if name in numbers else String()) for name in names)
    )

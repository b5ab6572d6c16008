"""Postgres through psycopg 3, blocking and async. The rules are in the schema.

Two kinds of connection. The library's own: a pool of them, each statement its own transaction,
patient where trying again is safe. A host's: one connection, used as it is; what is written
belongs to the host's transaction, and nothing is retried, prepared or set behind its back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from freetier import _postgres_schema, _psycopg_async, _psycopg_blocking
from freetier._awaiting import AwaitingRepository
from freetier._blocking import BlockingRepository
from freetier._postgres_own import (
    CONNECTIONS,
    DEADLINE_S,
    checked_count,
    checked_timeout,
    checked_url,
)
from freetier._postgres_text import quoted
from freetier._postgres_together import TasksTogether, ThreadsTogether, single
from freetier._psycopg import (
    AsyncConnection,
    Connection,
    OwnConnection,
    Ready,
    adapt_plainly,
    check_readable,
    from_psycopg,
    not_let_in,
)
from freetier._sql import Query
from freetier.steps import Steps, perform, perform_async
from freetier.values import check_type

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]


class PostgresRepository(BlockingRepository):
    """A ledger in Postgres, by URL or on a host's own `psycopg.Connection`.

    A URL: the schema is made and migrated if need be, and this object may be used by any thread;
    it opens up to `connections` connections. What threads ask for while the same is under way for
    another is asked for in one statement. `through_pooler` says that the URL is that of a
    pooler in transaction mode: then nothing is prepared, and nothing set on a session.

    A connection: it must have the schema (`freetier.migrations`). Its transaction and settings
    are left as they are: commit to keep what was written, roll back to undo it.

    schema: the database schema that has the tables; None is `public`.
    timeout_s: 0.001 to 3600 seconds that one call may take; to open may take 10 seconds at least.
    On a host's connection the host decides.
    Raises `InvalidInput`, `ConfigError`, `SchemaError`, `StoreUnavailable`.
    """

    def __init__(
        self,
        database: str | Connection,
        *,
        schema: str | None = None,
        timeout_s: float = DEADLINE_S,
        connections: int = CONNECTIONS,
        through_pooler: bool = False,
    ) -> None:
        self._schema = quoted(schema)
        check_type("through_pooler", through_pooler, bool)
        self._connections: _psycopg_blocking.Connections
        self._together: ThreadsTogether | None = None
        if isinstance(database, psycopg.Connection):
            self._connections = _psycopg_blocking.Hosts(database)
            return
        url = checked_url(database, "a psycopg.Connection")
        check_readable(url)
        ready = Ready(checked_timeout(timeout_s), through_pooler=through_pooler)
        pool = ConnectionPool(
            url,
            connection_class=OwnConnection,
            kwargs=ready.settings(),
            min_size=1,
            max_size=checked_count(connections),
            configure=ready.configure,
            reconnect_timeout=0,  # a call that waits tries again, without the pool's long pauses
            open=False,
        )
        try:
            with ready.first(url) as first:
                migrate(first, schema, timeout_s=timeout_s)
        except psycopg.Error as error:
            raise not_let_in(error) from error
        pool.open()
        self._connections = _psycopg_blocking.Own(pool, timeout_s)
        self._together = ThreadsTogether(self._connections.fetch, self._schema)

    def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        if self._together is not None:
            return query.parse(self._together.fetch(query))
        statement = single(query, self._schema)
        return query.parse(self._connections.fetch(*statement, writes=query.writes))

    def close(self) -> None:
        """Close the library's own connections; a host's stays open."""
        self._connections.close()


class AsyncPostgresRepository(AwaitingRepository):
    """`PostgresRepository` for async code, by URL or on a host's `psycopg.AsyncConnection`.

    With a URL, enter it (`async with`) or await `open` before the first call.
    """

    def __init__(
        self,
        database: str | AsyncConnection,
        *,
        schema: str | None = None,
        timeout_s: float = DEADLINE_S,
        connections: int = CONNECTIONS,
        through_pooler: bool = False,
    ) -> None:
        self._migrate = partial(migrate_async, schema=schema, timeout_s=timeout_s)
        self._schema = quoted(schema)
        check_type("through_pooler", through_pooler, bool)
        self._connections: _psycopg_async.Connections
        self._together: TasksTogether | None = None
        if isinstance(database, psycopg.AsyncConnection):
            self._connections = _psycopg_async.Hosts(database)
            return
        url = checked_url(database, "a psycopg.AsyncConnection")
        check_readable(url)
        ready = Ready(checked_timeout(timeout_s), through_pooler=through_pooler)
        self._connections = _psycopg_async.Own(url, ready, checked_count(connections))
        self._together = TasksTogether(self._connections.fetch, self._schema)

    async def open(self) -> Self:
        """Connect and migrate; nothing on a host's connection. Raises as the class says."""
        await self._connections.open(self._migrate)
        return self

    async def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        if self._together is not None:
            return query.parse(await self._together.fetch(query))
        statement = single(query, self._schema)
        return query.parse(await self._connections.fetch(*statement, writes=query.writes))

    async def close(self) -> None:
        """Close the library's own connections; a host's stays open."""
        await self._connections.close()


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """A connection that cannot write, for reports; each statement has its own short snapshot."""
    check_readable(checked_url(url, "nothing else"))
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = on")
            yield connection
    except psycopg.Error as error:
        raise not_let_in(error) from error


def perform_on(connection: Connection, steps: Steps[T]) -> T:
    """Run steps on an `execute` (see `freetier._postgres_schema`)."""

    def execute(sql: str) -> Rows:
        with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
            adapt_plainly(cursor.adapters)
            cursor.execute(sql.encode(), prepare=False)
            return cursor.fetchall() if cursor.description else []

    return perform(steps, execute)


def migrate(
    connection: Connection, schema: str | None = None, *, timeout_s: float | None = None
) -> int:
    """See `freetier.migrations.migrate`."""
    try:
        with connection.transaction():
            return perform_on(connection, _postgres_schema.migrate(schema, timeout_s))
    except psycopg.Error as error:
        raise from_psycopg(error, writes=True) from error


async def migrate_async(
    connection: AsyncConnection, schema: str | None = None, *, timeout_s: float | None = None
) -> int:
    """See `freetier.migrations.migrate_async`."""

    async def execute(sql: str) -> Rows:
        async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
            adapt_plainly(cursor.adapters)
            await cursor.execute(sql.encode(), prepare=False)
            return await cursor.fetchall() if cursor.description else []

    try:
        async with connection.transaction():
            return await perform_async(_postgres_schema.migrate(schema, timeout_s), execute)
    except psycopg.Error as error:
        raise from_psycopg(error, writes=True) from error

"""Postgres through asyncpg. The rules are in the schema; see `freetier.postgres` for the twins."""

from __future__ import annotations

from functools import partial
from typing import Self, TypeVar

import asyncpg

from freetier import _asyncpg, _postgres_schema
from freetier._awaiting import AwaitingRepository
from freetier._postgres_own import (
    CONNECTIONS,
    DEADLINE_S,
    checked_count,
    checked_timeout,
    checked_url,
)
from freetier._postgres_text import quoted
from freetier._postgres_together import TasksTogether, single
from freetier._sql import Query
from freetier.steps import perform_async
from freetier.values import check_type

T = TypeVar("T")


class AsyncpgRepository(AwaitingRepository):
    """A ledger in Postgres, by URL or on a host's own `asyncpg.Connection`.

    A URL: enter it (`async with`) or await `open` before the first call; the schema is made and
    migrated if need be, and up to `connections` connections are opened. `through_pooler` says
    that the URL is that of a pooler in transaction mode: then nothing is cached or set on a
    session, and each statement has a transaction around it.

    A connection: it must have the schema (`freetier.migrations`). Its transaction and settings
    are left as they are: commit to keep what was written, roll back to undo it. What it caches
    is for its own `statement_cache_size` to say: statements are prepared without a name.

    schema: the database schema that has the tables; None is `public`.
    timeout_s: 0.001 to 3600 seconds that one call may take; to open may take 10 seconds at least.
    On a host's connection the host decides.
    Raises `InvalidInput`, `ConfigError`, `SchemaError`, `StoreUnavailable`.
    """

    def __init__(
        self,
        database: str | asyncpg.Connection,
        *,
        schema: str | None = None,
        timeout_s: float = DEADLINE_S,
        connections: int = CONNECTIONS,
        through_pooler: bool = False,
    ) -> None:
        self._migrate = partial(migrate_async, schema=schema, timeout_s=timeout_s)
        self._schema = quoted(schema)
        check_type("through_pooler", through_pooler, bool)
        self._connections: _asyncpg.Connections
        self._together: TasksTogether | None = None
        if isinstance(database, asyncpg.Connection):
            self._connections = _asyncpg.Hosts(database)
            return
        self._connections = _asyncpg.Own(
            checked_url(database, "an asyncpg.Connection"),
            checked_timeout(timeout_s),
            checked_count(connections),
            through_pooler=through_pooler,
        )
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


async def migrate_async(
    connection: asyncpg.Connection, schema: str | None = None, *, timeout_s: float | None = None
) -> int:
    """See `freetier.migrations.migrate_async`."""
    try:
        # A host's transaction has its own isolation; the library's own sees what others made.
        isolation = None if timeout_s is None else "read_committed"
        async with connection.transaction(isolation=isolation):
            execute = partial(_asyncpg.fetch_unnamed, connection, arguments=())
            return await perform_async(_postgres_schema.migrate(schema, timeout_s), execute)
    except _asyncpg.ERRORS as error:
        raise _asyncpg.from_asyncpg(error, writes=True) from error

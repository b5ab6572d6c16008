"""Postgres through asyncpg. The rules are in the schema; see `freetier.postgres` for the twins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import asyncpg

from freetier import _postgres_schema
from freetier._awaiting import AwaitingRepository
from freetier._fork import ForkGuard
from freetier._patience import AWAY_PAUSE_S, Patience
from freetier._postgres_errors import translated, words
from freetier._postgres_own import (
    CONNECTIONS,
    DEADLINE_S,
    GRACE_S,
    OPENING_S,
    check_replicated,
    checked_count,
    checked_timeout,
    checked_url,
    session,
    unreadable,
)
from freetier._postgres_text import check_encoding, quoted
from freetier._postgres_together import TasksTogether, single
from freetier._sql import Query
from freetier.errors import ConfigError, FreeTierError, StoreUnavailable
from freetier.steps import perform_async

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]
Fetch = Callable[[asyncpg.Connection], Any]

_LEAST_CONNECTING_S = 2  # as libpq has it

# What asyncpg raises: the server's errors, its own, and the socket's; a TimeoutError is of these.
_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


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
        self._connections: _Connections
        self._together: TasksTogether | None = None
        if isinstance(database, asyncpg.Connection):
            self._connections = _Hosts(database)
            return
        self._connections = _Own(
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
            execute = partial(_fetch_unnamed, connection, arguments=())
            return await perform_async(_postgres_schema.migrate(schema, timeout_s), execute)
    except _ERRORS as error:
        raise _translated(error, writes=True) from error


class _Connections(Protocol):
    async def open(self, migrate: Fetch) -> None: ...

    async def fetch(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Rows: ...

    async def close(self) -> None: ...


class _Hosts:
    """One connection that belongs to the host."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()  # asyncpg refuses two tasks in one connection

    async def open(self, migrate: Fetch) -> None:
        """Nothing: it is open."""

    async def fetch(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Rows:
        try:
            async with self._lock:
                check_encoding(self._connection.get_settings().client_encoding)
                return await _fetch_unnamed(self._connection, text, arguments)
        except _ERRORS as error:
            raise _translated(error, writes=writes) from error

    async def close(self) -> None:
        """Nothing: the connection is the host's."""


class _Own:
    """A pool of connections, of the event loop that opened it."""

    def __init__(
        self, url: str, timeout_s: float, connections: int, *, through_pooler: bool
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._connections = connections
        self._through_pooler = through_pooler
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._fork = ForkGuard()

    async def open(self, migrate: Fetch) -> None:
        async with self._opening:
            if self._pool is None:
                try:
                    self._pool = await self._opened(migrate)
                except _ERRORS as error:
                    raise _translated(error, writes=False) from error
                if self._closed:  # meanwhile
                    await self._pool.close()

    async def _opened(self, migrate: Fetch) -> asyncpg.Pool:
        connecting = {
            "timeout": max(self._timeout_s, _LEAST_CONNECTING_S),
            "server_settings": {"client_encoding": "utf8"},
        }
        # What is named stays behind in a pooler's session.
        unnamed = {"statement_cache_size": 0}
        first = await self._first(**connecting, **unnamed)
        try:
            with _asking(first, max(self._timeout_s, OPENING_S)):
                await migrate(first)
        finally:
            await first.close(timeout=GRACE_S)
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=self._connections,
            init=None if self._through_pooler else self._init,
            reset=_as_it_is,
            **connecting,
            **(unnamed if self._through_pooler else {}),
        )

    async def _first(self, **options: Any) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(self._url, **options)
        except ValueError:
            raise unreadable() from None

    async def fetch(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Rows:
        self._fork.check()
        patience = Patience(self._timeout_s, AWAY_PAUSE_S)
        while True:
            try:
                return await self._try(text, arguments, patience, writes=writes)
            except FreeTierError as error:
                await asyncio.sleep(patience.pause(error))

    async def close(self) -> None:
        self._closed = True
        if self._pool is not None and not self._fork.forked():
            await self._pool.close()

    async def _try(
        self, text: str, arguments: Sequence[Any], patience: Patience, *, writes: bool
    ) -> Rows:
        if self._closed:
            raise ConfigError("the ledger was closed")
        if self._pool is None:
            raise ConfigError("the ledger is not open: use `async with`, or await its `open`")
        try:
            connection = await self._pool.acquire(timeout=patience.left_s())
        except _ERRORS as error:
            raise _translated(error, writes=False) from error
        try:
            with _asking(connection, patience.left_s()):
                return await self._fetch(connection, text, arguments)
        except _ERRORS as error:
            raise _translated(error, writes=writes) from error
        finally:
            await _release(self._pool, connection)

    async def _fetch(
        self, connection: asyncpg.Connection, text: str, arguments: Sequence[Any]
    ) -> Rows:
        rows: Rows
        if self._through_pooler:
            # A pooler keeps a session only through a transaction, and asyncpg asks twice.
            async with connection.transaction():
                rows = await _fetch_unnamed(connection, text, arguments)
        else:
            rows = await connection.fetch(text, *arguments)
        return rows

    async def _init(self, connection: asyncpg.Connection) -> None:
        with _asking(connection, self._timeout_s):
            await connection.execute(session(self._timeout_s))


async def _release(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    # It broke and was taken back meanwhile; or a cancelled statement did not end, and it is closed.
    with suppress(asyncpg.InternalClientError, TimeoutError):
        await pool.release(connection, timeout=GRACE_S)


@contextmanager
def _asking(connection: asyncpg.Connection, timeout_s: float) -> Iterator[None]:
    """What is asked inside is answered in time; what is committed is where the server wants it.

    A connection whose server does not answer is closed, not cancelled: a cancel needs an answer
    too, and what waits for a standby would be answered as if the standby had it.
    """
    sources: list[str | None] = []

    def warned(_: object, warning: Any) -> None:
        sources.append(warning.server_source_function)

    loop = asyncio.get_running_loop()
    connection.add_log_listener(warned)
    overdue = loop.call_later(timeout_s + GRACE_S, connection.terminate)
    try:
        yield
    finally:
        overdue.cancel()
        with suppress(asyncpg.InterfaceError):  # it broke, and was taken back
            connection.remove_log_listener(warned)
    check_replicated(sources)


async def _as_it_is(connection: asyncpg.Connection) -> None:
    """No call leaves anything behind in a session, and a reset costs a round trip each."""


async def _fetch_unnamed(
    connection: asyncpg.Connection, text: str, arguments: Sequence[Any]
) -> Rows:
    """A named statement would stay behind in a session that may be another's next."""
    statement = await connection.prepare(text, name="")
    rows: Rows = await statement.fetch(*arguments)
    return rows


def _translated(error: Exception, *, writes: bool) -> FreeTierError:
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.PostgresError):
        return StoreUnavailable(f"Postgres: {error}; nothing was written")
    state: str | None = getattr(error, "sqlstate", None)
    return translated(state, words(error), writes=writes)

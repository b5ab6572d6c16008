"""Connections through asyncpg: a host's, or a pool of the library's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import asyncpg

from freetier._fork import ForkGuard
from freetier._patience import AWAY_PAUSE_S, Patience
from freetier._postgres_errors import translated, words
from freetier._postgres_own import (
    GRACE_S,
    OPENING_S,
    check_replicated,
    session,
    unreadable,
)
from freetier._postgres_text import check_encoding
from freetier.errors import ConfigError, FreeTierError, StoreUnavailable

Rows = Sequence[Sequence[Any]]
Migrate = Callable[[asyncpg.Connection], Any]

_LEAST_CONNECTING_S: Final = 2  # as libpq has it
_CLOSING_S: Final = 5 * GRACE_S
"""Beyond a call's own time, for its answer, its end and its release; and for the goodbye."""

# What asyncpg raises: the server's errors, its own, and the socket's; a TimeoutError is of these.
ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


class Connections(Protocol):
    async def open(self, migrate: Migrate) -> None: ...

    async def fetch(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Rows: ...

    async def close(self) -> None: ...


class Hosts:
    """One connection that belongs to the host."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()  # asyncpg refuses two tasks in one connection

    async def open(self, migrate: Migrate) -> None:
        """Nothing: it is open."""

    async def fetch(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Rows:
        try:
            async with self._lock:
                check_encoding(self._connection.get_settings().client_encoding)
                return await fetch_unnamed(self._connection, text, arguments)
        except ERRORS as error:
            raise from_asyncpg(error, writes=writes) from error

    async def close(self) -> None:
        """Nothing: the connection is the host's."""


class Own:
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

    async def open(self, migrate: Migrate) -> None:
        async with self._opening:
            if self._pool is None:
                try:
                    self._pool = await self._opened(migrate)
                except ERRORS as error:
                    raise from_asyncpg(error, writes=False) from error
                if self._closed:  # meanwhile
                    await self._close(self._pool)

    async def _opened(self, migrate: Migrate) -> asyncpg.Pool:
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
            await self._close(self._pool)

    async def _close(self, pool: asyncpg.Pool) -> None:
        # Calls under way end in time; a connection that does not is terminated.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s + _CLOSING_S):
                await pool.close()

    async def _try(
        self, text: str, arguments: Sequence[Any], patience: Patience, *, writes: bool
    ) -> Rows:
        if self._closed:
            raise ConfigError("the ledger was closed")
        if self._pool is None:
            raise ConfigError("the ledger is not open: use `async with`, or await its `open`")
        try:
            connection = await self._pool.acquire(timeout=patience.left_s())
        except ERRORS as error:
            raise from_asyncpg(error, writes=False) from error
        cancelled = False
        try:
            with _asking(connection, patience.left_s()):
                return await self._fetch(connection, text, arguments)
        except ERRORS as error:
            raise from_asyncpg(error, writes=writes) from error
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            await asyncio.shield(_release(self._pool, connection, cancelled=cancelled))

    async def _fetch(
        self, connection: asyncpg.Connection, text: str, arguments: Sequence[Any]
    ) -> Rows:
        rows: Rows
        if self._through_pooler:
            # A pooler keeps a session only through a transaction, and asyncpg asks twice.
            async with connection.transaction():
                rows = await fetch_unnamed(connection, text, arguments)
        else:
            rows = await connection.fetch(text, *arguments)
        return rows

    async def _init(self, connection: asyncpg.Connection) -> None:
        with _asking(connection, self._timeout_s):
            await connection.execute(session(self._timeout_s))


async def _release(pool: asyncpg.Pool, connection: asyncpg.Connection, *, cancelled: bool) -> None:
    if cancelled:
        await _end(connection)
    # It broke and was taken back meanwhile; or a cancelled statement did not end, and it is closed.
    with suppress(asyncpg.InternalClientError, TimeoutError):
        await pool.release(connection, timeout=GRACE_S)


async def _end(connection: asyncpg.Connection) -> None:
    """End what a cancelled call began; close the connection if that cannot be ended.

    Between asyncpg's two trips, to parse and to execute, the server waits for the second one, in a
    transaction and with locks: to ask anything else ends that.
    """
    try:
        await connection.execute("SELECT 1", timeout=GRACE_S)
    except ERRORS:
        connection.terminate()


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


async def fetch_unnamed(
    connection: asyncpg.Connection, text: str, arguments: Sequence[Any]
) -> Rows:
    """A named statement would stay behind in a session that may be another's next."""
    statement = await connection.prepare(text, name="")
    rows: Rows = await statement.fetch(*arguments)
    return rows


def from_asyncpg(error: Exception, *, writes: bool) -> FreeTierError:
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, asyncpg.PostgresError):
        return StoreUnavailable(f"Postgres: {error}")
    state: str | None = getattr(error, "sqlstate", None)
    return translated(state, words(error), writes=writes)

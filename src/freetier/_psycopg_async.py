"""Connections through psycopg in async code: a host's, or a pool of the library's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from freetier._fork import ForkGuard
from freetier._patience import AWAY_PAUSE_S, Patience
from freetier._psycopg import (
    LONGEST_WAIT_S,
    AsyncOwnConnection,
    Ready,
    adapt_plainly,
    asking,
    check_hosts,
    check_open,
    from_psycopg,
    not_let_in,
    not_to_be_had,
)
from freetier._psycopg import AsyncConnection as Connection
from freetier.errors import ConfigError, FreeTierError

Rows = Sequence[Sequence[Any]]
Arguments = Sequence[Any]


class Connections(Protocol):
    async def open(self, migrate: Callable[[Connection], Awaitable[object]]) -> None: ...

    async def fetch(self, text: str, arguments: Arguments, *, writes: bool) -> Rows: ...

    async def close(self) -> None: ...


class Hosts:
    """One connection that belongs to the host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def open(self, migrate: Callable[[Connection], Awaitable[object]]) -> None:
        """Nothing: it is open."""

    async def fetch(self, text: str, arguments: Arguments, *, writes: bool) -> Rows:
        try:
            return await _fetch(self._connection, text, arguments)
        except psycopg.Error as error:
            raise from_psycopg(error, writes=writes) from error

    async def close(self) -> None:
        """Nothing: the connection is the host's."""


class Own:
    """A pool of connections, of the event loop that opened it."""

    def __init__(self, url: str, ready: Ready, connections: int) -> None:
        self._url = url
        self._ready = ready
        self._connections = connections
        self._pool: AsyncConnectionPool[AsyncOwnConnection] | None = None
        self._opening = asyncio.Lock()
        self._fork = ForkGuard()

    async def open(self, migrate: Callable[[Connection], Awaitable[object]]) -> None:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._opened(migrate)

    async def _opened(
        self, migrate: Callable[[Connection], Awaitable[object]]
    ) -> AsyncConnectionPool[AsyncOwnConnection]:
        try:
            async with self._ready.first_async(self._url) as first:
                await migrate(first)
        except psycopg.Error as error:
            raise not_let_in(error) from error
        pool = AsyncConnectionPool(
            self._url,
            connection_class=AsyncOwnConnection,
            kwargs=self._ready.settings(),
            min_size=1,
            max_size=self._connections,
            configure=self._ready.configure_async,
            reconnect_timeout=0,  # a call that waits tries again, without the pool's long pauses
            open=False,
        )
        await pool.open()
        return pool

    async def fetch(self, text: str, arguments: Arguments, *, writes: bool) -> Rows:
        self._fork.check()
        patience = Patience(self._ready.timeout_s, AWAY_PAUSE_S)
        while True:
            try:
                return await self._try(text, arguments, patience, writes=writes)
            except FreeTierError as error:
                await asyncio.sleep(patience.pause(error))

    async def close(self) -> None:
        if self._pool is not None and not self._fork.forked():
            await asyncio.shield(self._pool.close())  # half closed, it would keep its connections

    async def _try(
        self, text: str, arguments: Arguments, patience: Patience, *, writes: bool
    ) -> Rows:
        if self._pool is None:
            raise ConfigError("the ledger is not open: use `async with`, or await its `open`")
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelled = task.cancelling()
        try:
            connection = await self._pool.getconn(min(patience.left_s(), LONGEST_WAIT_S))
        except psycopg.Error as error:
            raise not_to_be_had(error) from error
        try:
            # Before Python 3.12 a task's cancellation is lost where a wait just gets what it wants.
            if task.cancelling() > cancelled:
                raise asyncio.CancelledError
            with asking(connection, patience.left_s()):
                check_open(connection)
                cursor = connection.kept_cursor
                await cursor.execute(text.encode(), arguments)
                return await cursor.fetchall()
        except psycopg.Error as error:
            raise from_psycopg(error, writes=writes) from error
        finally:
            await asyncio.shield(self._pool.putconn(connection))


async def _fetch(connection: Connection, text: str, arguments: Arguments) -> Rows:
    check_hosts(connection)
    # Not connection.cursor(): a host's may give cursors and rows of another kind.
    async with psycopg.AsyncRawCursor(connection, row_factory=tuple_row) as cursor:
        adapt_plainly(cursor.adapters)
        await cursor.execute(text.encode(), arguments, prepare=False)
        return await cursor.fetchall()

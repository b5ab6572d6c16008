"""SQLite from async code: a thread of the library's own, or a host's aiosqlite connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from freetier import _sqlite_schema
from freetier._blocking import BlockingRepository
from freetier._fork import ForkGuard
from freetier._sqlite_errors import translated
from freetier.errors import ConfigError, FreeTierError
from freetier.steps import perform_async

if TYPE_CHECKING:
    import aiosqlite

T = TypeVar("T")
Store = TypeVar("Store", bound=BlockingRepository)
Rows = Sequence[Sequence[Any]]


class Worker(Generic[Store]):
    """A thread that has the ledger to itself, and does one operation after the other."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="freetier")
        self._store: Store | None = None
        self._closed = False
        self._fork = ForkGuard()

    async def open(self) -> None:
        await self._in_thread(self._open)

    async def hop(self, work: Callable[[Store], T]) -> T:
        store = self._store
        if store is None:
            raise ConfigError("the ledger is not open: use `async with`, or await its `open`")
        return await self._in_thread(lambda: work(store))

    async def close(self) -> None:
        if self._closed or self._fork.forked():
            return
        self._closed = True
        closing = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)  # the thread ends after what it was given
        await asyncio.shield(asyncio.wrap_future(closing))

    # These two run in the thread, which ends what it began even if the task is cancelled: what was
    # opened is known to whoever closes.
    def _open(self) -> None:
        if self._store is None:
            self._store = self._open_store()

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._fork.check()  # a child has no such thread: it would wait for ever
        if self._closed:
            raise ConfigError("the ledger was closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class Hosts:
    """A connection that belongs to the host; its own thread runs each statement."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def check(self) -> int:
        """The schema's version. Raises `SchemaError`."""
        with _translating(writes=False):
            return await perform_async(_sqlite_schema.check(), self._execute)

    async def migrate(self) -> int:
        """Migrate inside the host's transaction, or atomic by itself when there is none."""
        with _translating(writes=True):
            async with self._savepoint():
                return await perform_async(_sqlite_schema.migrate(), self._execute)

    async def fetch(self, text: str, params: Mapping[str, Any], *, writes: bool) -> Rows:
        with _translating(writes=writes):
            return await self._execute(text, params)

    async def _execute(self, sql: str, params: Mapping[str, Any] | None = None) -> Rows:
        if self._connection.text_factory is not str:
            raise ConfigError("the connection's text_factory must be str")
        # The cursor is closed also when the task is cancelled: else it would keep its lock.
        async with self._connection.cursor() as cursor:
            cursor.row_factory = None  # a host's would give rows of another kind
            await cursor.execute(sql, params or {})
            return list(await cursor.fetchall())

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        await self._execute("SAVEPOINT freetier_migrate")
        try:
            yield
        except BaseException:
            await self._execute("ROLLBACK TO freetier_migrate")
            await self._execute("RELEASE freetier_migrate")
            raise
        await self._execute("RELEASE freetier_migrate")


@contextmanager
def _translating(*, writes: bool) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, "the host's connection", writes=writes) from error
    except ValueError as error:  # aiosqlite's own word for a connection that is closed
        if isinstance(error, FreeTierError):
            raise
        raise ConfigError(f"the host's connection: {error}") from error

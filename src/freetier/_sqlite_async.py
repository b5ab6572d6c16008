"""SQLite from async code: a thread of the library's own, or a host's aiosqlite connection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from freetier import _sqlite_schema
from freetier._blocking import BlockingRepository
from freetier._fork import ForkGuard
from freetier._gathering import MOST, Call
from freetier._sql import Query
from freetier._sqlite_errors import translated
from freetier.errors import ConfigError, FreeTierError, OutcomeUnknown
from freetier.steps import Operation, perform_async

if TYPE_CHECKING:
    import aiosqlite

T = TypeVar("T")
Store = TypeVar("Store", bound=BlockingRepository)
Rows = Sequence[Sequence[Any]]


class Worker(Generic[Store]):
    """A thread that has the ledger to itself. What comes while it works, it does together next.

    attempt: makes an attempt at each of several calls.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        attempt: Callable[[Store, Sequence[Call[Operation[Any]]]], None],
    ) -> None:
        self._open_store = open_store
        self._attempt = attempt
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="freetier")
        self._store: Store | None = None
        self._closed = False
        self._fork = ForkGuard()
        self._waiting: deque[tuple[Call[Operation[Any]], asyncio.Future[None]]] = deque()
        self._at_work = False
        self._door = threading.Lock()

    async def open(self) -> None:
        await self._in_thread(self._open)

    async def run(self, query: Query[T]) -> T:
        store = self._opened()
        return await self._in_thread(lambda: store.run(query))

    async def perform(self, operation: Operation[T]) -> T:
        """What an operation gives. One that had begun when its task was cancelled is finished."""
        store = self._opened()
        loop = asyncio.get_running_loop()
        call, answered = Call(operation), loop.create_future()
        with self._door:
            self._waiting.append((call, answered))
            sets_to_work = not self._at_work
            self._at_work = True
        if sets_to_work:
            self._thread.submit(self._work, store)
        await answered
        given: T = call.answer()
        return given

    async def close(self) -> None:
        if self._closed or self._fork.forked():
            return
        self._closed = True
        closing = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)  # the thread ends after what it was given
        await asyncio.shield(asyncio.wrap_future(closing))

    # These run in the thread, which ends what it began even if the task is cancelled: what was
    # opened is known to whoever closes.
    def _work(self, store: Store) -> None:
        while self._serve(store):
            with suppress(RuntimeError):  # it is being closed, and is to finish this first
                self._thread.submit(self._work, store)  # after what else it was given
                return

    def _serve(self, store: Store) -> bool:
        """Do what has come, together; whether more has come since."""
        with self._door:
            come = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        wanted = [each for each in come if not each[1].cancelled()]
        failed: BaseException | None = None
        try:
            self._attempt(store, [call for call, _ in wanted])
        except BaseException as error:
            failed = error  # nobody's own: all are told, and the thread goes on
        # Of one loop, as a rule; of another, if one ended before its answers came.
        for loop, those in _by_loop(answered for _, answered in wanted).items():
            with suppress(RuntimeError):  # it was closed: nobody waits
                loop.call_soon_threadsafe(_answer, those, failed)
        with self._door:
            self._at_work = bool(self._waiting)
            return self._at_work

    def _open(self) -> None:
        if self._store is None:
            self._store = self._open_store()

    def _close(self) -> None:
        if self._store is not None:
            while self._serve(self._store):  # what came before the ledger was closed
                pass
            self._store.close()

    def _opened(self) -> Store:
        self._check()
        if self._store is None:
            raise ConfigError("the ledger is not open: use `async with`, or await its `open`")
        return self._store

    def _check(self) -> None:
        self._fork.check()  # a child has no such thread: it would wait for ever
        if self._closed:
            raise ConfigError("the ledger was closed")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._check()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _by_loop(
    futures: Iterable[asyncio.Future[None]],
) -> dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]:
    found = defaultdict(list)
    for future in futures:
        found[future.get_loop()].append(future)
    return found


def _answer(those: Sequence[asyncio.Future[None]], failed: BaseException | None) -> None:
    for answered in those:
        if answered.done():
            continue
        if failed is None:
            answered.set_result(None)
        else:
            answered.set_exception(
                OutcomeUnknown(f"the ledger's thread failed: {type(failed).__name__}: {failed}")
            )


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

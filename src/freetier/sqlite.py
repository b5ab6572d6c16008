"""SQLite: open, execute, translate errors. The rules are in the schema, the statements in `_sql`.

Two kinds of connection. The library's own: one a thread, each statement its own transaction,
durable (WAL, `synchronous=FULL`), patient under contention. A host's: one connection, used as it
is; what is written belongs to the host's transaction, and nothing is retried behind its back.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from freetier import _sqlite_schema, migrations
from freetier._awaiting import AwaitingRepository
from freetier._blocking import BlockingRepository
from freetier._clock import with_clock
from freetier._gathering import Call
from freetier._patience import check_timeout
from freetier._sql import Query
from freetier._sqlite_async import Hosts as AsyncHosts
from freetier._sqlite_async import Worker
from freetier._sqlite_own import Connections, Hosts, Own, checked_path
from freetier._sqlite_together import Together
from freetier.errors import ConfigError, InvalidInput
from freetier.steps import Operation, Steps, perform

if TYPE_CHECKING:
    import aiosqlite

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]

DEADLINE_S = 5.0
"""How long one call waits for other writers before it gives up."""
_MIN_VERSION = (3, 37, 0)  # STRICT tables; RETURNING came with 3.35


class SQLiteRepository(BlockingRepository):
    """A ledger in an SQLite file, or on a host's own `sqlite3.Connection`.

    A path: the file is created and migrated if need be, and this object may be used by any
    thread. A call that finds the file locked tries again, with jitter, for `timeout_s` seconds.
    What threads ask for while another one writes is written next, in one transaction.

    A connection: it must have the schema (`freetier.migrations`). Its transaction, pragmas and
    row factory are left as they are: commit to keep what was written, roll back to undo it.

    Raises `ConfigError`, `SchemaError`, `StoreUnavailable`; after a fork every call raises
    `ConfigError`, because SQLite forbids to carry a connection into a child process: close the
    ledger before the fork, and open it in each process.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | sqlite3.Connection,
        *,
        timeout_s: float = DEADLINE_S,
    ) -> None:
        _check_version()
        self._connections: Connections
        self._together: Together | None = None
        if isinstance(database, sqlite3.Connection):
            self._connections = Hosts(database)
            self._connections.patiently(_check)
        else:
            self._connections = own = Own(database, timeout_s)
            self._together = Together(own, self)
            try:
                own.patiently(_migrate_own)
            except BaseException:
                self.close()
                raise

    def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        params = with_clock(query.params)

        def execute(connection: sqlite3.Connection) -> Rows:
            return _sqlite_schema.execute(connection, query.text, params)

        return query.parse(self._connections.patiently(execute, writes=query.writes))

    def perform(self, operation: Operation[T]) -> T:
        """Run a whole operation. Those of several threads are written together, on a file."""
        if self._together is None or not operation.writes:
            return super().perform(operation)
        return self._together.perform(operation)

    def close(self) -> None:
        """Close the library's own connections; a host's stays open."""
        self._connections.close()


class AsyncSQLiteRepository(AwaitingRepository):
    """`SQLiteRepository` for async code: by path, or on a host's `aiosqlite.Connection`.

    A path: enter it (`async with`) or await `open` before the first call. A thread of its own
    does whole operations, so that the event loop waits once for each, and nothing waits for
    locks within the process. What tasks ask for while it works is written next, in one
    transaction. An operation that had begun when its task was cancelled is finished.

    A connection: as with `SQLiteRepository`; its own thread runs each statement.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | aiosqlite.Connection,
        *,
        timeout_s: float = DEADLINE_S,
    ) -> None:
        _check_version()
        self._worker: Worker[SQLiteRepository] | None = None
        if isinstance(database, str | os.PathLike):
            path = checked_path(database)
            check_timeout(timeout_s)
            self._worker = Worker(lambda: SQLiteRepository(path, timeout_s=timeout_s), _attempt)
        else:
            self._hosts = AsyncHosts(_checked_aiosqlite(database))

    async def open(self) -> Self:
        """Open and migrate the file; on a host's connection, check its schema."""
        if self._worker is not None:
            await self._worker.open()
        else:
            await self._hosts.check()
        return self

    async def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        if self._worker is not None:
            return await self._worker.run(query)
        params = with_clock(query.params)
        return query.parse(await self._hosts.fetch(query.text, params, writes=query.writes))

    async def perform(self, operation: Operation[T]) -> T:
        """Run a whole operation, in one hop to the worker's thread and back."""
        if self._worker is not None:
            return await self._worker.perform(operation)
        return await super().perform(operation)

    async def close(self) -> None:
        """Close the file; a host's connection stays open."""
        if self._worker is not None:
            await self._worker.close()


def _attempt(store: SQLiteRepository, calls: Sequence[Call[Operation[Any]]]) -> None:
    """Do what several tasks asked for: what reads, and waits for no lock; then what writes."""
    for call in calls:
        if not call.wanted.writes:
            call.attempt(lambda operation: perform(operation.begin(), store))
    if store._together is not None:
        store._together.attempt([call for call in calls if call.wanted.writes])


def migrate(connection: sqlite3.Connection, schema: str | None = None) -> int:
    """See `freetier.migrations.migrate`."""
    _check_no_schema(schema)
    return Hosts(connection).patiently(_migrate_joined)


async def migrate_async(connection: aiosqlite.Connection, schema: str | None = None) -> int:
    """See `freetier.migrations.migrate_async`."""
    _check_no_schema(schema)
    return await AsyncHosts(connection).migrate()


def _check_version() -> None:
    if sqlite3.sqlite_version_info < _MIN_VERSION:
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer needed")


def _checked_aiosqlite(connection: Any) -> aiosqlite.Connection:
    """`connection`, if it is one; known by what it has, so that aiosqlite need not be there."""
    if not all(
        hasattr(type(connection), name) for name in ("cursor", "isolation_level", "__aenter__")
    ):
        raise InvalidInput("database", connection, "a path or an aiosqlite.Connection")
    checked: aiosqlite.Connection = connection
    return checked


def _check_no_schema(schema: str | None) -> None:
    if schema is not None:
        raise InvalidInput("schema", schema, "None: SQLite has no schema names")


def _check(connection: sqlite3.Connection) -> int:
    return _perform(_sqlite_schema.check(), connection)


def _migrate_own(connection: sqlite3.Connection) -> int:
    """Migrate in a transaction of its own, one process at a time."""
    if _perform(_sqlite_schema.version(), connection) != migrations.latest("sqlite"):
        connection.execute("BEGIN IMMEDIATE")
        _perform(_sqlite_schema.migrate(), connection)
        connection.execute("COMMIT")
    return _check(connection)


def _migrate_joined(connection: sqlite3.Connection) -> int:
    """Migrate inside the host's transaction, or atomic by itself when there is none."""
    with _savepoint(connection):
        return _perform(_sqlite_schema.migrate(), connection)


def _perform(steps: Steps[T], connection: sqlite3.Connection) -> T:
    return perform(steps, lambda sql: _sqlite_schema.execute(connection, sql))


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT freetier_migrate")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK TO freetier_migrate")
        connection.execute("RELEASE freetier_migrate")
        raise
    connection.execute("RELEASE freetier_migrate")

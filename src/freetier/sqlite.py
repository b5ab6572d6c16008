"""SQLite: open, execute, translate errors. The rules are in the schema, the statements in `_sql`.

Two kinds of connection. The library's own: one a thread, each statement its own transaction,
durable (WAL, `synchronous=FULL`), patient under contention. A host's: one connection, used as it
is; what is written belongs to the host's transaction, and nothing is retried behind its back.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from freetier import _sqlite_schema
from freetier._blocking import BlockingRepository
from freetier._sql import Query
from freetier._sqlite_errors import is_busy, translated
from freetier._sqlite_fork import FileId, ForkGuard, check_not_inherited, file_id, watch
from freetier.errors import ConfigError, InvalidInput, OutcomeUnknown, StoreUnavailable

T = TypeVar("T")

DEADLINE_S = 5.0
"""How long one call waits for other writers before it gives up."""
_LONGEST_TIMEOUT_S = 3600
_FIRST_PAUSE_S = 0.000_25
_LONGEST_PAUSE_S = 0.010
_MIN_VERSION = (3, 37, 0)  # STRICT tables; RETURNING came with 3.35


class SQLiteRepository(BlockingRepository):
    """A ledger in an SQLite file, or on a host's own `sqlite3.Connection`.

    A path: the file is created and migrated if need be, and this object may be used by any
    thread. A call that finds the file locked tries again, with jitter, for `timeout_s` seconds.

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
        if sqlite3.sqlite_version_info < _MIN_VERSION:
            raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer needed")
        self._connections: _Connections
        if isinstance(database, sqlite3.Connection):
            self._connections = _Hosts(database)
            self._connections.patiently(_sqlite_schema.check)
        else:
            self._connections = _Own(database, timeout_s)
            try:
                self._connections.patiently(_sqlite_schema.migrate_own)
            except BaseException:
                self.close()
                raise

    def run(self, query: Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""
        params = dict(query.params)
        if "now_us" in params and params["now_us"] is None:
            params["now_us"] = time.time_ns() // 1000

        def execute(connection: sqlite3.Connection) -> Sequence[Sequence[Any]]:
            cursor = connection.cursor()
            cursor.row_factory = None  # a host's would give rows of another kind
            return cursor.execute(query.text, params).fetchall()

        return query.parse(self._connections.patiently(execute, writes=query.writes))

    def close(self) -> None:
        """Close the library's own connections; a host's stays open."""
        self._connections.close()


def migrate(connection: sqlite3.Connection) -> int:
    """See `freetier.migrations.migrate`."""
    if not isinstance(connection, sqlite3.Connection):
        raise InvalidInput("connection", connection, "an sqlite3.Connection")
    return _Hosts(connection).patiently(_sqlite_schema.migrate_joined)


class _Connections(Protocol):
    def patiently(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T: ...

    def close(self) -> None: ...


class _Hosts:
    """One connection that belongs to the host."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        if connection.text_factory is not str:
            raise ConfigError("the connection's text_factory must be str")
        self._connection = connection
        self._lock = threading.RLock()  # two threads inside one connection confuse its statements
        self._fork = ForkGuard()

    def patiently(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """Do `work` once: whether to wait for a lock is for the host's own busy timeout."""
        self._fork.check()
        try:
            with self._lock:
                return work(self._connection)
        except sqlite3.Error as error:
            raise translated(error, "the host's connection", writes=writes) from error

    def close(self) -> None:
        """Nothing: the connection is the host's."""


class _Connection(sqlite3.Connection):
    """A connection that a weak set can hold, so that it goes, closed, with its thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # To close what another thread is inside of is a crash; a signal handler is no other thread.
        self.in_use = threading.RLock()
        self.file: FileId = (0, 0)

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it never opened
            self.close()


def _checked_path(path: object) -> str:
    """`path` as text, if a ledger's file can be there; else raises."""
    expected = "a path or an sqlite3.Connection"
    if not isinstance(path, str | os.PathLike):
        raise InvalidInput("database", path, expected)
    text = os.fspath(path)
    if type(text) is not str or not text or "\0" in text:
        raise InvalidInput("database", path, expected)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidInput("database", path, "a path that can be encoded") from None
    if text == ":memory:":
        expected = "a file: each connection would have a memory of its own"
        raise InvalidInput("database", path, expected)
    if not Path(text).absolute().parent.is_dir():
        raise ConfigError(f"{text}: the folder does not exist")
    if Path(text).is_dir():
        raise ConfigError(f"{text}: this is a folder")
    return str(Path(text).absolute())  # the folder that is current may change


class _Own:
    """One connection a thread, opened when the thread first asks."""

    def __init__(self, path: str | os.PathLike[str], timeout_s: float) -> None:
        self.path = _checked_path(path)
        if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= _LONGEST_TIMEOUT_S:
            expected = f"seconds from 0 to {_LONGEST_TIMEOUT_S}"
            raise InvalidInput("timeout_s", timeout_s, expected)
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._all: WeakSet[_Connection] = WeakSet()
        self._lock = threading.RLock()
        self._closed = False
        self._fork = ForkGuard()
        watch(self)

    def patiently(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """Do `work`, again while the file is locked, with growing random pauses, to a deadline.

        SQLite's own busy handler wakes waiters in no fair order and starves some for seconds.
        """
        self._fork.check()
        deadline = time.monotonic() + self._timeout_s
        longest = _FIRST_PAUSE_S
        while True:
            try:
                connection = self._connection()
                with connection.in_use, _leaving_no_transaction(connection):
                    if self._closed:
                        raise self._was_closed()
                    return work(connection)
            except sqlite3.Error as error:
                if self._closed and writes and not is_busy(error):
                    raise OutcomeUnknown(f"{self.path}: closed in the middle of a write") from error
                if self._closed:
                    raise self._was_closed() from error
                if not is_busy(error):
                    raise translated(error, self.path, writes=writes) from error
                if time.monotonic() >= deadline:
                    raise StoreUnavailable(
                        f"{self.path}: still locked by other writers after {self._timeout_s} s; "
                        "nothing was written"
                    ) from error
            time.sleep(random.uniform(0, longest))  # noqa: S311 - jitter, not a secret
            longest = min(longest * 2, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Close every thread's connection, unless a fork left them to the parent."""
        self._closed = True
        if self._fork.forked():
            return
        with self._lock:
            connections = list(self._all)
            self._all.clear()
        for connection in connections:
            with connection.in_use:
                connection.close()

    def opened(self) -> list[tuple[sqlite3.Connection, FileId]]:
        """Every thread's connection, with the file that it is on."""
        return [(connection, connection.file) for connection in list(self._all)]

    def _was_closed(self) -> ConfigError:
        return ConfigError(f"{self.path}: the ledger was closed")

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._closed:
            connection = self._open()
        return connection

    def _open(self) -> _Connection:
        with self._lock:
            if self._closed:
                raise self._was_closed()
            check_not_inherited(self.path)
            connection = sqlite3.connect(
                self.path,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,  # close() may come from another thread
                factory=_Connection,
            )
            try:
                (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
                if mode != "wal":
                    raise ConfigError(f"{self.path}: cannot use WAL here, only {mode!r}")
                connection.execute("PRAGMA synchronous=FULL").fetchall()
                connection.file = file_id(self.path)
            except BaseException:
                connection.close()
                raise
            self._all.add(connection)
            self._local.connection = connection
            return connection


@contextmanager
def _leaving_no_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise

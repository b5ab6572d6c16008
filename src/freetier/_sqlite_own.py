"""Connections to SQLite: a host's, or the library's own, one a thread and patient."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from freetier._fork import ForkGuard
from freetier._patience import Patience, check_timeout
from freetier._sqlite_errors import is_busy, translated
from freetier._sqlite_fork import FileId, check_not_inherited, file_id, watch
from freetier._sqlite_queue import Queue
from freetier.errors import (
    ConfigError,
    InvalidInput,
    OutcomeUnknown,
    StoreUnavailable,
    shown,
)

T = TypeVar("T")


class Connections(Protocol):
    def patiently(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T: ...

    def close(self) -> None: ...


class Hosts:
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

    def __init__(self, path: str, **kwargs: Any) -> None:
        self.queue = Queue(path)
        super().__init__(path, **kwargs)
        # To close what another thread is inside of is a crash; a signal handler is no other thread.
        self.in_use = threading.RLock()
        self.file: FileId = (0, 0)

    def close(self) -> None:
        self.queue.close()
        super().close()

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it never opened
            self.close()


def checked_path(database: object) -> str:
    """`database` as text, if a ledger's file can be there; else raises."""
    expected = "a path or an sqlite3.Connection"
    if not isinstance(database, str | os.PathLike):
        raise InvalidInput("database", database, expected)
    text = os.fspath(database)
    if type(text) is not str or not text or "\0" in text:
        raise InvalidInput("database", database, expected)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidInput("database", database, "a path that can be encoded") from None
    if text == ":memory:":
        expected = "a file: each connection would have a memory of its own"
        raise InvalidInput("database", database, expected)
    path = Path(text).absolute()
    if not (_may(path.parent, os.X_OK) and path.parent.is_dir()):
        raise ConfigError(f"{text}: the folder does not exist, or this user may not enter it")
    try:
        there, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise ConfigError(f"{shown(text)}: {error.strerror}") from error
    if is_folder:
        raise ConfigError(f"{text}: this is a folder")
    if there and not _may(path, os.R_OK):
        raise ConfigError(f"{text}: this user may not read it")
    return str(path)  # the folder that is current may change


def _may(path: Path, mode: int) -> bool:
    """Whether this user has the right.

    The file is not opened for that: to close it would end the locks that SQLite has on it in this
    process.
    """
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


class Own:
    """One connection a thread, opened when the thread first asks."""

    def __init__(self, path: str | os.PathLike[str], timeout_s: float) -> None:
        self.path = checked_path(path)
        self._timeout_s = check_timeout(timeout_s)
        self._local = threading.local()
        self._all: WeakSet[_Connection] = WeakSet()
        self._lock = threading.RLock()
        self._closed = False
        self._fork = ForkGuard()
        watch(self)

    def patiently(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        writes: bool = False,
        since: float | None = None,
    ) -> T:
        """Do `work`, again while the file is locked, with growing random pauses, to a deadline.

        The deadline is `timeout_s` after `since`, as `time.monotonic` counts; from now if None.

        SQLite's own busy handler wakes waiters in no fair order and starves some for seconds. Who
        writes waits for its turn first, but for half of the time at most: it may not come.
        """
        self.check()
        patience = Patience(self._timeout_s, since=since)

        def waits() -> bool:
            return not self._closed and patience.left_s() > self._timeout_s / 2

        while True:
            try:
                connection = self._connection()
                turn = connection.queue.turn(waits) if writes else nullcontext()
                with connection.in_use, turn:
                    if self._closed:  # since it was looked up: nothing of it may be touched now
                        raise self._was_closed()
                    if connection.in_transaction:
                        raise StoreUnavailable(
                            f"{self.path}: asked from the middle of its own thread's transaction, "
                            "by a signal handler or a host's limit"
                        )
                    try:
                        return work(connection)
                    except BaseException:
                        if connection.in_transaction:
                            connection.rollback()
                        raise
            except sqlite3.Error as error:
                if self._closed and writes and not is_busy(error):
                    raise OutcomeUnknown(f"{self.path}: closed in the middle of a write") from error
                if self._closed:
                    raise self._was_closed() from error
                if not is_busy(error):
                    raise translated(error, self.path, writes=writes) from error
                locked = StoreUnavailable(
                    f"{self.path}: still locked by other writers after {self._timeout_s} s"
                )
                locked.__cause__ = error
                time.sleep(patience.pause(locked))

    def check(self) -> None:
        """Raise `ConfigError` in a child of the process that opened the file."""
        self._fork.check()

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

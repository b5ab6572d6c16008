"""A queue in front of SQLite's lock, so that the writers of many processes are served alike.

A try that SQLite refuses costs as much as a write. A look at an advisory lock, on an empty file
beside the database, costs a microsecond: so who waits can look often, and all equally often.

It is a courtesy, not a guard. What keeps a ledger right is SQLite's own lock, which is still taken;
other programs take that alone. Who cannot have the queue, or has waited long for it, does the same.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

SUFFIX: Final = "-queue"
"""What is added to the database's name, as SQLite adds `-wal`."""
_PAUSE_S: Final = 0.001
"""The longest pause between two looks. It does not grow: who has waited long would look less often
than who has just come, and starve. `LOCK_NB` and not a lock that blocks: that has no deadline."""

_QUEUES: WeakSet[Queue] = WeakSet()


class Queue:
    """One connection's place in the queue for the database at `path`.

    The file is made by the first who writes, stays, and may be deleted while nobody writes. The
    system takes the lock from a process that ends, however it ends.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)  # one queue for all names, as there is one log
        self._file: int | None = None
        self._closed = False
        _QUEUES.add(self)

    @contextmanager
    def turn(self, waits: Callable[[], bool]) -> Iterator[None]:
        """Wait for the turn as long as `waits()`, then go ahead with it or without; never raises.

        Within one connection, one at a time.
        """
        try:
            while not self._taken() and waits():
                time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - jitter, not a secret
            yield
        finally:
            if self._file is not None:
                with suppress(OSError):  # a file system that has no such locks
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the place, and the turn with it."""
        self._closed = True
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _taken(self) -> bool:
        """Whether it is this one's turn; also when there is no queue to be had."""
        if self._closed:
            return True
        try:
            if self._file is None:
                self._file = _opened(self._path)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


def _opened(path: str) -> int:
    """The queue's file, open for whoever may write the database at `path`, and nobody else.

    Never the database itself: to close it would drop all locks that SQLite has on it here.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        return os.open(path + SUFFIX, flags)
    database = Path(path).stat()
    may_write = database.st_mode & 0o222
    file = os.open(path + SUFFIX, flags | os.O_CREAT, 0o600)
    with suppress(OSError):  # another's, who has seen to it
        os.fchmod(file, may_write | may_write << 1)  # the umask must not keep a writer out
        if os.geteuid() == 0:
            os.fchown(file, database.st_uid, database.st_gid)
    return file


def _in_child() -> None:
    """Keep no place of the parent's: if it is killed, its turn must end with it."""
    for queue in list(_QUEUES):
        queue.close()


os.register_at_fork(after_in_child=_in_child)

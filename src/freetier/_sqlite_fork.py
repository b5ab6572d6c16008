"""What a fork does to SQLite, and how it is kept from losing a write.

SQLite counts its locks by process, in a table that a forked child inherits. A connection that is
carried over shares the parent's state; a second connection to the same file believes that it
holds the parent's locks, and loses what it writes when the parent closes. Both are refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable
from ctypes import py_object, pythonapi
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from freetier.errors import ConfigError

FileId = tuple[int, int]
"""A file's device and inode: its name may change."""


class Opener(Protocol):
    """Who has files open, perhaps, when the process forks."""

    def opened(self) -> Iterable[tuple[sqlite3.Connection, FileId]]:
        """Its connections, each with the file that it is on."""


_OPENERS: WeakSet[Opener] = WeakSet()
_INHERITED: set[FileId] = set()
_FORKING = threading.local()


def watch(opener: Opener) -> None:
    """Remember, should the process fork, the files that `opener` has open then."""
    _OPENERS.add(opener)


def file_id(path: str) -> FileId:
    """The device and inode of the file at `path`, which is there."""
    found = Path(path).stat()
    return found.st_dev, found.st_ino


def check_not_inherited(path: str) -> None:
    """Raise `ConfigError` if the file was open when this process was forked."""
    if _INHERITED and Path(path).exists() and file_id(path) in _INHERITED:
        raise ConfigError(
            f"{path}: was open when this process was forked, and SQLite would lose writes: "
            "close the ledger before the fork"
        )


def _before() -> None:
    # Now, because the child has lost the other threads' connections before it can look.
    _FORKING.opened = [pair for opener in list(_OPENERS) for pair in opener.opened()]


def _in_parent() -> None:
    _FORKING.opened = []


def _in_child() -> None:
    """Never finalise what was inherited, not even at exit: to close it unlinks a live log."""
    opened: list[tuple[sqlite3.Connection, FileId]] = _FORKING.opened
    for connection, file in opened:
        _INHERITED.add(file)
        pythonapi.Py_IncRef(py_object(connection))


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

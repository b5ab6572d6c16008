"""What a fork does to SQLite, and how it is kept from losing a write.

SQLite counts its locks by process, in a table that a forked child inherits. A connection that is
carried over shares the parent's state; a second connection to the same file believes that it
holds the parent's locks, and loses what it writes when the parent closes. Both are refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from freetier.errors import ConfigError


class ForkGuard:
    """Refuses use in any process but the one that made it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def forked(self) -> bool:
        """Whether this is a child of the process that made it."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raise `ConfigError` in a child."""
        if self.forked():
            raise ConfigError(
                f"this ledger was opened in process {self._pid} and is used in its child "
                f"{os.getpid()}: close it before the fork, and open it in each process"
            )


class Opener(Protocol):
    """Who may have a file open when the process forks."""

    path: str

    def opened(self) -> bool:
        """Whether it has."""


_OPENERS: WeakSet[Opener] = WeakSet()
_INHERITED: set[tuple[int, int]] = set()  # files by device and inode


def watch(opener: Opener) -> None:
    """Remember, should the process fork, the file that `opener` has open then."""
    _OPENERS.add(opener)


def check_not_inherited(path: str) -> None:
    """Raise `ConfigError` if the file was open when this process was forked."""
    if _INHERITED.intersection(_files(path)):
        raise ConfigError(
            f"{path}: was open when this process was forked, and SQLite would lose writes: "
            "close the ledger before the fork"
        )


def _files(path: str) -> list[tuple[int, int]]:
    """The file at `path`, if there is one."""
    try:
        found = Path(path).stat()
    except OSError:
        return []
    return [(found.st_dev, found.st_ino)]


def _inherit() -> None:
    for opener in _OPENERS:
        if opener.opened():
            _INHERITED.update(_files(opener.path))


os.register_at_fork(after_in_child=_inherit)

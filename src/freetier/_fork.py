"""A connection belongs to the process that opened it."""

from __future__ import annotations

import os

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

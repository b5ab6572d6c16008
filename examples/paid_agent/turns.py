"""One after the other, for all that goes by one name."""

from __future__ import annotations

from asyncio import Lock
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A lock for each name that somebody has or waits for, and for no other."""

    def __init__(self) -> None:
        self._busy: dict[str, tuple[Lock, int]] = {}

    def busy(self, name: str) -> bool:
        """Whether somebody is inside under this name, or waits to be."""
        return name in self._busy

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else in this process is inside under this name."""
        lock, inside = self._busy.get(name, (Lock(), 0))
        self._busy[name] = lock, inside + 1
        try:
            async with lock:
                yield
        finally:
            lock, inside = self._busy[name]
            if inside == 1:
                del self._busy[name]
            else:
                self._busy[name] = lock, inside - 1

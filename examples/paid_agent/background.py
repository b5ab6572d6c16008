"""What is done behind the answers: each thing once at a time, and not too much at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from .desk import log

GRACE_S = 2


class Crowded(Exception):
    """There is too much to do already: nothing was begun."""


class Backoff:
    """When to try again what is not ready: after `first_s`, then less and less often."""

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next: dict[str, tuple[float, float]] = {}

    def is_due(self, name: str) -> bool:
        """Whether to try now; if so, the next time is twice as far away as this one was."""
        now = time.monotonic()
        at, wait_s = self._next.get(name, (now, self._first_s))
        if now < at:
            return False
        self._next[name] = now + wait_s, min(2 * wait_s, self._most_s)
        return True

    def forget(self) -> None:
        """Forget whatever nobody has asked about for long."""
        before = time.monotonic() - 2 * self._most_s
        self._next = {name: (at, wait) for name, (at, wait) in self._next.items() if at > before}


class Crew:
    """Does what is named, `at_once` of it at a time, and takes `most` names, if there is a most."""

    def __init__(self, at_once: int, most: int | None = None) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._most = most
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()

    def start(self, name: str, what: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Do it, or do it once more when what is being done under the name has ended.

        What breaks is logged, and left for the next round. Raises `Crowded`.
        """
        running = self._running.get(name)
        if running is not None and not running.done():
            self._again.add(name)
            return running
        if self._most is not None and len(self._running) >= self._most:
            raise Crowded
        task = asyncio.create_task(self._do(name, what))
        self._running[name] = task
        task.add_done_callback(partial(self._ended, name))
        return task

    async def close(self) -> None:
        """Let what is running come to its end; what does not, in `GRACE_S`, is broken off.

        That is work, as a rule. A statement is not: its connection would be lost with it.
        """
        if running := list(self._running.values()):
            _, slow = await asyncio.wait(running, timeout=GRACE_S)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._running.get(name) is task:  # else it was begun anew before this was told
            del self._running[name]

    async def _do(self, name: str, what: Callable[[], Awaitable[object]]) -> None:
        while True:
            self._again.discard(name)
            async with self._turn:
                try:
                    await what()
                except Exception:
                    log.exception("%s is left for the next round", name)
            if name not in self._again:
                return

"""Tasks that come while another's work is under way: gathered, and done together next.

As `freetier._gathering` does for threads. Who comes meanwhile is served by a task of nobody's, so
that to cancel one caller cancels no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, Generic, TypeVar

from freetier._gathering import MOST

W = TypeVar("W")
Answers = Sequence[Any | Exception]


class Tasks(Generic[W]):
    """Where the tasks of one event loop meet.

    alone: does what a single caller wants.
    together: does what several want; gives to each its answer, or the error that is its own.
    """

    def __init__(
        self,
        alone: Callable[[W], Awaitable[Any]],
        together: Callable[[Sequence[W]], Awaitable[Answers]],
    ) -> None:
        self._alone = alone
        self._together = together
        self._at_work = False
        self._waiting: deque[tuple[W, asyncio.Future[Any]]] = deque()
        self._serving: asyncio.Task[None] | None = None

    async def do(self, wanted: W) -> Any:
        """What it gives, done alone or together with others'; raises what it raises."""
        if self._at_work:
            answer = asyncio.get_running_loop().create_future()
            self._waiting.append((wanted, answer))
            return await answer
        self._at_work = True
        try:
            return await self._alone(wanted)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        """Serve those who wait, if there are any."""
        come = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        here = [each for each in come if not each[1].cancelled()]
        if here:
            self._serving = asyncio.get_running_loop().create_task(self._serve(here))
        elif come:
            self._go_on()
        else:
            self._at_work, self._serving = False, None

    async def _serve(self, come: Sequence[tuple[W, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._answers([wanted for wanted, _ in come])
            for (_, future), answer in zip(come, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        finally:
            for _, future in come:
                future.cancel()  # those without an answer: the loop is being ended
            self._go_on()

    async def _answers(self, wanted: Sequence[W]) -> Answers:
        try:
            return await self._together(wanted)
        except Exception as error:  # nobody's own; who waits is told of it, and not cancelled
            return [copy(error) for _ in wanted]

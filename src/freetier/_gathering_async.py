"""Tasks that come while another's work is under way: gathered, and done together next.

As `freetier._gathering` does for threads. Who comes meanwhile is served by a task of nobody's, so
that to cancel one caller cancels no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from freetier._gathering import MOST

W = TypeVar("W")
Answers = Sequence[Any | Exception]


class Tasks(Generic[W]):
    """Where the tasks of one event loop meet.

    alone: does what a single caller wants.
    together: does what several want; gives to each its answer, or the error that is its own.
    share: of so many who wait, how many are done together next; all, unless it says otherwise.
    """

    def __init__(
        self,
        alone: Callable[[W], Awaitable[Any]],
        together: Callable[[Sequence[W]], Awaitable[Answers]],
        share: Callable[[int], int] = int,
    ) -> None:
        self._alone = alone
        self._together = together
        self._share = share
        self._at_work = False
        self._waiting: deque[tuple[W, asyncio.Future[Any]]] = deque()
        self._serving: asyncio.Task[None] | None = None

    async def do(self, wanted: W) -> Any:
        """What it gives, done alone or together with others'; raises what it raises."""
        leads = not self._at_work
        if leads and await self._is_alone():
            try:
                return await self._alone(wanted)
            finally:
                self._go_on()
        answer = asyncio.get_running_loop().create_future()
        if leads:
            self._waiting.appendleft((wanted, answer))
            self._go_on()
        else:
            self._waiting.append((wanted, answer))
        return await answer

    async def _is_alone(self) -> bool:
        """Be at work; whether nobody else comes in this turn of the loop.

        Those whom one batch has answered come back in one turn: they are the next batch.
        """
        self._at_work = True
        try:
            await asyncio.sleep(0)
        except BaseException:
            self._go_on()
            raise
        return not self._waiting

    @property
    def is_at_work(self) -> bool:
        """Whether a call is under way."""
        return self._at_work

    def _go_on(self) -> None:
        """Serve those who wait, if there are any."""
        number = min(MOST, self._share(len(self._waiting)))
        come = [self._waiting.popleft() for _ in range(number)]
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

    async def _answers(self, wanted: Sequence[W]) -> Answers:
        try:
            return await self._together(wanted)
        except Exception as error:  # nobody's own; who waits is told of it, and not cancelled
            return [error for _ in wanted]
        finally:
            self._go_on()  # the next are under way while these go on

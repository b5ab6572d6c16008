"""Threads that come while another's work is under way: gathered, and done together next.

No timer and no wait for a lone caller: who finds nobody at work leads, and does its own at once.
Who comes meanwhile waits until the leader is done; then the first of them leads, and may take the
others with it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

W = TypeVar("W")

MOST: Final = 256
"""How many calls are done together: more would keep the first one waiting, and gain little."""

_LOOK_S: Final = 1.0
"""How long a thread waits to be woken before it looks for itself."""


class Call(Generic[W]):
    """What one caller wants, since when, and what became of it: what it gave, or what it raised.

    since: as `time.monotonic` counts.
    """

    __slots__ = ("_error", "_given", "since", "wanted")

    def __init__(self, wanted: W) -> None:
        self.wanted = wanted
        self.since = time.monotonic()
        self._given: Any = None
        self._error: BaseException | None = None

    def attempt(self, do: Callable[[W], Any]) -> None:
        """Do what is wanted from its beginning, whatever became of it before."""
        try:
            self._given, self._error = do(self.wanted), None
        except BaseException as error:
            # Ctrl-C comes to the main thread, whosever call it is in the middle of.
            if isinstance(error, KeyboardInterrupt) and _is_main():
                raise
            self._error = error

    def answer(self) -> Any:
        """What the last attempt gave; raises what it raised."""
        error, self._error = self._error, None
        if error is None:
            return self._given
        try:
            raise error
        finally:
            del error  # a traceback that leads back to itself would stay until it is collected


class _Waiting(Call[W]):
    """The call of a thread that waits its turn."""

    __slots__ = ("done", "left", "thread", "turn")

    def __init__(self, wanted: W) -> None:
        super().__init__(wanted)
        self.thread = threading.get_ident()
        self.done = False
        self.left = False
        self.turn = threading.Lock()
        self.turn.acquire()  # until it is done, or its thread is to lead


Others = Callable[[], Sequence[Call[W]]]
"""Gives those who have come since it was last asked, in order."""


class Gathering(Generic[W]):
    """Where threads meet. One at a time leads.

    alone: does what a single caller wants.
    together: does the leader's call, and those that its second argument gives when it is asked.
    """

    def __init__(
        self, alone: Callable[[W], Any], together: Callable[[Call[W], Others[W]], None]
    ) -> None:
        self._alone = alone
        self._together = together
        self._door = threading.RLock()  # a signal handler may come in while its thread is inside
        self._here: set[int] = set()
        self._leader: int | None = None
        self._waiting: deque[_Waiting[W]] = deque()
        self._taken: list[_Waiting[W]] = []

    def do(self, wanted: W) -> Any:
        """What it gives, done alone or together with others'; raises what it raises."""
        me = threading.get_ident()
        if me in self._here:  # a signal handler, in the middle of its own thread's call
            return self._alone(wanted)
        call = _Waiting(wanted)
        try:
            self._here.add(me)
            with self._door:
                if self._leader is None:
                    self._leader = me
                else:
                    self._waiting.append(call)
            while not call.done and self._leader != me:
                if not call.turn.acquire(timeout=_LOOK_S):
                    self._look(call)
            if not call.done:
                self._lead(call)
        finally:
            call.left = True  # whichever way: nobody is to wait for it, or to do it again
            self._here.discard(me)
            self._pass_on(me)
        return call.answer()

    def _lead(self, call: Call[W]) -> None:
        if self._waiting:
            self._together(call, self._take)
        else:
            call.attempt(self._alone)
        for other in self._taken:
            other.done = True

    def _take(self) -> Sequence[Call[W]]:
        """Those who wait now, in the order in which they came."""
        new: list[Call[W]] = []
        with self._door:
            while len(self._taken) < MOST - 1 and (call := self._next()):
                self._taken.append(call)
                new.append(call)
        return new

    def _next(self) -> _Waiting[W] | None:
        while self._waiting:
            call = self._waiting.popleft()
            if not call.left:
                return call
        return None

    def _pass_on(self, leader: int | None) -> None:
        """Wake those whom it took along, and let the first of those who wait lead."""
        with self._door:
            if self._leader != leader:
                return
            taken, self._taken = self._taken, []
            # A leader that was interrupted did nothing for them.
            self._waiting.extendleft(reversed([call for call in taken if not call.done]))
            following = self._next()
            self._leader = following.thread if following else None
        for call in taken:
            if call.done:
                call.turn.release()
        if following:
            following.turn.release()

    def _look(self, call: _Waiting[W]) -> None:
        """See whether anybody leads: a second signal may have kept one from passing that on."""
        with self._door:
            if call.done or self._leader == call.thread:
                return  # it was woken just now
            if call not in self._waiting and call not in self._taken:
                self._waiting.append(call)
            if self._leader not in self._here:
                self._pass_on(self._leader)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()

"""Callers that come while another's operation is under way meet, and one of them leads."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from freetier import Conflict, _gathering
from freetier._gathering import MOST, Call, Gathering, Others, _Waiting
from freetier.steps import Operation, ask, perform


class Panic(BaseException):
    """What some libraries raise, beyond all `Exception`s."""


class TestGathering:
    """Where threads meet, with steps that wait for the test."""

    def test_a_lone_caller_is_done_alone(self) -> None:
        """Who finds nobody at work is done at once, by itself; so is the next one."""
        gathering = Gathering(alone, none_together)
        assert [gathering.do(giving(lambda store: store)) for _ in range(2)] == ["alone"] * 2

    def test_a_batch_has_its_most(self) -> None:
        """No more than so many are done together, in the order they came; the rest come next."""
        sizes: list[int] = []

        def together(first: Call[Any], others: Others[Any]) -> None:
            in_order = [first, *gathering._waiting]
            calls = [first, *others(), *others()]
            assert calls == in_order[:MOST]
            sizes.append(len(calls))
            for call in calls:
                call.attempt(partial(done_on, "together"))

        gathering = Gathering(alone, together)
        with ThreadPoolExecutor(MOST + 4) as threads, busy(gathering, MOST + 3):
            begun = [
                threads.submit(gathering.do, giving(lambda store: store)) for _ in range(MOST + 3)
            ]
        assert {future.result() for future in begun} == {"together"}
        assert sizes == [MOST, 3]

    def test_an_interrupted_leader_leaves_nobody_waiting(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whom an interrupted leader took along is done by the next one; none looks for itself."""
        monkeypatch.setattr(_gathering, "_LOOK_S", 10)
        looked: list[object] = []
        leads: list[str] = []

        def together(first: Call[Any], others: Others[Any]) -> None:
            calls = [first, *others()]
            leads.append("together")
            if len(leads) == 1:
                raise KeyboardInterrupt
            for call in calls:
                call.attempt(partial(done_on, "together"))

        gathering = Gathering(alone, together)
        look = gathering._look

        def look_up(call: Any) -> None:
            looked.append(call)
            look(call)

        monkeypatch.setattr(gathering, "_look", look_up)
        with ThreadPoolExecutor(4) as threads, busy(gathering, 3):
            begun = [threads.submit(gathering.do, giving(lambda store: store)) for _ in range(3)]
        ends = [future.exception() or future.result() for future in begun]
        assert sorted(map(type, ends), key=str) == [KeyboardInterrupt, str, str]
        assert looked == []
        assert gathering.do(giving(lambda store: store)) == "alone"

    def test_who_is_interrupted_while_waiting_leaves(self) -> None:
        """A signal ends a wait for others; what was asked for is not done, and nobody waits."""
        gathering = Gathering(alone, none_together)
        done: list[str] = []

        def interrupt(*_: object) -> None:
            raise InterruptedError

        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with busy(gathering, 0) as leader:
                main = threading.main_thread().ident or 0
                timer = threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGUSR1])
                timer.start()
                with pytest.raises(InterruptedError):
                    gathering.do(giving(done.append))
                leader.set()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert done == []
        with ThreadPoolExecutor(1) as another:
            assert another.submit(gathering.do, giving(lambda store: store)).result() == "alone"

    def test_a_signal_handler_while_its_thread_waits(self) -> None:
        """It does not wait behind the call that it interrupts."""
        gathering = Gathering(alone, none_together)
        handled: list[str] = []

        def ask(*_: object) -> None:
            handled.append(gathering.do(giving(lambda store: f"handled {store}")))
            leader.set()

        before = signal.signal(signal.SIGUSR1, ask)
        try:
            with busy(gathering, 0) as leader:
                main = threading.main_thread().ident or 0
                threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGUSR1]).start()
                assert gathering.do(giving(lambda store: store)) == "alone"
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert handled == ["handled alone"]

    def test_who_was_taken_along_and_left_does_not_lead(self) -> None:
        """A caller that was interrupted is not waited for, even if its leader was as well."""
        main = threading.main_thread().ident or 0
        has_left = threading.Event()

        def together(_: Call[Any], others: Others[Any]) -> None:
            assert len(others()) == 1
            signal.pthread_kill(main, signal.SIGUSR1)
            has_left.wait()
            raise Panic

        def interrupt(*_: object) -> None:
            raise InterruptedError

        gathering = Gathering(alone, together)
        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with ThreadPoolExecutor(1) as threads, busy(gathering, 2):
                leader = threads.submit(gathering.do, giving(lambda store: store))
                while not gathering._waiting:
                    time.sleep(0.001)
                with pytest.raises(InterruptedError):
                    gathering.do(giving(lambda store: store))
                has_left.set()
            assert isinstance(leader.exception(), Panic)
        finally:
            signal.signal(signal.SIGUSR1, before)
        with ThreadPoolExecutor(1) as another:
            assert another.submit(gathering.do, giving(lambda store: store)).result(30) == "alone"

    def test_who_looks_when_it_is_done_waits_no_more(self) -> None:
        """A call that is done while its thread looks for itself does not come back in line."""
        gathering = Gathering(alone, none_together)
        call = _Waiting(giving(lambda store: store))
        call.done = True
        gathering._look(call)
        assert not gathering._waiting
        assert gathering.do(giving(lambda store: store)) == "alone"

    def test_a_leader_that_never_passed_it_on(self) -> None:
        """Who waits sees for itself, in the end, that nobody leads any more, and who was left."""

        def together(first: Call[Any], others: Others[Any]) -> None:
            for call in (first, *others()):
                call.attempt(partial(done_on, "together"))

        gathering = Gathering(alone, together)
        gathering._leader = -1  # as a second interrupt leaves it, at the worst moment
        with ThreadPoolExecutor(2) as threads:
            taken = threads.submit(gathering.do, giving(lambda store: store))
            while not gathering._waiting:
                time.sleep(0.001)
            gathering._taken.append(gathering._waiting.popleft())
            other = threads.submit(gathering.do, giving(lambda store: store))
            assert {taken.result(30), other.result(30)} <= {"alone", "together"}

    def test_a_signal_handler_in_the_middle_of_its_threads_own_turn(self) -> None:
        """It does not wait for the thread that it interrupts."""
        gathering = Gathering(alone, none_together)
        inner = giving(lambda store: f"handled {store}")
        assert gathering.do(giving(lambda _: gathering.do(inner))) == "handled alone"

    def test_what_was_raised_is_not_kept(self) -> None:
        """An error is raised as it is, once, with nothing that leads back to itself."""

        def fail(_: object) -> None:
            raise Conflict("no")

        call = Call(giving(fail))
        call.attempt(alone)
        with pytest.raises(Conflict):
            call.answer()
        assert call._error is None


def done_on(store: str, operation: Operation[Any]) -> Any:
    return perform(operation.begin(), store)


alone = partial(done_on, "alone")


def giving(step: Callable[[Any], Any]) -> Operation[Any]:
    return Operation(lambda: ask(step), writes=True)


def none_together(_first: Call[Any], _others: Others[Any]) -> None:
    raise AssertionError("nobody came meanwhile")


@contextmanager
def busy(gathering: Gathering[Any], until: int) -> Iterator[threading.Event]:
    """A thread that leads until so many wait, or until it is told to end."""
    leads, ends = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        leads.set()
        while not ends.is_set() and (until == 0 or len(gathering._waiting) < until):
            time.sleep(0.001)

    thread = threading.Thread(target=gathering.do, args=[giving(hold)])
    thread.start()
    leads.wait()
    yield ends
    thread.join()

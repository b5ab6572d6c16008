"""Callers that come while another's operation is under way are done together, as if each alone."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import (
    AsyncFreeTier,
    Conflict,
    FreeTier,
    FreeTierPolicy,
    InvalidInput,
    Kind,
    Limit,
    OutcomeUnknown,
    Request,
    StoreUnavailable,
)
from freetier._gathering import MOST, Call, Gathering, Others
from freetier._patience import Patience
from freetier.sqlite import AsyncSQLiteRepository, SQLiteRepository
from freetier.steps import Operation, ask, perform

POLICY = FreeTierPolicy(seed_sats=1_000_000, budgets={"elite": 1_000})
AT_ONCE = 24


def asked(number: int) -> Request:
    return Request(f"job-{number}", f"id-{number}", "elite", 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger's file, migrated and seeded."""
    with freetier.open(tmp_path / "ledger.db", POLICY):
        return tmp_path / "ledger.db"


@contextmanager
def held(path: Path) -> Iterator[sqlite3.Connection]:
    """The file's lock, until it is rolled back: what is asked for meanwhile comes together."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system refuses to let any file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def commits(path: Path) -> int:
    """How many transactions the write-ahead log has: a frame that commits has the file's size."""
    log = path.with_name(path.name + "-wal").read_bytes()
    page, salts = int.from_bytes(log[8:12], "big"), log[16:24]
    frames = range(32, len(log), 24 + page)
    return sum(log[at + 4 : at + 8] != bytes(4) and log[at + 8 : at + 16] == salts for at in frames)


class TestTasks:
    """Tasks of one event loop, on a file."""

    @staticmethod
    def together(
        path: Path, calls: Callable[[AsyncFreeTier], list[Any]], **options: Any
    ) -> list[Any]:
        """What calls give, or raise, that are all there before the first can write."""

        async def main() -> list[Any]:
            async with AsyncFreeTier(POLICY, AsyncSQLiteRepository(path), **options) as ledger:
                with held(path) as other:
                    tasks = [asyncio.ensure_future(call) for call in calls(ledger)]
                    await asyncio.sleep(0.05)
                    other.rollback()
                    return await asyncio.gather(*tasks, return_exceptions=True)

        return asyncio.run(main())

    def test_one_commit_for_many(self, path: Path) -> None:
        """What comes while another writes is written by the next commit, in the order it came."""
        with freetier.open(path, POLICY) as ledger:  # keeps the log from being taken away
            before = commits(path)
            self.together(path, lambda own: [own.reserve(asked(n)) for n in range(AT_ONCE)])
            assert commits(path) - before <= 3
            drawn = [each.key for each in ledger.journal() if each.kind is Kind.RESERVE]
            assert drawn == [f"job-{n}" for n in range(AT_ONCE)]
            assert ledger.verify().ok

    def test_each_has_its_own_answer(self, path: Path) -> None:
        """What one call raises is that call's; the others' answers are as if each were alone."""
        with freetier.open(path, POLICY) as ledger:
            ledger.reserve(asked(1))
        answers = self.together(
            path,
            lambda own: [
                own.reserve(asked(0)),
                own.reserve(Request("job-1", "somebody else", "elite", 5)),
                own.reserve(Request("job-2", "id-2", "unknown", 5)),
                own.adjust("too much", -2_000_000, note="a slip"),
                own.settle("job-1", 3),
                own.pool_status(),
                own.reserve(asked(3)),
            ],
        )
        first, conflict, unknown, slip, settled, status, last = answers
        assert isinstance(conflict, Conflict)
        assert isinstance(unknown, InvalidInput)
        assert isinstance(slip, InvalidInput)
        assert (first.absorb_sats, last.absorb_sats, settled.absorbed_sats) == (5, 5, 3)
        assert status.balance_sats in (1_000_000, 999_997)
        with freetier.open(path, POLICY) as ledger:
            assert ledger.pool_status().reserved_sats == 10
            assert ledger.verify().ok

    def test_the_last_sats_of_an_allowance(self, path: Path) -> None:
        """Calls that are written together never get more than one after the other would."""
        requests = [Request(f"last-{n}", "ada", "elite", 90) for n in range(AT_ONCE)]
        grants = self.together(path, lambda own: [own.reserve(each) for each in requests])
        assert [grant.absorb_sats for grant in grants] == [90] * 11 + [10] + [0] * 12

    def test_a_batch_that_fails(self, path: Path) -> None:
        """A disk that takes no more, at the commit: each is tried by itself, to its own fate."""

        async def main() -> tuple[list[Any], set[str]]:
            async with AsyncFreeTier(POLICY, AsyncSQLiteRepository(path)) as ledger:
                await ledger.donate("gift", 1)  # the log is there
                log = path.with_name(path.name + "-wal")
                with held(path) as other:
                    tasks = [asyncio.ensure_future(ledger.reserve(asked(n))) for n in range(200)]
                    await asyncio.sleep(0.05)
                    with no_file_beyond(log.stat().st_size + 60_000):
                        other.rollback()
                        answers = await asyncio.gather(*tasks, return_exceptions=True)
                entries = {each.key async for each in ledger.journal() if each.kind is Kind.RESERVE}
                assert (await ledger.verify()).ok
                again = [await ledger.reserve(asked(n)) for n in range(200)]
                assert {grant.absorb_sats for grant in again} == {5}
            return answers, entries

        answers, entries = asyncio.run(main())
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert {type(error) for error in failed} == {OutcomeUnknown}
        assert {each.request_id for each in answers if each not in failed} == entries
        assert 0 < len(entries) < 200

    def test_cancelling_a_caller_cancels_nobody_else(self, path: Path) -> None:
        """Who was cancelled before its turn is not done; the others of the batch are."""

        async def main() -> None:
            async with AsyncFreeTier(POLICY, AsyncSQLiteRepository(path)) as ledger:
                with held(path) as other:
                    first = asyncio.ensure_future(ledger.reserve(asked(0)))
                    await asyncio.sleep(0.05)  # it is under way
                    tasks = [asyncio.ensure_future(ledger.reserve(asked(n))) for n in range(1, 21)]
                    await asyncio.sleep(0)
                    for task in (first, *tasks[::2]):
                        task.cancel()
                    other.rollback()
                    for task in tasks[1::2]:
                        assert (await task).absorb_sats == 5
                drawn = {each.key async for each in ledger.journal() if each.kind is Kind.RESERVE}
                assert drawn == {f"job-{n}" for n in range(0, 21, 2)}
                assert [(await ledger.reserve(asked(n))).absorb_sats for n in range(20)] == [5] * 20

        asyncio.run(main())

    def test_a_file_that_stays_locked(self, path: Path) -> None:
        """Who would rather charge than fail is told so of each call of a batch."""

        async def main() -> list[Any]:
            store = AsyncSQLiteRepository(path, timeout_s=0.1)
            async with AsyncFreeTier(POLICY, store, on_unavailable="gate") as ledger:
                with held(path):
                    return await asyncio.gather(*(ledger.reserve(asked(n)) for n in range(9)))

        assert {grant.decision.bound_by for grant in asyncio.run(main())} == {Limit.UNAVAILABLE}

    def test_readers_do_not_wait(self, path: Path) -> None:
        """Calls that read together need no lock."""

        async def main() -> None:
            async with AsyncFreeTier(POLICY, AsyncSQLiteRepository(path, timeout_s=0)) as ledger:
                with held(path):
                    await asyncio.gather(*(ledger.decide(asked(n)) for n in range(9)))

        asyncio.run(main())

    def test_closing_ends_what_was_begun(self, path: Path) -> None:
        """Calls that wait when the ledger is closed are done before it is."""

        async def main() -> None:
            ledger = AsyncFreeTier(POLICY, AsyncSQLiteRepository(path))
            await ledger.__aenter__()
            with held(path) as other:
                tasks = [asyncio.ensure_future(ledger.reserve(asked(n))) for n in range(AT_ONCE)]
                await asyncio.sleep(0.05)
                closing_it = asyncio.ensure_future(ledger.close())
                await asyncio.sleep(0)
                other.rollback()
                await closing_it
            assert [(await task).absorb_sats for task in tasks] == [5] * AT_ONCE

        asyncio.run(main())


class TestThreads:
    """Threads of one ledger, on a file."""

    @staticmethod
    def together(path: Path, calls: Sequence[Callable[[], Any]]) -> Iterator[Callable[[], Any]]:
        """How each call ended: the first holds the others up, and the file's lock holds it up."""
        with ThreadPoolExecutor(len(calls)) as threads, held(path) as other:
            begun = []
            for call in calls:
                begun.append(threads.submit(call))
                time.sleep(0.002)  # so that they come in this order
            other.rollback()
            for future in begun:
                yield future.result

    def test_one_commit_for_many(self, path: Path) -> None:
        """What threads ask for while another writes is written by the next commit."""
        with freetier.open(path, POLICY) as ledger:
            before = commits(path)
            calls = [partial(ledger.reserve, asked(n)) for n in range(AT_ONCE)]
            answers = [answer() for answer in self.together(path, calls)]
            assert [grant.absorb_sats for grant in answers] == [5] * AT_ONCE
            assert commits(path) - before <= 3
            assert ledger.verify().ok

    def test_each_has_its_own_answer(self, path: Path) -> None:
        """What one thread's call raises is raised in that thread, and undoes nobody else's."""
        with freetier.open(path, POLICY) as ledger:
            calls: list[Callable[[], Any]] = [
                lambda: ledger.reserve(asked(0)),
                lambda: ledger.reserve(asked(1)),
                lambda: ledger.release("nobody's"),
                lambda: ledger.reserve(asked(2)),
            ]
            one, two, unknown, three = self.together(path, calls)
            with pytest.raises(freetier.UnknownRequest):
                unknown()
            assert [answer().absorb_sats for answer in (one, two, three)] == [5, 5, 5]
            assert ledger.pool_status().reserved_sats == 15

    @pytest.mark.timeout(40)  # one after the other they would take 80 seconds
    def test_a_file_that_stays_locked_refuses_each_in_its_own_time(self, path: Path) -> None:
        """A deadline counts from when a call came, not from its turn."""
        with FreeTier(POLICY, SQLiteRepository(path, timeout_s=2)) as ledger, held(path):
            with ThreadPoolExecutor(40) as threads:
                begun = [threads.submit(ledger.reserve, asked(n)) for n in range(40)]
            assert {type(future.exception()) for future in begun} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable, match="late"):
            Patience(2, since=time.monotonic() - 2).pause(StoreUnavailable("late"))

    def test_a_signal_in_the_middle_of_a_batch(self, path: Path) -> None:
        """What a signal handler asks for in its own thread's transaction is refused, not lost."""
        with freetier.open(path, POLICY) as ledger:
            refused: list[BaseException] = []

            def interrupted(store: Any) -> None:
                """Stands for a signal that comes between two statements."""
                try:
                    ledger.reserve(asked(7))
                except StoreUnavailable as error:
                    refused.append(error)

            odd = Operation(lambda: ask(interrupted), writes=True)
            calls: list[Callable[[], Any]] = [
                lambda: ledger.reserve(asked(0)),
                lambda: ledger.repository.perform(odd),
                lambda: ledger.reserve(asked(1)),
            ]
            for answer in self.together(path, calls):
                answer()
            assert len(refused) == 1
            assert {entry.key for entry in ledger.journal()} == {"seed", "job-0", "job-1"}


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

    def test_an_interrupted_leader_leaves_nobody_waiting(self) -> None:
        """Whom an interrupted leader took along is done by the next one."""
        leads: list[str] = []

        def together(first: Call[Any], others: Others[Any]) -> None:
            calls = [first, *others()]
            leads.append("together")
            if len(leads) == 1:
                raise KeyboardInterrupt
            for call in calls:
                call.attempt(partial(done_on, "together"))

        gathering = Gathering(alone, together)
        with ThreadPoolExecutor(4) as threads, busy(gathering, 3):
            begun = [threads.submit(gathering.do, giving(lambda store: store)) for _ in range(3)]
        ends = [future.exception() or future.result() for future in begun]
        assert sorted(map(type, ends), key=str) == [KeyboardInterrupt, str, str]
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

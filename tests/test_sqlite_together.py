"""Tasks and threads that ask one SQLite ledger at the same time, as if each were alone."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import freetier
from freetier import (
    AsyncFreeTier,
    Conflict,
    FreeTier,
    FreeTierPolicy,
    HostLimit,
    InvalidInput,
    Kind,
    Limit,
    OutcomeUnknown,
    Request,
    Snapshot,
    StoreUnavailable,
    _gathering,
)
from freetier._patience import Patience
from freetier._sql import Query
from freetier._sqlite_together import _Unsure
from freetier.repository import Deposit
from freetier.sqlite import AsyncSQLiteRepository, SQLiteRepository
from freetier.steps import Operation, ask

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

    def test_what_ends_threads_is_its_callers_own(self, path: Path) -> None:
        """An exception that is no `Exception` is one caller's; the ledger goes on."""

        async def main() -> list[Any]:
            store = AsyncSQLiteRepository(path)
            async with AsyncFreeTier(PANICKY, store) as ledger, asyncio.timeout(30):
                with held(path) as other:
                    names = ("first", "evil", "bob", "last")
                    calls = (Request(f"job-{name}", name, "elite", 5) for name in names)
                    tasks = [asyncio.ensure_future(ledger.reserve(call)) for call in calls]
                    await asyncio.sleep(0.05)
                    other.rollback()
                    answers = await asyncio.gather(*tasks, return_exceptions=True)
                assert (await ledger.reserve(asked(1))).absorb_sats == 5
                return answers

        first, evil, bob, last = asyncio.run(main())
        assert isinstance(evil, Panic)
        assert [grant.absorb_sats for grant in (first, bob, last)] == [5, 5, 5]

    def test_a_loop_that_ended_before_its_answers_came(self, path: Path) -> None:
        """The calls of the next loop get theirs."""
        store = AsyncSQLiteRepository(path, timeout_s=30)
        ledger = AsyncFreeTier(POLICY, store)
        with held(path) as other:

            async def first() -> None:
                await store.open()
                with suppress(TimeoutError):
                    await asyncio.wait_for(ledger.reserve(asked(1)), 0.1)

            async def second() -> int:
                task = asyncio.ensure_future(ledger.reserve(asked(2)))
                await asyncio.sleep(0.05)
                other.rollback()
                grant = await asyncio.wait_for(task, 30)
                await ledger.close()
                return grant.absorb_sats

            asyncio.run(first())
            assert asyncio.run(second()) == 5

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

    def test_threads_that_look_for_themselves(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To look before one is woken disturbs nobody: all are served, once."""
        monkeypatch.setattr(_gathering, "_LOOK_S", 0.000_5)

        def some(ledger: FreeTier, thread: int) -> int:
            numbers = range(thread * 20, thread * 20 + 20)
            return sum(ledger.reserve(asked(number)).absorb_sats for number in numbers)

        with freetier.open(path, POLICY) as ledger, ThreadPoolExecutor(40) as threads:
            assert list(threads.map(partial(some, ledger), range(40))) == [100] * 40
            assert ledger.pool_status().reserved_sats == 40 * 100
            assert ledger.verify().ok

    def test_what_ends_threads_is_its_callers_own(self, path: Path) -> None:
        """An exception that is no `Exception` is raised in its caller's thread."""
        with freetier.open(path, PANICKY) as ledger:
            calls = [
                partial(ledger.reserve, Request(f"job-{name}", name, "elite", 5))
                for name in ("first", "second", "evil", "last")
            ]
            *others, evil, last = self.together(path, calls)
            with pytest.raises(Panic):
                evil()
            assert [answer().absorb_sats for answer in (*others, last)] == [5, 5, 5]

    def test_an_outcome_that_stays_unknown(self, path: Path) -> None:
        """Once a batch's outcome is unknown, no failure after it says that nothing was written."""
        with SQLiteRepository(path, timeout_s=0) as store, held(path):
            ledger = FreeTier(POLICY, store)
            with pytest.raises(StoreUnavailable):
                ledger.donate("gift", 1)
            unsure = _Unsure(store, OutcomeUnknown("the batch"))
            with pytest.raises(OutcomeUnknown, match="the batch; tried again"):
                unsure.deposit(Deposit(Kind.DONATION, "gift", 1), None)

    def test_a_full_disk_does_not_settle_an_outcome(self, path: Path) -> None:
        """Nor does a disk that is full by then say it."""
        with SQLiteRepository(path) as store:
            pages = store.run(Query("PRAGMA page_count", {}, lambda rows: rows[0][0]))
            store.run(Query(f"PRAGMA max_page_count = {pages}", {}, len))
            unsure = _Unsure(store, OutcomeUnknown("the batch"))
            note = "n" * 256
            gifts = (Deposit(Kind.DONATION, f"g-{n}", 1, note=note) for n in range(1000))
            with pytest.raises(OutcomeUnknown, match="the batch; tried again"):
                deque((unsure.deposit(gift, None) for gift in gifts), 0)

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


class Panic(BaseException):
    """What some libraries raise, beyond all `Exception`s."""


def _panic(request: Request, _: Snapshot) -> None:
    if request.identity == "evil":
        raise Panic


PANICKY = evolve(POLICY, limits=(HostLimit("panic", _panic),))


def giving(step: Callable[[Any], Any]) -> Operation[Any]:
    return Operation(lambda: ask(step), writes=True)

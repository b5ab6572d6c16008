"""Callers of one ledger on Postgres that all are there before the first of them can write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from attrs import frozen
from psycopg.rows import TupleRow

from freetier import FreeTier, Request
from freetier.testing.async_contract import Blocking

from .drivers import Driver, opened

Call = Callable[[Any], Any]
"""What a caller asks of the ledger; an async one's answer is awaited."""
HOLD = "SELECT FROM freetier_pool FOR UPDATE"
THREADS = 40


@frozen
class Crowd:
    """A ledger, and a session of somebody else's that can hold its callers up."""

    ledger: FreeTier
    other: psycopg.Connection[TupleRow]
    threads: ThreadPoolExecutor

    def begin(self, call: Call) -> Future[Any]:
        """Ask, in a thread or a task of its own."""
        if isinstance(self.ledger, Blocking):
            return asyncio.run_coroutine_threadsafe(call(self.ledger.target), self.ledger.loop)
        return self.threads.submit(call, self.ledger)

    def in_order(self, calls: Sequence[Call]) -> list[Future[Any]]:
        """Ask one after the other: each waits, or has its answer, before the next one asks."""
        begun = []
        for call in calls:
            before = self.waiting() + self.blocked()
            begun.append(self.begin(call))
            while self.waiting() + self.blocked() == before and not begun[-1].done():
                time.sleep(0.000_5)
        return begun

    @contextmanager
    def held(self, statement: str = HOLD) -> Iterator[None]:
        """Nobody gets beyond a lock of the other session's, until the block ends."""
        with self.other.transaction():
            self.other.execute(statement)
            yield

    def under_way(self, call: Call) -> Future[Any]:
        """Ask, for what is held; what is asked for meanwhile comes together."""
        begun = self.begin(call)
        self.wait_for(1)
        return begun

    def wait_for(self, blocked: int) -> None:
        """Until so many back-ends wait for the other session."""
        while self.blocked() != blocked:
            time.sleep(0.000_5)

    def blocked(self) -> int:
        """How many back-ends wait for a lock."""
        self.other.execute("SELECT pg_stat_clear_snapshot()")  # kept through a transaction
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ((found,),) = self.other.execute(f"{query} AND datname = current_database()".encode())
        return int(found)

    def together(self, *calls: Call) -> list[Any]:
        """What each call gave or raised, the first of them being under way for the others."""
        with self.held():
            begun = [self.under_way(calls[0]), *self.in_order(calls[1:])]
        return [ended(future) for future in begun]

    def waiting(self) -> int:
        """How many callers wait for the one under way, of every kind."""
        ledger: Any = self.ledger.target if isinstance(self.ledger, Blocking) else self.ledger
        lanes: dict[str, Any] = ledger.repository._together._lanes
        return sum(len(lane._waiting) for lane in lanes.values())

    def commits(self, once: str) -> int:
        """How many transactions wrote the entries of which there is one a key and `once`."""
        query = "SELECT count(DISTINCT xmin::text) FROM freetier_journal WHERE once = %s"
        ((found,),) = self.other.execute(query, [once])
        return int(found)

    def keys(self, once: str = "draw") -> list[str]:
        """The keys of those entries, in order."""
        query = "SELECT key FROM freetier_journal WHERE once = %s ORDER BY seq"
        return [key for (key,) in self.other.execute(query, [once])]


def reserve(name: str, identity: str = "ada", tier: str = "elite", sats: int = 5) -> Call:
    return lambda ledger: ledger.reserve(Request(name, identity, tier, sats))


def ended(future: Future[Any]) -> Any:
    """What it gave, or what it raised."""
    error = future.exception(60)
    return future.result() if error is None else error


@contextmanager
def crowd(driver: Driver, dsn: str, timeout_s: float = 60) -> Iterator[Crowd]:
    """At a ledger of the driver's, seeded."""
    with (
        opened(driver, dsn, timeout_s=timeout_s) as ledger,
        closing(psycopg.connect(dsn, autocommit=True)) as other,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        yield Crowd(ledger, other, threads)

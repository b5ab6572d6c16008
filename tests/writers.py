"""Writers that race at one ledger: which database, through which door, in how many processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from attrs import frozen

import freetier
from freetier import AsyncFreeTier, FreeTier, FreeTierPolicy
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import PostgresRepository
from freetier.sqlite import SQLiteRepository

from .processes import at_once, together

T = TypeVar("T")
Clock = Callable[[], datetime] | None
Writer = Callable[[AsyncFreeTier, int], Awaitable[T]]
Contender = Callable[[AsyncFreeTier, int, int], Awaitable[object]]
PATIENCE_S = 60
Door = Callable[..., AbstractAsyncContextManager[AsyncFreeTier]]


def noon() -> datetime:
    """A clock that stands still: no race runs into midnight."""
    return datetime(2026, 1, 5, 12, tzinfo=UTC)


@asynccontextmanager
async def blocking(
    url: str, policy: FreeTierPolicy, clock: Clock = None
) -> AsyncIterator[AsyncFreeTier]:
    """`freetier.open`: SQLite, or Postgres through psycopg."""
    with freetier.open(url, policy, clock=clock) as ledger:
        yield cast("AsyncFreeTier", _Awaitable(ledger))


@asynccontextmanager
async def patient(
    url: str, policy: FreeTierPolicy, clock: Clock = None
) -> AsyncIterator[AsyncFreeTier]:
    """As `blocking`, with more processes than a machine that is busy serves in 5 seconds."""
    store = PostgresRepository if url.startswith("postgresql:") else SQLiteRepository
    with store(url, timeout_s=PATIENCE_S) as repository:
        ledger = FreeTier(policy, repository, clock=clock)
        ledger.seed()
        yield cast("AsyncFreeTier", _Awaitable(ledger))


def awaited(
    url: str, policy: FreeTierPolicy, clock: Clock = None, schema: str | None = None
) -> AbstractAsyncContextManager[AsyncFreeTier]:
    """`freetier.open_async`: the same, for async code."""
    return freetier.open_async(url, policy, clock=clock, schema=schema)


@asynccontextmanager
async def asyncpg(
    url: str,
    policy: FreeTierPolicy,
    clock: Clock = None,
    schema: str | None = None,
    timeout_s: float = 5,
) -> AsyncIterator[AsyncFreeTier]:
    """Postgres through asyncpg."""
    async with AsyncpgRepository(url, schema=schema, timeout_s=timeout_s) as repository:
        ledger = AsyncFreeTier(policy, repository, clock=clock)
        await ledger.seed()
        yield ledger


class _Awaitable:
    """A blocking ledger whose methods can be awaited, so that each writer is written once."""

    def __init__(self, ledger: FreeTier) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **options: Any) -> Any:
            return method(*args, **options)

        return call


@frozen
class Race:
    """So many processes, each with so many tasks, at the ledger of a URL."""

    url: str
    door: Door
    processes: int
    tasks: int

    @property
    def writers(self) -> int:
        return self.processes * self.tasks

    def writers_of(self, process: int) -> range:
        """Which writers are that process' tasks."""
        return range(process * self.tasks, (process + 1) * self.tasks)

    def run(self, write: Writer[T], policy: FreeTierPolicy, clock: Clock = noon) -> list[T]:
        """What each writer gave: `write(ledger, me)`, with `me` from 0."""
        work = partial(_in_process, self, write, policy, clock)
        return [given for process in at_once(work, self.processes) for given in process]

    def run_each(self, write: Contender, times: int, policy: FreeTierPolicy) -> None:
        """Each writer does `write(ledger, number, me)`; for each number all begin together."""
        at_once(partial(_one_by_one, self, write, times, policy), self.processes)

    def ledger(self, policy: FreeTierPolicy) -> FreeTier:
        """The ledger, to prepare it or to look at it."""
        return freetier.open(self.url, policy, clock=noon)


def _in_process(
    race: Race, write: Writer[T], policy: FreeTierPolicy, clock: Clock, me: int
) -> list[T]:
    async def writers() -> list[T]:
        async with race.door(race.url, policy, clock) as ledger:
            return await asyncio.gather(*(write(ledger, writer) for writer in race.writers_of(me)))

    return asyncio.run(writers())


def _one_by_one(race: Race, write: Contender, times: int, policy: FreeTierPolicy, me: int) -> None:
    async def writers() -> None:
        async with race.door(race.url, policy, noon) as ledger:
            for number in range(times):
                together()
                await asyncio.gather(
                    *(write(ledger, number, writer) for writer in race.writers_of(me))
                )

    asyncio.run(writers())

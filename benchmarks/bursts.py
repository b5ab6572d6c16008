"""Many callers in one process, who reserve at the same time: tasks, or threads."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from attrs import define, field

import freetier
from benchmarks.ledgers import POLICY, Key, ordered_keys, requests
from benchmarks.measure import Sample, Subjects
from freetier import AsyncFreeTier, FreeTier, Grant, Request
from freetier.errors import StoreUnavailable

CALLERS = (4, 16, 64)
CALLS = 640
THREAD_CALLS = 192
"""Fewer: threads on one SQLite file are slow, the more of them the slower."""
ONE = "one caller"

AsyncCall = Callable[[], Awaitable[object]]


@define
class Tasks:
    """A crowd of tasks, each with its own way to reserve; they share so many calls.

    As a sample it gives seconds a call, of them all together. `waits_s` has the 99th of 100 waits
    for an answer, one a measurement.
    """

    runner: asyncio.Runner
    callers: Sequence[AsyncCall]
    calls: int = CALLS
    waits_s: list[float] = field(factory=list)

    def __call__(self) -> float:
        """Measure once."""
        waits: list[float] = []
        started = time.perf_counter()
        self.runner.run(self._all(waits))
        took = time.perf_counter() - started
        self.waits_s.append(statistics.quantiles(waits, n=100)[-1])
        return took / len(waits)

    async def _all(self, waits: list[float]) -> None:
        each = self.calls // len(self.callers)
        async with asyncio.TaskGroup() as group:
            for caller in self.callers:
                group.create_task(self._one(caller, each, waits))

    async def _one(self, caller: AsyncCall, calls: int, waits: list[float]) -> None:
        for _ in range(calls):
            started = time.perf_counter()
            await caller()
            waits.append(time.perf_counter() - started)


def reserving(ledger: AsyncFreeTier, key: Key) -> AsyncCall:
    """A caller who reserves, each time something else."""
    request = requests(key)
    return lambda: ledger.reserve(request())


def patient_reserve(ledger: FreeTier, request: Request) -> Grant:
    """A caller who is told that the store is busy asks again, and the time counts."""
    while True:
        with suppress(StoreUnavailable):
            return ledger.reserve(request)


def threads(ledger: FreeTier, callers: int, key: Key) -> Sample:
    """So many threads that share the calls; seconds a call, of them all together."""
    request = requests(key)

    def measure() -> float:
        ready = [request() for _ in range(THREAD_CALLS)]
        with ThreadPoolExecutor(callers) as pool:
            started = time.perf_counter()
            list(pool.map(partial(patient_reserve, ledger), ready))
            return (time.perf_counter() - started) / THREAD_CALLS

    return measure


@contextmanager
def opened(runner: asyncio.Runner, url: str, schema: str | None) -> Iterator[AsyncFreeTier]:
    """A ledger of the runner's loop."""
    opening = freetier.open_async(url, POLICY, schema=schema)
    ledger = runner.run(opening.__aenter__())
    try:
        yield ledger
    finally:
        runner.run(ledger.close())


@contextmanager
def everyone(url: str, schema: str | None = None) -> Iterator[Subjects]:
    """What is measured on every store: one blocking caller, then tasks, then threads.

    Blocking callers and tasks have connections of their own to the same ledger.
    """
    subjects, key = Subjects(), ordered_keys()
    with (
        asyncio.Runner() as runner,
        freetier.open(url, POLICY, schema=schema) as blocking,
        opened(runner, url, schema) as ledger,
    ):
        subjects.add(ONE, threads(blocking, 1, key))
        for number in CALLERS:
            subjects.add(f"{number} threads", threads(blocking, number, key))
        for number in (1, *CALLERS):
            subjects.add(_tasks(number), Tasks(runner, [reserving(ledger, key)] * number))
        yield subjects


def names() -> list[str]:
    """What `everyone` adds, without the one that the others are compared with."""
    return [*map(_tasks, (1, *CALLERS)), *(f"{number} threads" for number in CALLERS)]


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"

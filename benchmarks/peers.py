"""The peers, from their released packages, each doing one hit as its own documents show it.

They count requests and we count sats: theirs is the smaller job. snipz reserves over two scopes,
which is the same job. A peer that is not there raises `LeftOut`; it is never guessed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Call, LeftOut, Sample, timed

NEVER_FULL = 10**9
HITS = 4_000
"""In memory: so many in a row that what a peer does by time, as every 10 ms, has its usual part."""
A_DAY_MS = 24 * 3600 * 1000
SNIPZ_SINCE = (3, 13)


def opened(
    stack: ExitStack, peer: AbstractContextManager[Call], calls: int
) -> Callable[[], Sample]:
    """Opens a peer for as long as `stack` is, when it is called; the sample of its calls."""
    return lambda: timed(stack.enter_context(peer), calls)


def limits_in_memory() -> Call:
    """One hit of `limits`, in its fastest strategy."""
    limits = _installed("limits")
    storage = _installed("limits.storage").MemoryStorage()
    limiter = _installed("limits.strategies").FixedWindowRateLimiter(storage)
    item = limits.RateLimitItemPerDay(NEVER_FULL)
    return lambda: limiter.hit(item, "id-1")


def throttled_in_memory() -> Call:
    """One `limit` of throttled-py, as it comes: a token bucket."""
    throttled = _installed("throttled")
    limiter = throttled.Throttled(
        quota=throttled.per_day(NEVER_FULL), store=throttled.MemoryStore()
    )
    return lambda: limiter.limit("id-1")


@contextmanager
def pyrate_in_memory() -> Iterator[Call]:
    """One `try_acquire` of pyrate-limiter, on its own memory."""
    pyrate = _installed("pyrate_limiter")
    with pyrate.Limiter(pyrate.Rate(NEVER_FULL, A_DAY_MS)) as limiter:
        yield lambda: limiter.try_acquire("id-1")


@contextmanager
def pyrate_on_sqlite(path: Path, entries: int, *, file_lock: bool) -> Iterator[Call]:
    """One `try_acquire` in a file that has so many hits of the day.

    With its file lock it uses WAL and waits for the disk at checkpoints alone; without, it writes
    a rollback journal and waits each time.
    """
    pyrate = _installed("pyrate_limiter")
    if file_lock:
        _installed("filelock")
    rates = [pyrate.Rate(NEVER_FULL, A_DAY_MS)]
    bucket = pyrate.SQLiteBucket.init_from_file(rates, db_path=str(path), use_file_lock=file_lock)
    with pyrate.Limiter(bucket) as limiter:
        limiter.try_acquire("id-1", weight=entries)
        yield lambda: limiter.try_acquire("id-1")


@contextmanager
def pyrate_on_postgres(url: str, entries: int) -> Iterator[Call]:
    """One `try_acquire` in a database that has so many hits of the day."""
    pyrate = _installed("pyrate_limiter")
    pool_of = _installed("psycopg_pool").ConnectionPool
    rates = [pyrate.Rate(NEVER_FULL, A_DAY_MS)]
    with (
        pool_of(url, min_size=1, max_size=1) as pool,
        pyrate.Limiter(pyrate.PostgresBucket(pool, "freetier_benchmark", rates)) as limiter,
    ):
        for written in range(0, entries, 1_000):  # its weights are small integers
            limiter.try_acquire("id-1", weight=min(1_000, entries - written))
        yield lambda: limiter.try_acquire("id-1")


@contextmanager
def snipz(where: str | Path, entries: int) -> Iterator[Call]:
    """One reserve over two scopes, an identity's and its tier's, with so many before it."""
    if sys.version_info < SNIPZ_SINCE:
        raise LeftOut("snipz needs Python 3.13")
    package = _installed("snipz")
    if not isinstance(where, Path):
        _installed("asyncpg")
    scopes = [package.Scope("user", "id-1"), package.Scope("tier", "elite")]
    budget = package.Budget(where)
    one = Decimal(1)
    with asyncio.Runner() as runner:

        async def ready() -> None:
            await budget.migrate()
            for scope in scopes:
                await budget.set_limit(scope, Decimal(NEVER_FULL))
            for _ in range(entries):
                await budget.reserve(scopes, one)

        try:
            runner.run(ready())
            yield lambda: runner.run(budget.reserve(scopes, one))
        finally:
            runner.run(budget.close())


def _installed(module: str) -> Any:
    """The module, by its name: so nothing of a peer is needed where it is not measured."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise LeftOut(f"{error.name} is not installed: pip install 'freetier[bench]'") from error

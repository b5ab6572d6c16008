"""Callers whose statements are merged, and a server that stops, a fork, a host's connection."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any, cast

import asyncpg
import psycopg
import pytest
from attrs import evolve

from freetier import AsyncFreeTier, FreeTier, OutcomeUnknown, StoreUnavailable
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import PostgresRepository
from freetier.testing.async_contract import Blocking, blocking

from .crowd import HOLD, crowd, ended, reserve
from .drivers import POLICY, Driver, every_driver, job, opened
from .postgres_server import OwnServer, server

CALLERS = 16


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    """A server that the tests may stop."""
    with server() as own:
        yield own


def reserve_until_refused(ledger: FreeTier, me: int, acknowledged: list[str]) -> str:
    """The key of the call that failed."""
    for number in count():
        key = f"{me}-{number}"
        try:
            ledger.reserve(job(key))
        except (StoreUnavailable, OutcomeUnknown):
            return key
        acknowledged.append(key)
    raise AssertionError


@every_driver
def test_a_server_that_stops(own: OwnServer, driver: Driver) -> None:
    """What was acknowledged is there after a crash; of all else the same key tells the truth."""
    dsn, acknowledged = own.create(), list[str]()
    with (
        opened(driver, dsn, timeout_s=1) as ledger,
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        begun = [
            threads.submit(reserve_until_refused, ledger, me, acknowledged) for me in range(CALLERS)
        ]
        while len(acknowledged) < 20 * CALLERS and not any(each.done() for each in begun):
            pass
        own.stop("immediate")
        refused = [each.result() for each in begun]
        own.restart("immediate")
        with opened(driver, dsn, timeout_s=60) as again:
            written = {entry.key for entry in again.journal(after=1)}
            assert written >= set(acknowledged)
            assert written <= {*acknowledged, *refused}
            assert [again.reserve(job(key)).absorb_sats for key in refused] == [5] * CALLERS
            drawn = [entry.key for entry in again.journal(after=1)]
            assert sorted(drawn) == sorted([*acknowledged, *refused])
            assert again.verify().ok


@every_driver
def test_a_server_that_stops_while_callers_wait(own: OwnServer, driver: Driver) -> None:
    """Each of those who wait for the one under way is told that the server is gone."""
    dsn = own.create()
    with opened(driver, dsn):
        pass
    names = [f"job-{number}" for number in range(9)]
    with crowd(driver, dsn, timeout_s=2) as callers:
        callers.other.execute("BEGIN")
        callers.other.execute(HOLD)
        begun = [callers.under_way(reserve("job-0"))]
        begun += callers.in_order([reserve(name) for name in names[1:]])
        own.stop("immediate")
        assert {type(ended(future)) for future in begun} <= {StoreUnavailable, OutcomeUnknown}
        own.restart("immediate")
        assert [callers.ledger.reserve(job(name)).absorb_sats for name in names] == [5] * 9
        assert [entry.key for entry in callers.ledger.journal(after=1)] == names


FORK = """
import asyncio, os, sys, threading, time
import psycopg
from freetier import AsyncFreeTier, ConfigError, FreeTier, FreeTierPolicy, Request
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository

POLICY = FreeTierPolicy(budgets={"elite": 1000})
other = psycopg.connect(sys.argv[1])

def job(name):
    return Request(name, "ada", "elite", 5)

def blocked():
    waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    other.execute("SELECT pg_stat_clear_snapshot()")
    return other.execute(waits).fetchone() is not None

def in_a_child(*uses):
    child = os.fork()
    if child == 0:
        for use in uses:
            try:
                use()
            except ConfigError as error:
                if "before the fork" in str(error):
                    continue
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0

def hold():
    other.execute("SELECT FROM freetier_pool FOR UPDATE")

def blocking():
    with PostgresRepository(sys.argv[1]) as repository:
        ledger = FreeTier(POLICY, repository)
        ledger.seed()
        ledger.reserve(job("before"))
        hold()
        threads = [threading.Thread(target=ledger.reserve, args=[job(f"t{n}")]) for n in range(3)]
        for thread in threads:
            thread.start()
        while not blocked():
            pass
        in_a_child(
            lambda: ledger.reserve(job("child")),
            lambda: ledger.settle("before"),
            lambda: ledger.decide(job("child")),
        )
        other.rollback()
        for thread in threads:
            thread.join()
        assert ledger.reserve(job("after")).absorb_sats == 5

async def tasks(driver):
    async with driver(sys.argv[1]) as repository:
        ledger = AsyncFreeTier(POLICY, repository)
        await ledger.seed()
        hold()
        name = driver.__name__
        begun = [asyncio.ensure_future(ledger.reserve(job(f"{name}{n}"))) for n in range(3)]
        while not blocked():
            await asyncio.sleep(0.001)
        in_a_child(
            lambda: ledger.reserve(job("child")).send(None),
            lambda: ledger.settle("before").send(None),
            lambda: ledger.decide(job("child")).send(None),
        )
        other.rollback()
        assert [grant.absorb_sats for grant in await asyncio.gather(*begun)] == [5] * 3

blocking()
asyncio.run(tasks(AsyncPostgresRepository))
asyncio.run(tasks(AsyncpgRepository))
other.close()
"""


def test_a_fork_in_the_middle(postgres_dsn: str) -> None:
    """A child is refused at once, and waits for no call that its parent had under way."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run([*command, postgres_dsn], check=False, timeout=60, capture_output=True)
    assert (done.returncode, done.stderr.decode()) == (0, "")


@contextmanager
def on_a_hosts_connection(driver: Driver, dsn: str) -> Iterator[FreeTier]:
    """A ledger on a connection that commits each statement."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        if driver is AsyncpgRepository:
            connection = await asyncpg.connect(dsn)
        else:
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        yield driver(connection)
        await connection.close()

    if driver is PostgresRepository:
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield FreeTier(POLICY, PostgresRepository(connection))
    else:
        with blocking(opening()) as face:
            yield cast("FreeTier", Blocking(AsyncFreeTier(POLICY, face.target), face.loop))


@every_driver
def test_a_hosts_own_connection(postgres_dsn: str, driver: Driver) -> None:
    """On a host's connection each call is a statement of its own, whoever else waits for it."""
    with (
        crowd(driver, postgres_dsn) as others,
        on_a_hosts_connection(driver, postgres_dsn) as ledger,
    ):
        callers = evolve(others, ledger=ledger)
        with callers.held():
            begun = [callers.under_way(reserve("job-0"))]
            begun += [callers.begin(reserve(f"job-{number}")) for number in range(1, 8)]
        assert [ended(future).absorb_sats for future in begun] == [5] * 8
        assert callers.commits("draw") == 8

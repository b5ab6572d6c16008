"""A primary and its standby: what is kept when the primary is lost, and what callers are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest

import freetier
from freetier import (
    AsyncFreeTier,
    FreeTier,
    FreeTierPolicy,
    Grant,
    Kind,
    OutcomeUnknown,
    Request,
    Settlement,
    StoreReadOnly,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.testing.async_contract import Blocking, blocking
from tests import writers
from tests.postgres_server import database_name
from tests.processes import at_once
from tests.replication import Pair, hanging, pair

pytestmark = pytest.mark.replication

T = TypeVar("T")
Driver = Callable[..., Any]

POLICY = FreeTierPolicy(budgets={"elite": 1_000_000}, seed_sats=1_000_000)
AGAIN = (StoreUnavailable, OutcomeUnknown, StoreReadOnly)
WORKERS = 6
JOBS = 150
SHORT_S = 1.0
"""How long the calls of these tests wait, when it is for nothing."""

every_driver = pytest.mark.parametrize(
    "driver", [PostgresRepository, AsyncPostgresRepository, AsyncpgRepository]
)


def job(name: str) -> Request:
    return Request(name, "ada", "elite", 5)


@pytest.fixture(scope="module")
def kept() -> Iterator[Pair]:
    """A pair whose standby is synchronous, for tests that lose neither."""
    with pair() as both:
        both.make_synchronous()
        yield both


@pytest.fixture
def dsn(kept: Pair) -> Iterator[str]:
    dsn = kept.primary.create()
    with freetier.open(dsn, POLICY):
        yield dsn
    kept.primary.drop(database_name(dsn))


@contextmanager
def opened(driver: Driver, dsn: str, timeout_s: float = SHORT_S) -> Iterator[Any]:
    """The ledger through that driver, blocking."""
    store = driver(dsn, timeout_s=timeout_s)
    if driver is PostgresRepository:
        with store:
            yield FreeTier(POLICY, store)
    else:
        with blocking(store) as face:
            yield Blocking(AsyncFreeTier(POLICY, face.target), face.loop)


@every_driver
def test_a_standby_that_does_not_answer(kept: Pair, dsn: str, driver: Driver) -> None:
    """A write that the synchronous standby does not have is not acknowledged, and others wait."""
    with opened(driver, dsn) as ledger:
        with kept.stalled():
            with pytest.raises(OutcomeUnknown):
                ledger.reserve(job("one"))
            with pytest.raises(StoreUnavailable):
                ledger.reserve(job("other"))
            assert ledger.pool_status().reserved_sats == 0
        assert ledger.reserve(job("one")).absorb_sats == 5
        assert ledger.pool_status().reserved_sats == 5


def cancelled_by_an_operator(ledger: Any, both: Pair) -> None:
    """Reserve job one; the wait for the standby is cancelled on the server."""
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(ledger.reserve, job("one"))
        while not call.done():
            both.cancel_waits()
    assert isinstance(call.exception(), OutcomeUnknown)


@every_driver
def test_a_wait_that_is_cancelled(kept: Pair, dsn: str, driver: Driver) -> None:
    """Who cancels the wait for the standby does not make the write acknowledged."""
    with opened(driver, dsn, 2) as ledger:
        with kept.stalled():
            cancelled_by_an_operator(ledger, kept)
        assert ledger.reserve(job("one")).absorb_sats == 5
        assert ledger.pool_status().reserved_sats == 5


@every_driver
def test_a_server_that_hangs(kept: Pair, dsn: str, driver: Driver) -> None:
    """A server that neither answers nor hangs up is given up in time, and asked again later."""
    with opened(driver, dsn) as ledger:
        ledger.reserve(job("before"))
        with hanging(kept.primary), pytest.raises(StoreUnavailable):
            ledger.pool_status()
        assert ledger.reserve(job("after")).absorb_sats == 5


@every_driver
def test_a_server_that_hangs_in_a_write(kept: Pair, dsn: str, driver: Driver) -> None:
    """What was sent to a server that hangs may be written yet; the same key writes it once."""
    with opened(driver, dsn) as ledger:
        ledger.pool_status()  # so that there is a connection
        with hanging(kept.primary), pytest.raises(OutcomeUnknown, match="same key"):
            ledger.donate("gift", 1)
        assert ledger.donate("gift", 1).balance_change == 1
        assert [entry.kind for entry in ledger.journal()] == [Kind.SEED, Kind.DONATION]
        assert ledger.verify().ok


@pytest.fixture
def lost() -> Iterator[Pair]:
    """A pair whose primary the test may lose; its standby is asynchronous."""
    with pair() as both:
        yield both


@every_driver
def test_what_a_caller_meets(lost: Pair, driver: Driver) -> None:
    """The moments of a failover, and what a caller is told in each; the same keys then do."""
    lost.make_synchronous()
    with opened(driver, lost.primary.dsn()) as ledger:
        seed = ledger.seed()
        held = ledger.reserve(job("held"))
        lost.catch_up()
        with opened(driver, lost.standby.dsn()) as standby:
            assert standby.seed() == seed
            assert standby.grant("held") == held
            assert standby.pool_status().reserved_sats == 5
            assert standby.verify().entries == 2
            with pytest.raises(StoreReadOnly):
                standby.reserve(job("new"))
            lost.lose_primary()
            with pytest.raises(StoreUnavailable):
                ledger.reserve(job("new"))
            with pytest.raises(StoreReadOnly):
                standby.reserve(job("new"))
            lost.promote()
            assert standby.reserve(job("new")).absorb_sats == 5
            assert standby.reserve(job("held")) == held
            assert standby.settle("held", 2).absorbed_sats == 2
            assert standby.verify().ok


async def surely(call: Callable[[], Awaitable[T]]) -> T:
    """What the call gives in the end; with the same key after each error that allows it."""
    while True:
        try:
            return await call()
        except AGAIN:
            continue


async def work(ledger: AsyncFreeTier, me: int) -> list[tuple[Grant, Settlement]]:
    """Jobs one after the other; what was acknowledged of each."""
    done = []
    for number in range(JOBS):
        request = Request(f"job-{me}-{number}", f"id-{me}", "elite", 5)
        grant = await surely(partial(ledger.reserve, request))
        done.append((grant, await surely(partial(ledger.settle, request.request_id, 2))))
    return done


def work_on(dsn: str, me: int) -> list[tuple[Grant, Settlement]]:
    """`work`, in a process of its own, through another driver than the next process."""
    logging.disable()  # drivers log each connection that they lose
    door = (writers.blocking, writers.awaited, writers.asyncpg)[me % 3]

    async def main() -> list[tuple[Grant, Settlement]]:
        async with door(dsn, POLICY, None) as ledger:
            return await work(ledger, me)

    return asyncio.run(main())


def test_nothing_acknowledged_is_lost(lost: Pair) -> None:
    """A synchronous standby takes over from a primary lost under load with all that counted."""
    lost.make_synchronous()
    dsn = lost.dsn("postgres")
    with freetier.open(dsn, POLICY), ThreadPoolExecutor(1) as thread:
        working = thread.submit(at_once, partial(work_on, dsn), WORKERS)
        with opened(PostgresRepository, lost.primary.dsn()) as ledger:
            while ledger.repository.books().seq < WORKERS * JOBS // 2:
                assert not working.done(), working.result()
        lost.lose_primary()
        with pytest.raises(StoreUnavailable), opened(PostgresRepository, dsn):
            pass
        lost.promote()
        acknowledged = [job for jobs in working.result() for job in jobs]
    with opened(PostgresRepository, lost.standby.dsn()) as ledger:
        assert ledger.verify().ok
        entries = {(entry.kind, entry.key): entry for entry in ledger.journal()}
        assert len(entries) == ledger.verify().entries == 1 + 2 * len(acknowledged)
        for grant, settlement in acknowledged:
            reserved = entries[Kind.RESERVE, grant.request_id]
            settled = entries[Kind.SETTLE, grant.request_id]
            assert (reserved.at, reserved.absorb_sats) == (grant.reserved_at, grant.absorb_sats)
            assert (settled.absorb_sats, settlement.absorbed_sats) == (2, 2)


def test_an_asynchronous_standby_loses(lost: Pair) -> None:
    """What the standby had not received is gone, acknowledged or not; its key starts anew."""
    with opened(PostgresRepository, lost.primary.dsn()) as ledger:
        ledger.seed()
        ledger.record_grant(job("kept"))
        lost.catch_up()
        with lost.stalled():
            assert ledger.record_grant(job("paid")).absorb_sats == 5
            ledger.reserve(job("held"))
            lost.lose_primary()
    lost.promote()
    with opened(PostgresRepository, lost.standby.dsn()) as ledger:
        assert [entry.key for entry in ledger.journal()] == ["seed", "kept"]
        with pytest.raises(UnknownRequest):
            ledger.settle("held")
        assert ledger.record_grant(job("paid")).absorb_sats == 5  # the pool pays for it twice
        assert ledger.verify().ok
        assert ledger.pool_status().balance_sats == 1_000_000 - 5 - 5
    lost.primary.restart("immediate")
    with opened(PostgresRepository, lost.primary.dsn()) as ledger:
        assert [entry.key for entry in ledger.journal(after=2)] == ["paid", "held"]


def cancelled_with_its_task(ledger: Any, lost: Pair) -> None:
    """Reserve job one in a task that is cancelled while it waits for the standby."""

    async def start_and_cancel() -> None:
        task = asyncio.create_task(ledger.target.reserve(job("one")))
        while not lost.waits() and not task.done():
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    ledger.wait(start_and_cancel())


@pytest.mark.parametrize(
    ("driver", "cancelled"),
    [
        (PostgresRepository, cancelled_by_an_operator),
        (AsyncPostgresRepository, cancelled_with_its_task),
        (AsyncpgRepository, cancelled_with_its_task),
    ],
)
def test_what_was_cancelled_may_be_lost(
    lost: Pair, driver: Driver, cancelled: Callable[[Any, Pair], None]
) -> None:
    """A cancelled wait leaves an entry that the primary shows and the standby never had."""
    lost.make_synchronous()
    with opened(driver, lost.primary.dsn()) as ledger:
        ledger.seed()
        with lost.stalled():
            cancelled(ledger, lost)
            assert ledger.grant("one").absorb_sats == 5
            lost.lose_primary()
    lost.promote()
    with opened(driver, lost.standby.dsn()) as ledger:
        with pytest.raises(UnknownRequest):
            ledger.grant("one")
        assert ledger.verify().ok


def test_a_clock_that_is_behind(lost: Pair) -> None:
    """Where the lost primary's clock was ahead, time stands still until the new one's is there."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    with PostgresRepository(lost.primary.dsn()) as repository:
        FreeTier(POLICY, repository, clock=lambda: ahead).seed()
        lost.catch_up()
    lost.lose_primary()
    lost.promote()
    with opened(PostgresRepository, lost.standby.dsn()) as ledger:
        grant = ledger.reserve(job("one"))
        assert grant.reserved_at == ahead
        assert grant.expires_at == ahead + timedelta(minutes=15)
        assert ledger.verify().ok

"""Many writers, one ledger: never over a limit, one answer a request, and nobody starves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from freetier import (
    AsyncFreeTier,
    Conflict,
    Credit,
    Entry,
    FreeTierPolicy,
    Grant,
    Kind,
    Request,
    Serve,
)

from .figures import Count
from .writers import PATIENCE_S, Door, Race, asyncpg, awaited, blocking, noon, patient

FIFTY_EACH = FreeTierPolicy(budgets={"trusted": 50}, seed_sats=1_000_000)
ANY = FreeTierPolicy()

RACES: dict[str, tuple[Door, int, int]] = {
    "sqlite-8": (blocking, 8, 1),
    "sqlite-32": (patient, 32, 1),
    "sqlite-async-2x16": (awaited, 2, 16),
    "psycopg-8": (blocking, 8, 1),
    "psycopg-32": (patient, 32, 1),
    "psycopg-async-2x16": (awaited, 2, 16),
    "asyncpg-8": (asyncpg, 8, 1),
    "asyncpg-32": (partial(asyncpg, timeout_s=PATIENCE_S), 32, 1),
    "asyncpg-2x16": (asyncpg, 2, 16),
}
"""Which door, how many processes, how many tasks in each. Every process has connections of its
own: one, or, for many tasks, up to 10."""


def each(every_day: Callable[[str], bool]) -> list[Any]:
    """All races, of which only these are run every day."""
    return [
        name if every_day(name) else pytest.param(name, marks=pytest.mark.slow) for name in RACES
    ]


@pytest.fixture(params=each(lambda name: not name.endswith("-32")))
def race(request: pytest.FixtureRequest, tmp_path: Path) -> Race:
    """Writers at a ledger that nobody has made yet."""
    name: str = request.param
    url = (
        str(tmp_path / "ledger.db") if "sqlite" in name else request.getfixturevalue("postgres_dsn")
    )
    return Race(url, *RACES[name])


def drawn(race: Race, of: Callable[[Entry], str | None]) -> Counter[str | None]:
    """Sats drawn, added up by `of`, once the books are proved."""
    with race.ledger(ANY) as ledger:
        assert ledger.verify().ok
        total: Counter[str | None] = Counter()
        for entry in ledger.journal():
            total[of(entry)] += entry.used_change
        return +total


async def draw_for_the_same(ledger: AsyncFreeTier, number: int, me: int) -> None:
    await ledger.reserve(Request(f"job-{number}-{me}", f"id-{number}", "trusted", 30))


@pytest.mark.parametrize(
    "race", each(lambda name: name.endswith("-8") or name == "sqlite-async-2x16"), indirect=True
)
def test_a_fresh_identitys_budget(race: Race, count_of: Count) -> None:
    """All ask 30 of 50 sats for the same new identity at once: it gets 50, and none more."""
    identities = 2400 // race.writers
    race.run_each(draw_for_the_same, identities, FIFTY_EACH)
    assert drawn(race, lambda entry: entry.identity) == {f"id-{n}": 50 for n in range(identities)}
    store = "Postgres" if race.url.startswith("postgresql:") else "SQLite"
    count_of(f"races for a fresh budget on {store}", identities)


async def ask_the_same(ledger: AsyncFreeTier, _: int) -> list[Grant]:
    requests = [Request(f"job-{number}", "ab", "trusted", 15) for number in range(20)]
    return [await ledger.reserve(request) for request in requests]


def test_one_request_from_everywhere(race: Race) -> None:
    """All with the same request at once get the equal grant, which was written once."""
    first, *others = race.run(ask_the_same, ANY)
    assert others == [first] * len(others)
    with race.ledger(ANY) as ledger:
        assert [entry.kind for entry in ledger.journal(after=1)] == [Kind.RESERVE] * 14


async def give_and_ask(requests: int, ledger: AsyncFreeTier, me: int) -> list[Grant]:
    given = []
    for number in range(requests):
        if me == 0 and number % 2 == 0:
            await ledger.donate(f"gift-{number}", 1)
        given.append(await ledger.reserve(Request(f"job-{number}", "ab", "elite", 1)))
    return given


def test_a_gate_against_a_draw(race: Race) -> None:
    """All ask the same while sats trickle in: what some see gated, others drawn, ends as one."""
    requests = 960 // race.writers
    write = partial(give_and_ask, requests)
    first, *others = race.run(write, FreeTierPolicy(seed_sats=0), clock=None)
    assert others == [first] * len(others)
    drawn_for = [grant.request_id for grant in first if grant.decision.serve is Serve.FREE]
    assert len(drawn_for) <= requests / 2
    with race.ledger(ANY) as ledger:
        assert ledger.verify().ok
        assert [entry.key for entry in ledger.journal() if entry.kind is Kind.RESERVE] == drawn_for
        assert [ledger.grant(grant.request_id) for grant in first] == first


async def draw_sevens(ledger: AsyncFreeTier, me: int) -> None:
    for number in range(10):
        await ledger.reserve(Request(f"job-{number}-{me}", f"id-{number}-{me}", "elite", 7))


@pytest.mark.parametrize(
    "policy",
    [
        FreeTierPolicy(seed_sats=100),
        FreeTierPolicy(seed_sats=150, floor_sats=50),
        FreeTierPolicy(tier_ceilings={"elite": 100}),
        FreeTierPolicy(daily_release_sats=100),
    ],
    ids=["pool", "floor", "ceiling", "release"],
)
def test_the_last_sats_of_all(race: Race, policy: FreeTierPolicy) -> None:
    """Writers that draw 7 at a time from 100 sats, for everybody, get 100 and no more."""
    race.run(draw_sevens, policy)
    assert drawn(race, lambda _: None) == {None: 100}


async def settle_at_me(ledger: AsyncFreeTier, me: int) -> list[int]:
    won = []
    for number in range(10):
        await ledger.reserve(Request(f"job-{number}", "ab", "trusted", 20))
        try:
            await ledger.settle(f"job-{number}", me)
        except Conflict:
            continue
        won.append(number)
    return won


def test_one_ending(race: Race) -> None:
    """Of writers that settle at different costs one wins; the others meet a Conflict."""
    won = race.run(settle_at_me, ANY)
    assert sorted(number for numbers in won for number in numbers) == list(range(10))
    with race.ledger(ANY) as ledger:
        assert ledger.verify().ok
        for me, numbers in enumerate(won):
            for number in numbers:
                settlement = ledger.grant(f"job-{number}").settlement
                assert settlement is not None
                assert settlement.actual_sats == me


async def credit_nines(ledger: AsyncFreeTier, _: int) -> list[Credit]:
    return [await ledger.credit(f"hash-{number}", 9) for number in range(20)]


def test_one_credit_a_payment(race: Race) -> None:
    """The paid notification that reaches all is credited once, the remainder carried."""
    first, *others = race.run(credit_nines, FreeTierPolicy(seed_sats=0))
    assert others == [first] * len(others)
    with race.ledger(ANY) as ledger:
        assert ledger.verify().ok
        assert ledger.pool_status().balance_sats == 20 * 9 // 10


def next_day() -> datetime:
    return noon() + timedelta(days=1)


async def need(sats: int, ledger: AsyncFreeTier, me: int) -> int:
    grant = await ledger.reserve(Request(f"new-{me}", f"id-{me}", "elite", sats))
    return grant.absorb_sats


def test_due_grants_are_swept_once(race: Race) -> None:
    """Writers that need the sats of 192 due grants, and sweep them, expire each once."""
    with race.ledger(FreeTierPolicy(seed_sats=192)) as ledger:
        for number in range(192):
            ledger.reserve(Request(f"old-{number}", f"id-{number}", "elite", 1))
    each = 192 // race.writers
    assert race.run(partial(need, each), ANY, clock=next_day) == [each] * race.writers
    with race.ledger(ANY) as ledger:
        assert ledger.verify().ok
        expired = [entry.key for entry in ledger.journal() if entry.kind is Kind.EXPIRE]
    assert sorted(expired) == sorted(f"old-{number}" for number in range(192))


async def give(gifts: int, ledger: AsyncFreeTier, me: int) -> None:
    for number in range(gifts):
        await ledger.donate(f"gift-{number}-{me}", 1)


@pytest.mark.parametrize("race", RACES, indirect=True)
def test_all_writers_get_through(race: Race) -> None:
    """Writers wait for each other, and none of them gives up."""
    race.run(partial(give, 160 // race.writers), ANY)
    with race.ledger(ANY) as ledger:
        assert ledger.verify().ok
        assert ledger.pool_status().balance_sats == 10_000 + 160


async def give_many(gifts: int, ledger: AsyncFreeTier, _: int, me: int) -> None:
    for number in range(gifts):
        await ledger.donate(f"gift-{number}-{me}", 1)


@pytest.mark.parametrize(
    "race",
    [pytest.param("sqlite-8"), pytest.param("sqlite-32", marks=pytest.mark.slow)],
    indirect=True,
)
def test_no_writer_starves(race: Race) -> None:
    """While one writer waits, no half of all that is written goes by.

    Left to SQLite's own busy handler, some wait until nearly all others are done.
    """
    gifts = 150
    race.run_each(partial(give_many, gifts), 1, ANY)
    with race.ledger(ANY) as ledger:
        order = [entry.key.rpartition("-")[2] for entry in ledger.journal(after=1)]
    last = dict.fromkeys(order, -1)
    longest = 0
    for place, writer in enumerate(order):
        longest = max(longest, place - last[writer])
        last[writer] = place
    assert longest < gifts * race.writers / 2


def test_threads_of_one_ledger(race: Race) -> None:
    """8 threads with one ledger race as processes do: each identity gets its 50, none more."""
    with race.ledger(FIFTY_EACH) as ledger, ThreadPoolExecutor(8) as threads:
        requests = [
            Request(f"job-{number}-{thread}", f"id-{number}", "trusted", 30)
            for number in range(25)
            for thread in range(8)
        ]
        list(threads.map(ledger.reserve, requests))
    assert drawn(race, lambda entry: entry.identity) == {f"id-{n}": 50 for n in range(25)}

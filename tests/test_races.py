"""Many processes, one file: never over a limit, one answer a request, and nobody starves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import freetier
from freetier import FreeTierPolicy, Kind, Request

from .processes import race

POLICY = FreeTierPolicy(budgets={"trusted": 50}, seed_sats=1_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger's file, made by nobody yet."""
    return tmp_path / "ledger.db"


def drawn(path: Path, of: Callable[[freetier.Entry], str | None]) -> Counter[str | None]:
    """Sats drawn, added up by `of`, once the books are proved."""
    with freetier.open(path, policy=POLICY) as ledger:
        assert ledger.verify().ok
        total: Counter[str | None] = Counter()
        for entry in ledger.journal():
            total[of(entry)] += entry.used_change
        return +total


def test_a_fresh_identitys_budget(path: Path) -> None:
    """8 processes ask 30 of 50 sats for 300 new identities: each gets 50, and none more."""
    race(
        """
with freetier.open(path, policy=FreeTierPolicy(budgets={"trusted": 50}, seed_sats=1_000_000),
                   clock=noon) as ledger:
    for number in range(300):
        ledger.reserve(Request(f"job-{number}-{me}", f"id-{number}", "trusted", 30))
""",
        path,
    )
    assert drawn(path, lambda entry: entry.identity) == {f"id-{n}": 50 for n in range(300)}


def test_one_request_from_everywhere(path: Path) -> None:
    """8 processes with the same request at once get the equal grant, which was written once."""
    answers = race(
        """
with freetier.open(path, policy=FreeTierPolicy(), clock=noon) as ledger:
    for number in range(20):
        print(ledger.reserve(Request(f"job-{number}", "ab", "trusted", 15)))
""",
        path,
    )
    assert len(set(answers)) == 1
    with freetier.open(path, policy=POLICY) as ledger:
        assert [entry.kind for entry in ledger.journal(after=1)] == [Kind.RESERVE] * 14


@pytest.mark.parametrize(
    "settings",
    [
        "seed_sats=100",
        "seed_sats=150, floor_sats=50",
        "tier_ceilings={'elite': 100}",
        "daily_release_sats=100",
    ],
)
def test_the_last_sats_of_all(path: Path, settings: str) -> None:
    """8 processes that draw 7 at a time from 100 sats, for everybody, get 100 and no more."""
    race(
        f"""
with freetier.open(path, policy=FreeTierPolicy({settings}), clock=noon) as ledger:
    for number in range(10):
        ledger.reserve(Request(f"job-{{number}}-{{me}}", f"id-{{number}}-{{me}}", "elite", 7))
""",
        path,
    )
    assert drawn(path, lambda _: None) == {None: 100}


def test_one_ending(path: Path) -> None:
    """Of 8 processes that settle at different costs one wins; the others meet a Conflict."""
    answers = race(
        """
with freetier.open(path, policy=FreeTierPolicy(), clock=noon) as ledger:
    for number in range(10):
        ledger.reserve(Request(f"job-{number}", "ab", "trusted", 20))
        try:
            print(number, ledger.settle(f"job-{number}", me).actual_sats == me)
        except Conflict:
            pass
""",
        path,
    )
    settled = "".join(answers).splitlines()
    assert sorted(settled) == [f"{number} True" for number in range(10)]
    assert drawn(path, lambda _: None).total() < 10 * 8


def test_one_credit_a_payment(path: Path) -> None:
    """The paid notification that reaches 8 processes is credited once, the remainder carried."""
    answers = race(
        """
with freetier.open(path, policy=FreeTierPolicy(seed_sats=0), clock=noon) as ledger:
    for number in range(20):
        print(ledger.credit(f"hash-{number}", 9))
""",
        path,
    )
    assert len(set(answers)) == 1
    with freetier.open(path, policy=POLICY) as ledger:
        assert ledger.verify().ok
        assert ledger.pool_status().balance_sats == 20 * 9 // 10


def test_due_grants_are_swept_once(path: Path) -> None:
    """8 processes that need the sats of 200 due grants, and sweep them, expire each once."""
    with freetier.open(path, policy=FreeTierPolicy(seed_sats=200)) as ledger:
        for number in range(200):
            ledger.reserve(Request(f"old-{number}", f"id-{number}", "elite", 1))
    race(
        """
later = lambda: datetime.now(UTC) + timedelta(days=1)
with freetier.open(path, policy=FreeTierPolicy(), clock=later) as ledger:
    assert ledger.reserve(Request(f"new-{me}", f"id-{me}", "elite", 25)).absorb_sats == 25
""",
        path,
    )
    with freetier.open(path, policy=POLICY) as ledger:
        assert ledger.verify().ok
        expired = [entry.key for entry in ledger.journal() if entry.kind is Kind.EXPIRE]
    assert sorted(expired) == sorted(f"old-{number}" for number in range(200))


def test_32_writers_all_get_through(path: Path) -> None:
    """32 writing processes wait for each other, and none of them gives up."""
    race(
        """
with freetier.open(path, policy=FreeTierPolicy(), clock=noon) as ledger:
    for number in range(20):
        ledger.donate(f"gift-{number}-{me}", 1)
""",
        path,
        processes=32,
    )
    with freetier.open(path, policy=POLICY) as ledger:
        assert ledger.verify().ok
        assert ledger.pool_status().balance_sats == 10_000 + 32 * 20


def test_threads_of_one_ledger(path: Path) -> None:
    """8 threads with one ledger race as processes do: each identity gets its 50, none more."""
    with freetier.open(path, policy=POLICY) as ledger, ThreadPoolExecutor(8) as threads:
        requests = [
            Request(f"job-{number}-{thread}", f"id-{number}", "trusted", 30)
            for number in range(25)
            for thread in range(8)
        ]
        list(threads.map(ledger.reserve, requests))
    assert drawn(path, lambda entry: entry.identity) == {f"id-{n}": 50 for n in range(25)}

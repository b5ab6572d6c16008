"""The steps of an operation: how often they look again, and what they say in the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from attrs import evolve

from freetier import (
    Conflict,
    FreeTier,
    FreeTierPolicy,
    InvalidInput,
    Kind,
    Limit,
    Request,
    Serve,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.admission import ATTEMPTS, gated
from freetier.entries import Entry, Grant, GrantState
from freetier.memory import MemoryRepository
from freetier.repository import Deposit, Draw, Ending
from freetier.testing import Clock
from freetier.testing.clock import NOON
from freetier.values import MAX_SATS, Decision

ASKED = Request("job", "ada", "trusted", 5)


class Contended(MemoryRepository):
    """A store in which somebody else is always faster, once it is `busy`."""

    busy = False
    refusals = 0

    def draw(self, draw: Draw) -> datetime | None:
        return None if self._refuses() else super().draw(draw)

    def end(self, ending: Ending) -> datetime | None:
        return None if self._refuses() else super().end(ending)

    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        return None if self._refuses() else super().deposit(deposit, now)

    def _refuses(self) -> bool:
        self.refusals += self.busy
        return self.busy


class Recording(MemoryRepository):
    """A store that keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Draw | Ending | datetime | None] = []

    def draw(self, draw: Draw) -> datetime | None:
        self.asked.append(draw)
        return super().draw(draw)

    def end(self, ending: Ending) -> datetime | None:
        self.asked.append(ending)
        return super().end(ending)

    def sweep(self, now: datetime | None, limit: int = 64) -> int:
        self.asked.append(now)
        return super().sweep(now, limit)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ledger: ledger.reserve(ASKED), "request 'job'"),
        (lambda ledger: ledger.settle("held"), "settling 'held'"),
        (lambda ledger: ledger.release("held"), "releasing 'held'"),
        (lambda ledger: ledger.credit("hash", 70), "credit 'hash'"),
        (lambda ledger: ledger.donate("gift", 70), "donation 'gift'"),
        # All that there is room for, in and out.
        (lambda ledger: ledger.donate("gift", 100), "donation 'gift'"),
        (lambda ledger: ledger.credit("hash", 1000), "credit 'hash'"),
        (lambda ledger: ledger.adjust("out", 105 - MAX_SATS, note="why"), "adjustment 'out'"),
    ],
    ids=["reserve", "settle", "release", "credit", "donate", "donate all", "credit all", "adjust"],
)
def test_a_contended_store_is_given_up(call: Callable[[FreeTier], object], words: str) -> None:
    """A call that is refused a hundred times in a row says so, and has written nothing."""
    repository = Contended()
    ledger = FreeTier(FreeTierPolicy(seed_sats=MAX_SATS - 100), repository)
    ledger.seed()
    ledger.reserve(evolve(ASKED, request_id="held"))
    repository.busy = True
    before = list(repository.entries())
    with pytest.raises(StoreUnavailable) as caught:
        call(ledger)
    assert str(caught.value) == (
        f"{words}: refused 100 times in a row; nothing was written: try again"
    )
    assert repository.refusals == ATTEMPTS
    assert list(repository.entries()) == before


def test_sweeping_is_no_refusal() -> None:
    """A request that needs the sats of 7,000 expired grants gets them, 64 at a time."""
    clock = Clock()
    policy = FreeTierPolicy(seed_sats=7_000, budgets={"elite": 7_000, "trusted": 7_000})
    ledger = FreeTier(policy, MemoryRepository(), clock=clock)
    ledger.seed()
    for number in range(7_000):
        request = Request(f"job-{number}", f"id-{number % 7}", "trusted", 1)
        ledger.reserve(request, ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    grant = ledger.reserve(Request("all", "ada", "elite", 7_000))
    assert grant.decision.serve is Serve.FREE
    assert ledger.verify().ok


def test_a_gate_without_a_store() -> None:
    """The full price is charged where the store is away, and nothing is noted."""
    rooms = {str(Limit.UNAVAILABLE): 0}
    decision = Decision(Serve.GATE, 5, 0, 5, Limit.UNAVAILABLE, rooms)
    grant = Grant("job", "ada", "trusted", decision, GrantState.UNHELD, NOON)
    assert gated(ASKED, NOON) == grant


def test_nothing_is_free_without_a_store() -> None:
    """A price of 0 is free where the store is away, too."""
    grant = Grant(
        "job", "ada", "trusted", Decision(Serve.FREE, 0, 0, 0, None, {}), GrantState.UNHELD, NOON
    )
    assert gated(evolve(ASKED, price_sats=0), NOON) == grant


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda it: it.settle("x"), UnknownRequest, "no grant was written for request 'x'"),
        (lambda it: it.release("x"), UnknownRequest, "no grant was written for request 'x'"),
        (lambda it: it.grant("x"), UnknownRequest, "no grant was written for request 'x'"),
        (lambda it: it.settle("a", 3), Conflict, "request 'a' was settled at 4 sats, not 3"),
        (lambda it: it.release("a"), Conflict, "request 'a' was settled"),
        (lambda it: it.settle("b", 3), Conflict, "request 'b' was released"),
        (
            lambda it: it.decide(Request("a", "eve", "new", 9)),
            Conflict,
            "request 'a' was asked before by 'ada', tier trusted, for 5 sats; "
            "now by 'eve', tier new, for 9",
        ),
        (
            lambda it: it.credit("hash", 71),
            Conflict,
            "credit 'hash' was written before, with other figures",
        ),
        (
            lambda it: it.credit("new", 980),
            InvalidInput,
            "paid_sats: expected a share of at most 97 sats, got 980 (int)",
        ),
        (
            lambda it: it.donate("new", 98),
            InvalidInput,
            f"sats: expected {97 - MAX_SATS} to 97, as the pool stands, got 98 (int)",
        ),
    ],
    ids=[
        *("settle nobody's", "release nobody's", "nobody's grant", "settle again", "release late"),
        *("settle what was released", "another request", "another payment"),
        *("a credit too large", "a gift too large"),
    ],
)
def test_errors_say_what_was_asked(
    call: Callable[[FreeTier], object], error: type[Exception], words: str
) -> None:
    """Whoever asks for what cannot be is told which request it was, and what is known of it."""
    ledger = FreeTier(FreeTierPolicy(seed_sats=MAX_SATS - 100), MemoryRepository())
    ledger.seed()
    for name in "ab":
        ledger.reserve(evolve(ASKED, request_id=name))
    ledger.settle("a", 4)
    ledger.release("b")
    ledger.credit("hash", 70)
    with pytest.raises(error) as caught:
        call(ledger)
    assert str(caught.value) == words


def test_what_the_store_is_asked_for() -> None:
    """The guard gets the caps of that moment, and every step the host's own time."""
    clock, repository = Clock(), Recording()
    policy = FreeTierPolicy(floor_sats=7, daily_release_sats=240, daily_release_paced=True)
    ledger = FreeTier(policy, repository, clock=clock)
    ledger.seed()
    ledger.reserve(ASKED, ttl=timedelta(seconds=1))
    clock.advance(minutes=1)
    late = ledger.settle("job", 5)
    draw, expiry, swept, ending = repository.asked
    assert isinstance(draw, Draw)
    assert draw.caps == policy.caps(ASKED, NOON)
    at = NOON + timedelta(minutes=1)
    assert expiry == Ending(Kind.EXPIRE, "job", at)
    assert swept == at
    assert ending == Ending(Kind.LATE, "job", at, late, floor_sats=7)


def test_what_is_due_is_swept_by_the_hosts_time() -> None:
    """A reserve and a gift that need what expired grants held sweep as of the host's time."""
    clock, repository = Clock(), Recording()
    ledger = FreeTier(FreeTierPolicy(seed_sats=5), repository, clock=clock)
    ledger.seed()
    for name, call in (
        ("b", lambda: ledger.reserve(evolve(ASKED, request_id="c"))),
        ("d", lambda: ledger.adjust("out", -5, note="why")),
    ):
        ledger.reserve(evolve(ASKED, request_id=name, identity=name), ttl=timedelta(seconds=1))
        clock.advance(minutes=20)
        repository.asked.clear()
        call()
        assert [asked for asked in repository.asked if isinstance(asked, datetime)] == [clock()]
        if name == "b":
            ledger.release("c")


def test_a_grant_is_of_the_journals_time() -> None:
    """A clock that runs back gives a grant the time of the entry before it."""
    clock = Clock()
    ledger = FreeTier(FreeTierPolicy(), MemoryRepository(), clock=clock)
    ledger.seed()
    clock.advance(minutes=-1)
    assert ledger.reserve(ASKED).reserved_at == NOON


class Overtaken(MemoryRepository):
    """A store in which somebody else writes just before: a gift a minute later; the seed."""

    def draw(self, draw: Draw) -> datetime | None:
        super().deposit(Deposit(Kind.DONATION, "gift", 1), draw.at + timedelta(minutes=1))
        return super().draw(draw)

    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        super().deposit(Deposit(Kind.SEED, "seed", 7), now)
        return super().deposit(deposit, now)


def test_a_grant_is_of_its_entrys_time() -> None:
    """Where another entry came between look and draw, the grant has the time that it was given."""
    ledger = FreeTier(FreeTierPolicy(), Overtaken(), clock=Clock())
    ledger.seed()
    grant = ledger.reserve(ASKED)
    assert grant.reserved_at == NOON + timedelta(minutes=1)
    assert grant == ledger.grant("job")


def test_the_seed_of_another_stands() -> None:
    """Who finds the pool seeded meanwhile, with another sum, takes that for the seed."""
    ledger = FreeTier(FreeTierPolicy(seed_sats=100), Overtaken())
    assert ledger.seed().balance_change == 7


def test_what_others_of_a_tier_drew_counts() -> None:
    """Of a tier's ceiling the next identity gets what the first has left."""
    policy = FreeTierPolicy(tier_ceilings={"trusted": 7})
    ledger = FreeTier(policy, MemoryRepository())
    ledger.seed()
    drawn = [
        ledger.reserve(evolve(ASKED, request_id=name, identity=name)).absorb_sats for name in "ab"
    ]
    assert drawn == [5, 2]


@pytest.mark.parametrize("again", [{}, {"sponsor": "", "note": ""}], ids=str)
def test_no_word_is_no_word(again: dict[str, str]) -> None:
    """A gift without a sponsor and a note is the same gift, however that is said."""
    ledger = FreeTier(FreeTierPolicy(), MemoryRepository())
    for words in ({}, again):
        assert ledger.donate("gift", 5, **words).balance_change == 5
    assert ledger.pool_status().balance_sats == 5


def test_the_pools_status_says_the_budgets() -> None:
    """The budgets are the policy's: a host shows what a tier may draw."""
    policy = FreeTierPolicy(budgets={"new": 3})
    ledger = FreeTier(policy, MemoryRepository())
    assert ledger.pool_status().budgets == {"new": 3}

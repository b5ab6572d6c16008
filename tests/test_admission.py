"""The steps of an operation: how often they look again, and what they say in the end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from freetier import (
    FreeTier,
    FreeTierPolicy,
    Limit,
    Request,
    Serve,
    StoreUnavailable,
)
from freetier.admission import ATTEMPTS, gated
from freetier.memory import MemoryRepository
from freetier.repository import Draw
from freetier.testing import Clock
from freetier.testing.clock import NOON
from freetier.values import Entry


class Refusing(MemoryRepository):
    """A store in which somebody else is always faster."""

    refusals = 0

    def draw(self, draw: Draw) -> Entry | None:
        self.refusals += 1
        return None


def test_a_contended_store_is_given_up() -> None:
    """A call that is refused a hundred times in a row says so, and has written nothing."""
    repository = Refusing()
    ledger = FreeTier(FreeTierPolicy(), repository)
    ledger.seed()
    with pytest.raises(StoreUnavailable, match="refused 100 times"):
        ledger.reserve(Request("job", "ada", "trusted", 5))
    assert repository.refusals == ATTEMPTS
    assert len(repository.entries()) == 1


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


@pytest.mark.parametrize(
    ("price", "serve", "bound_by"),
    [
        (5, Serve.GATE, Limit.UNAVAILABLE),
        (0, Serve.FREE, None),
    ],
)
def test_without_a_store(price: int, serve: Serve, bound_by: Limit | None) -> None:
    """The full price is charged where the store is away; nothing is still free."""
    decision = gated(Request("job", "ada", "trusted", price), NOON).decision
    assert (decision.serve, decision.charge_sats, decision.bound_by) == (serve, price, bound_by)

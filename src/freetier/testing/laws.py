"""The laws that every policy keeps, and the function that holds one to them."""

from __future__ import annotations

from attrs import evolve
from hypothesis import Phase, given, settings

from freetier.policy import FreeTierPolicy
from freetier.testing import strategies
from freetier.values import Decision, Request, Serve, Snapshot

# To explain a failure takes ten times as long as to find and shrink it.
_PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)


def assert_policy_laws(policy: FreeTierPolicy, *, examples: int = 200) -> None:
    """Hold `policy`, with its own tiers and the host's own limits, to the laws.

    Tries `examples` random requests and snapshots. Raises `AssertionError` with the smallest
    request and snapshot that break a law:

    1. absorb + charge = price, both from 0.
    2. absorb is at most the price and at most every limit's room.
    3. The same request and snapshot get the same answer.
    4. More in the pool, and less used, never absorb less. (A host's own limit may break this one:
       then it punishes a richer pool.)
    5. Anonymous callers and tiers without a budget are gated, unless the price is 0.
    6. Settling at the price changes nothing; settling never exceeds the grant.
    7. Free names no limit; partial and gate name one that has less room than the price.
    """

    @settings(max_examples=examples, deadline=None, database=None, phases=_PHASES)
    @given(
        request=strategies.requests(tuple(policy.budgets)),
        snapshot=strategies.snapshots(),
        more=strategies.sats(10**6),
        actual=strategies.sats(),
    )
    def hold(request: Request, snapshot: Snapshot, more: int, actual: int) -> None:
        decision = policy.decide(request, snapshot)
        _check_sums(decision, request)
        _check_bound(decision)
        assert policy.decide(request, snapshot) == decision, "same arguments, another answer"
        _check_richer(policy, request, snapshot, more)
        if request.price_sats and (request.identity is None or not policy.budgets[request.tier]):
            assert decision.serve is Serve.GATE, "anonymous, or without a budget, and not gated"
        _check_settlement(decision, actual)

    hold()


def _check_sums(decision: Decision, request: Request) -> None:
    assert decision.price_sats == request.price_sats
    assert decision.absorb_sats >= 0
    assert decision.charge_sats >= 0
    assert decision.absorb_sats + decision.charge_sats == decision.price_sats


def _check_bound(decision: Decision) -> None:
    if decision.serve is Serve.FREE:
        assert decision.bound_by is None
        assert decision.charge_sats == 0
    else:
        assert decision.bound_by is not None
        assert decision.rooms[decision.bound_by] == min(decision.rooms.values())
        assert decision.rooms[decision.bound_by] < decision.price_sats
        assert decision.charge_sats > 0
        assert (decision.serve is Serve.GATE) == (decision.absorb_sats == 0)
    assert all(decision.absorb_sats <= room for room in decision.rooms.values())


def _check_richer(policy: FreeTierPolicy, request: Request, snapshot: Snapshot, more: int) -> None:
    richer = evolve(
        snapshot,
        balance_sats=snapshot.balance_sats + more,
        identity_used_sats=max(0, snapshot.identity_used_sats - more),
        tier_used_sats=max(0, snapshot.tier_used_sats - more),
        pool_used_sats=max(0, snapshot.pool_used_sats - more),
    )
    before, after = policy.decide(request, snapshot), policy.decide(request, richer)
    assert after.absorb_sats >= before.absorb_sats, "a richer pool absorbs less"


def _check_settlement(decision: Decision, actual: int) -> None:
    at_price = decision.settle(decision.price_sats)
    assert at_price == decision.settle()
    assert (at_price.absorbed_sats, at_price.charged_sats) == (
        decision.absorb_sats,
        decision.charge_sats,
    )
    settled = decision.settle(actual)
    assert 0 <= settled.absorbed_sats <= decision.absorb_sats
    assert 0 <= settled.charged_sats <= decision.charge_sats
    assert settled.charged_sats + settled.refund_sats == decision.charge_sats
    assert settled.absorbed_sats + settled.returned_sats == decision.absorb_sats
    assert settled.absorbed_sats + settled.charged_sats + settled.overrun_sats == actual

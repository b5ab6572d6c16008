"""`assert_policy_laws` passes a right policy, and catches one that breaks a law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings

from freetier import Decision, FreeTierPolicy, HostLimit, Request, Serve, Snapshot
from freetier.testing import assert_policy_laws, strategies
from freetier.values import MAX_SATS

Bend = Callable[[Decision, Request, Snapshot], Decision]

ENOUGH = 1000
"""Far more examples than a broken law needs to show: the search ends with the first that does."""


def test_the_default_policy_keeps_the_laws() -> None:
    """The policy that needs no settings keeps every law."""
    assert_policy_laws(FreeTierPolicy())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.nested_given])
@given(policy=strategies.policies())
def test_every_policy_keeps_the_laws(policy: FreeTierPolicy) -> None:
    """Whatever the settings, the laws hold."""
    assert_policy_laws(policy, examples=25)


def test_a_hosts_limit_is_held_to_them_too() -> None:
    """A host's limit that punishes a richer pool breaks law 4."""
    kind = HostLimit("round", lambda request, snapshot: request.price_sats // 2)
    assert_policy_laws(FreeTierPolicy(limits=(kind,)))
    odd = HostLimit("odd", lambda request, snapshot: snapshot.pool_used_sats)
    punishing = FreeTierPolicy(budgets={"all": MAX_SATS}, limits=(odd,))
    with pytest.raises(AssertionError, match="richer pool absorbs less"):
        assert_policy_laws(punishing, examples=ENOUGH)


def _loses_a_sat(decision: Decision, request: Request, snapshot: Snapshot) -> Decision:
    return evolve(decision, charge_sats=max(0, decision.charge_sats - 1))


def _always_free(decision: Decision, request: Request, snapshot: Snapshot) -> Decision:
    price = request.price_sats
    return Decision(Serve.FREE, price, price, 0, None, decision.rooms)


def _names_another_limit(decision: Decision, request: Request, snapshot: Snapshot) -> Decision:
    return evolve(decision, bound_by=decision.bound_by and max(decision.rooms))


def _trusts_the_anonymous(decision: Decision, request: Request, snapshot: Snapshot) -> Decision:
    if request.identity is None and request.price_sats > 1:
        return Decision(Serve.PARTIAL, request.price_sats, 1, request.price_sats - 1, "x", {"x": 1})
    return decision


def _never_partial(decision: Decision, request: Request, snapshot: Snapshot) -> Decision:
    return evolve(decision, serve=Serve.GATE) if decision.serve is Serve.PARTIAL else decision


@pytest.mark.parametrize(
    "bend",
    [_loses_a_sat, _always_free, _names_another_limit, _trusts_the_anonymous, _never_partial],
)
def test_a_broken_policy_is_caught(bend: Bend) -> None:
    """A policy that breaks a law fails."""

    class Bent(FreeTierPolicy):
        def decide(self, request: Request, snapshot: Snapshot) -> Decision:
            return bend(super().decide(request, snapshot), request, snapshot)

    with pytest.raises(AssertionError):
        assert_policy_laws(Bent(), examples=ENOUGH)


def test_a_moody_policy_is_caught() -> None:
    """A policy that answers the same question in two ways fails."""
    answers = iter(range(10**9))
    moody = HostLimit("moody", lambda request, snapshot: next(answers) % 50)
    with pytest.raises(AssertionError):
        assert_policy_laws(FreeTierPolicy(limits=(moody,)), examples=ENOUGH)

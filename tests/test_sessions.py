"""Sessions: a prepaid balance that is never overdrawn, whatever runs at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from freetier import Conflict, FreeTier, FreeTierPolicy, InvalidInput, Kind, Request, sessions
from freetier.errors import IllegalTransition, InsufficientBalance
from freetier.memory import MemoryRepository
from freetier.sessions import Invoice, RequestState, Session, SessionRequest, SessionState, Step
from freetier.testing import Clock
from freetier.values import Decision, Grant

from .job_examples import LATER, NOW

DEPOSIT = Invoice("hash-deposit", "lnbc-deposit", 100, NOW + timedelta(minutes=10))
POLICY = FreeTierPolicy(budgets={"new": 0, "elite": 60}, seed_sats=80, credit_share_bp=2000)


def ledger() -> FreeTier:
    made = FreeTier(POLICY, MemoryRepository(), clock=Clock(NOW))
    made.seed()
    return made


def new() -> Session:
    return sessions.create("session", deposit_sats=100, identity="ada", tier="elite", at=NOW)


def active() -> Session:
    return sessions.paid(sessions.invoiced(new(), DEPOSIT, at=NOW), DEPOSIT, at=NOW)


def estimate(sats: int, of: FreeTier | None = None) -> Decision:
    return (of or ledger()).decide(Request("estimate", "ada", "elite", sats))


def computed(request: SessionRequest, actual_sats: int) -> SessionRequest:
    return sessions.computed(
        request,
        "a result",
        actual_sats=actual_sats,
        input_tokens=1,
        output_tokens=2,
        actual_cost_usd=Decimal("0.01"),
        at=NOW,
    )


def grant(session: Session, request: SessionRequest, of: FreeTier | None = None) -> Grant:
    return (of or ledger()).record_grant(sessions.request_of(session, request))


def under_way(estimated_sats: int = 80, actual_sats: int = 90) -> tuple[Session, SessionRequest]:
    session, request = sessions.admitted(
        active(), "request", "a text", estimate=estimate(estimated_sats), at=NOW
    )
    return session, computed(request, actual_sats)


def test_a_session_is_paid_for_first() -> None:
    """A session has a balance once its deposit was paid; the notice may come again, or late."""
    assert sessions.next_step(new()) is Step.INVOICE
    asked = sessions.invoiced(new(), DEPOSIT, at=NOW)
    assert (sessions.next_step(asked), asked.balance_sats) == (Step.PAYMENT, 0)
    assert sessions.invoiced(asked, DEPOSIT, at=NOW) is asked
    paid = sessions.paid(asked, DEPOSIT, at=NOW)
    assert (paid.state, paid.balance_sats, sessions.next_step(paid)) == (
        SessionState.ACTIVE,
        100,
        None,
    )
    assert sessions.paid(paid, DEPOSIT, at=LATER) is paid
    late = sessions.expired(asked, at=LATER)
    assert (late.state, sessions.next_step(late)) == (SessionState.EXPIRED, None)
    assert sessions.expired(late, at=LATER) is late
    assert sessions.paid(late, DEPOSIT, at=LATER).balance_sats == 100
    before_its_invoice_was_noted = sessions.paid(new(), DEPOSIT, at=NOW)
    assert before_its_invoice_was_noted.balance_sats == 100


def test_only_the_charge_is_debited() -> None:
    """The ledger decides on the real cost, and the balance pays what the pool does not."""
    session, request = under_way(estimated_sats=80, actual_sats=90)
    assert session.held_sats == 20
    session, request = sessions.debited(session, request, grant(session, request), at=NOW)
    assert (request.state, request.absorbed_sats, request.charged_sats) == ("complete", 60, 30)
    assert (session.balance_sats, session.held_sats, session.open_requests) == (70, 0, 0)
    assert request.free_tier


def test_too_small_a_balance_is_refused_before_the_work() -> None:
    """A request is not computed when its estimate is beyond what is free of the balance."""
    with pytest.raises(InsufficientBalance, match="has 100 sats free, and the request needs 101"):
        sessions.admitted(active(), "request", "a text", estimate=estimate(161), at=NOW)
    session, _ = sessions.admitted(active(), "first", "a text", estimate=estimate(150), at=NOW)
    with pytest.raises(InsufficientBalance) as caught:
        sessions.admitted(session, "second", "a text", estimate=estimate(80), at=NOW)
    assert (caught.value.needed_sats, caught.value.free_sats) == (20, 10)


def test_the_balance_never_goes_below_0() -> None:
    """What a request costs beyond the balance is the host's loss, and is said."""
    session, request = under_way(estimated_sats=80, actual_sats=200)
    session, request = sessions.debited(session, request, grant(session, request), at=NOW)
    assert (session.balance_sats, request.charged_sats, request.unpaid_sats) == (0, 100, 40)


def test_what_others_hold_is_theirs() -> None:
    """A request that costs more than its estimate does not take what another one was promised."""
    session, other = sessions.admitted(active(), "other", "a text", estimate=estimate(150), at=NOW)
    session, request = sessions.admitted(session, "request", "text", estimate=estimate(65), at=NOW)
    request = computed(request, 200)
    session, request = sessions.debited(session, request, grant(session, request), at=NOW)
    assert (request.charged_sats, session.free_sats, session.held_sats) == (10, 0, 90)
    assert other.held_sats == 90


def test_a_broken_request_costs_nothing() -> None:
    """When the work breaks, nothing is debited and nothing stays held."""
    session, request = sessions.admitted(active(), "request", "text", estimate=estimate(80), at=NOW)
    session, request = sessions.request_failed(session, request, "out of order", at=NOW)
    assert (session.balance_sats, session.held_sats, session.open_requests) == (100, 0, 0)
    assert sessions.request_failed(session, request, "again", at=NOW) == (session, request)
    with pytest.raises(IllegalTransition):
        computed(request, 1)


def test_the_first_answer_stands() -> None:
    """A request told again is the one that is known; the same id for another is a Conflict."""
    session, request = under_way()
    assert sessions.repeated(request, "session", "a text") is request
    for session_id, text in (("other", "a text"), ("session", "another text")):
        with pytest.raises(Conflict):
            sessions.repeated(request, session_id, text)
    assert computed(request, 90) is request
    with pytest.raises(IllegalTransition):
        computed(request, 91)
    done = sessions.debited(session, request, grant(session, request), at=NOW)
    assert sessions.debited(*done, grant(session, request), at=NOW) == done
    with pytest.raises(IllegalTransition):
        sessions.request_failed(*done, "too late", at=NOW)


def test_what_is_due_of_a_request() -> None:
    """A request is computed, then settled, then done."""
    session, request = sessions.admitted(active(), "request", "text", estimate=estimate(9), at=NOW)
    assert sessions.next_step_of_request(request) is Step.WORK
    with pytest.raises(IllegalTransition):
        sessions.request_of(session, request)
    request = computed(request, 9)
    assert sessions.next_step_of_request(request) is Step.SETTLEMENT
    _, request = sessions.debited(session, request, grant(session, request), at=NOW)
    assert sessions.next_step_of_request(request) is None


def test_closing_gives_the_rest_back() -> None:
    """A closed session owes its balance, and is not closed while it computes, even for free."""
    session, request = sessions.admitted(active(), "request", "text", estimate=estimate(9), at=NOW)
    assert session.held_sats == 0
    with pytest.raises(IllegalTransition):
        sessions.closed(session, at=NOW)
    session, _ = sessions.request_failed(session, request, "out of order", at=NOW)
    closed = sessions.closed(session, at=NOW)
    assert (closed.balance_sats, closed.refund.sats) == (0, 100)
    assert sessions.next_step(closed) is Step.DESTINATION
    assert sessions.closed(closed, at=NOW) is closed
    addressed = sessions.refund_to(closed, "ada@example.org", at=NOW)
    begun = sessions.refund_begun(addressed, "lnbc-refund", "hash-refund", at=NOW)
    assert sessions.next_step(begun) is Step.REFUND_PAYMENT
    assert sessions.next_step(sessions.refund_paid(begun, "hash-refund", at=NOW)) is None


@pytest.mark.parametrize(
    "event",
    [
        lambda: sessions.invoiced(
            sessions.invoiced(new(), DEPOSIT, at=NOW), evolve(DEPOSIT, id="other"), at=NOW
        ),
        lambda: sessions.paid(active(), evolve(DEPOSIT, id="other"), at=NOW),
        lambda: sessions.expired(active(), at=LATER),
        lambda: sessions.expired(sessions.invoiced(new(), DEPOSIT, at=NOW), at=NOW),
        lambda: sessions.admitted(new(), "request", "text", estimate=estimate(0), at=NOW),
        lambda: sessions.closed(new(), at=NOW),
        lambda: sessions.refund_begun(active(), "lnbc", "hash", at=NOW),
    ],
)
def test_what_does_not_fit_is_refused(event: Callable[[], object]) -> None:
    """An event that does not fit the session raises, and there is no second invoice."""
    with pytest.raises(IllegalTransition):
        event()


def test_figures_that_are_not_its_own_are_refused() -> None:
    """An invoice over another amount, a grant of another request, another session: all refused."""
    session, request = under_way()
    strange: list[Callable[[], Any]] = [
        lambda: sessions.invoiced(new(), evolve(DEPOSIT, amount_sats=99), at=NOW),
        lambda: sessions.debited(
            session, request, ledger().reserve(Request("request", "ada", "elite", 91)), at=NOW
        ),
        lambda: sessions.debited(
            evolve(session, id="other"), request, grant(session, request), at=NOW
        ),
        lambda: sessions.request_failed(evolve(session, id="other"), request, "broken", at=NOW),
        lambda: sessions.create("session", deposit_sats=0, at=NOW),
    ]
    for event in strange:
        with pytest.raises(InvalidInput):
            event()


class SessionMachine(RuleBasedStateMachine):
    """Requests of one session in any order, on a ledger whose pool runs dry."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger()
        self.session = active()
        self.requests: dict[str, SessionRequest] = {}
        self.credited: dict[str, int] = {}

    ids = st.integers(0, 5).map("request-{}".format)

    @rule(request_id=ids, sats=st.integers(0, 70))
    def ask(self, request_id: str, sats: int) -> None:
        if request_id in self.requests or self.session.state is not SessionState.ACTIVE:
            return
        decision = self.ledger.decide(Request(f"{request_id}-estimate", "ada", "elite", sats))
        try:
            self.session, self.requests[request_id] = sessions.admitted(
                self.session, request_id, "text", estimate=decision, at=NOW
            )
        except InsufficientBalance:
            assert decision.charge_sats > self.session.free_sats

    @rule(request_id=ids, sats=st.integers(0, 90))
    def compute(self, request_id: str, sats: int) -> None:
        request = self.requests.get(request_id)
        if request and sessions.next_step_of_request(request) is Step.WORK:
            self.requests[request_id] = computed(request, sats)

    @rule(request_id=ids)
    def fail(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request and sessions.next_step_of_request(request) is Step.WORK:
            self.session, self.requests[request_id] = sessions.request_failed(
                self.session, request, "out of order", at=NOW
            )

    @rule(request_id=ids, crash=st.booleans())
    def settle(self, request_id: str, crash: bool) -> None:
        """A crash before both records were noted: all of it is done again."""
        request = self.requests.get(request_id)
        if request and sessions.next_step_of_request(request) is Step.SETTLEMENT:
            answer = grant(self.session, request, self.ledger)
            session, done = sessions.debited(self.session, request, answer, at=NOW)
            if not crash:
                self.session, self.requests[request_id] = session, done
                if done.charged_sats:
                    self.ledger.credit(done.id, done.charged_sats)

    @rule()
    def close(self) -> None:
        if not self.session.open_requests:
            self.session = sessions.closed(self.session, at=NOW)

    @invariant()
    def the_balance_adds_up(self) -> None:
        charged = sum(request.charged_sats for request in self.requests.values())
        session = self.session
        assert session.balance_sats + session.refund.sats + charged == session.deposit_sats
        running = [r for r in self.requests.values() if r.state is RequestState.COMPUTING]
        assert session.held_sats == sum(request.held_sats for request in running)
        assert session.open_requests == len(running)
        assert 0 <= session.held_sats <= session.balance_sats

    @invariant()
    def the_ledger_says_the_same(self) -> None:
        assert self.ledger.verify().ok
        done = [r for r in self.requests.values() if r.state is RequestState.COMPLETE]
        entries = list(self.ledger.journal())
        drawn = {e.key: e.absorb_sats for e in entries if e.kind is Kind.GRANT}
        for request in done:
            assert request.absorbed_sats == drawn.get(request.id, 0)
            whole = request.absorbed_sats + request.charged_sats + request.unpaid_sats
            assert whole == request.actual_sats
        credited = {e.key: e.paid_sats for e in entries if e.kind is Kind.CREDIT}
        assert credited == {r.id: r.charged_sats for r in done if r.charged_sats}


def test_sessions_in_every_order() -> None:
    """Whatever runs at once and in whatever order, balance, holds and ledger add up."""
    run_state_machine_as_test(
        SessionMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )

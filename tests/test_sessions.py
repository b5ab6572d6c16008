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

from freetier import Conflict, FreeTier, FreeTierPolicy, InvalidInput, Kind, Request, jobs, sessions
from freetier.entries import Grant
from freetier.errors import IllegalTransition, InsufficientBalance
from freetier.memory import MemoryRepository
from freetier.sessions import Invoice, RequestState, Session, SessionRequest, SessionState, Step
from freetier.testing import Clock
from freetier.values import Decision

from .job_examples import LATER, NOW, created, priced

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
    assert (caught.value.needed_sats, caught.value.free_sats) == (80, 10)


def test_the_balance_never_goes_below_0() -> None:
    """What a request costs beyond the balance is the host's loss, and is said."""
    session, request = under_way(estimated_sats=80, actual_sats=200)
    session, request = sessions.debited(session, request, grant(session, request), at=NOW)
    assert (session.balance_sats, request.charged_sats, request.unpaid_sats) == (0, 100, 40)


def test_what_others_hold_is_theirs() -> None:
    """A request that costs more than its estimate does not take what another one was promised."""
    session, other = sessions.admitted(active(), "other", "a text", estimate=estimate(150), at=NOW)
    session, request = sessions.admitted(session, "request", "text", estimate=estimate(10), at=NOW)
    request = computed(request, 200)
    session, request = sessions.debited(session, request, grant(session, request), at=NOW)
    assert (request.charged_sats, session.free_sats, session.held_sats) == (10, 0, 90)
    assert other.held_sats == 90


def test_what_the_pool_has_is_promised_once() -> None:
    """Of requests at once, those that the pool's part does not reach for hold their whole price."""
    pool = ledger()
    session = active()
    held = []
    for number in range(5):
        asked = estimate(25, pool)
        session, request = sessions.admitted(
            session, f"request-{number}", "text", estimate=asked, at=NOW
        )
        held.append((request.promised_sats, request.held_sats))
    assert held == [(25, 0), (25, 0), (10, 15), (0, 25), (0, 25)]
    assert (session.promised_sats, session.held_sats) == (60, 65)
    with pytest.raises(InsufficientBalance, match="has 35 sats free, and the request needs 36"):
        sessions.admitted(session, "another", "text", estimate=estimate(36, pool), at=NOW)


def test_what_was_promised_and_is_gone_is_covered() -> None:
    """When the pool's part went to others, a new request needs that much free as well."""
    pool = ledger()
    session, first = sessions.admitted(active(), "first", "a", estimate=estimate(60, pool), at=NOW)
    session, second = sessions.admitted(session, "second", "b", estimate=estimate(60, pool), at=NOW)
    second = computed(second, 60)
    session, second = sessions.debited(session, second, grant(session, second, pool), at=NOW)
    assert (second.absorbed_sats, session.free_sats) == (60, 100)
    with pytest.raises(InsufficientBalance, match="has 100 sats free, and the request needs 101"):
        sessions.admitted(session, "third", "text", estimate=estimate(41, pool), at=NOW)
    session, _ = sessions.admitted(session, "third", "text", estimate=estimate(40, pool), at=NOW)
    first = computed(first, 60)
    session, first = sessions.debited(session, first, grant(session, first, pool), at=NOW)
    assert (first.charged_sats, first.unpaid_sats, session.free_sats) == (60, 0, 0)


def test_what_is_promised_elsewhere_counts() -> None:
    """What the identity's other sessions count on is not promised here as well."""
    for elsewhere, promised in ((0, 50), (20, 40), (60, 0), (1000, 0)):
        session, request = sessions.admitted(
            active(),
            "request",
            "text",
            estimate=estimate(50),
            at=NOW,
            promised_elsewhere_sats=elsewhere,
        )
        assert (request.promised_sats, session.held_sats) == (promised, 50 - promised)
    with pytest.raises(InvalidInput, match="promised_elsewhere_sats"):
        sessions.admitted(
            active(), "x", "text", estimate=estimate(5), at=NOW, promised_elsewhere_sats=-1
        )


def test_a_limit_for_each_request_is_each_requests() -> None:
    """A most per request bounds what one counts on, not what all do together."""
    policy = evolve(POLICY, per_request_sats=20)
    pool = FreeTier(policy, MemoryRepository(), clock=Clock(NOW))
    pool.seed()
    session, _ = sessions.admitted(active(), "first", "a", estimate=estimate(25, pool), at=NOW)
    session, second = sessions.admitted(session, "second", "b", estimate=estimate(25, pool), at=NOW)
    assert (second.promised_sats, second.held_sats) == (20, 5)


def test_an_id_that_looks_like_something_else() -> None:
    """The ledger knows a request by its kind: no job and no payment is ever taken for it."""
    pool = ledger()
    pool.reserve(Request("request", "bob", "elite", 3))
    pool.reserve(jobs.request_of(evolve(priced(created(0)), id="request")))
    pool.credit("request", 10)
    session, request = under_way()
    session, request = sessions.debited(session, request, grant(session, request, pool), at=NOW)
    assert request.ledger_id == "request:request"
    assert pool.credit(request.ledger_id, request.charged_sats).paid_sats == request.charged_sats
    long = "x" * 249
    with pytest.raises(InvalidInput, match="request_id: expected text of 1 to 248 characters"):
        sessions.admitted(active(), long, "text", estimate=estimate(5), at=NOW)
    _, longest = sessions.admitted(active(), long[1:], "text", estimate=estimate(5), at=NOW)
    assert len(longest.ledger_id) == 256


def test_an_old_version_of_the_session_is_refused() -> None:
    """A session that holds nothing for a request gives nothing back for it."""
    session, request = under_way()
    with pytest.raises(IllegalTransition, match="holds nothing for request 'request'"):
        sessions.debited(active(), request, grant(session, request), at=NOW)
    with pytest.raises(IllegalTransition, match="holds nothing for request 'request'"):
        sessions.request_failed(active(), request, "broken", at=NOW)


def test_a_request_that_cannot_be_settled_fails() -> None:
    """A host that cannot have it decided may give it up: nothing is debited, nothing held."""
    session, request = under_way()
    session, request = sessions.request_failed(session, request, "no answer", at=NOW)
    assert (request.state, request.charged_sats) == (RequestState.FAILED, 0)
    assert (session.balance_sats, session.held_sats, session.promised_sats) == (100, 0, 0)


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
    begun = sessions.refund_begun(
        addressed, "ada@example.org", "lnbc-refund", "hash-refund", at=NOW
    )
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
        lambda: sessions.refund_begun(active(), "ada@example.org", "lnbc", "hash", at=NOW),
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
            alone = not self.session.open_requests
            assert decision.charge_sats > self.session.free_sats or not alone

    @rule(request_id=ids, sats=st.integers(0, 90))
    def compute(self, request_id: str, sats: int) -> None:
        request = self.requests.get(request_id)
        if request and sessions.next_step_of_request(request) is Step.WORK:
            self.requests[request_id] = computed(request, sats)

    @rule(request_id=ids)
    def fail(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request and sessions.next_step_of_request(request) is not None:
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
                    self.ledger.credit(done.ledger_id, done.charged_sats)

    @rule(order=st.permutations(range(6)), sats=st.integers(1, 70))
    def at_once(self, order: list[int], sats: int) -> None:
        """As many as are admitted, of which each costs what was estimated."""
        every = [f"request-{number}" for number in order]
        for request_id in every:
            self.ask(request_id, sats)
        for request_id in sorted(every):
            self.compute(request_id, sats)
        for request_id in every[1:]:
            self.settle(request_id, crash=False)

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
        assert session.promised_sats == sum(request.promised_sats for request in running)
        assert session.open_requests == len(running)
        assert 0 <= session.held_sats <= session.balance_sats

    @invariant()
    def what_is_unpaid_was_not_estimated(self) -> None:
        """The host loses at most what work cost beyond its estimate, whatever runs at once."""
        done = [r for r in self.requests.values() if r.state is RequestState.COMPLETE]
        beyond = sum(max(0, (r.actual_sats or 0) - r.held_sats - r.promised_sats) for r in done)
        assert sum(request.unpaid_sats for request in done) <= beyond

    @invariant()
    def the_ledger_says_the_same(self) -> None:
        assert self.ledger.verify().ok
        done = [r for r in self.requests.values() if r.state is RequestState.COMPLETE]
        entries = list(self.ledger.journal())
        drawn = {e.key: e.absorb_sats for e in entries if e.kind is Kind.GRANT}
        for request in done:
            assert request.absorbed_sats == drawn.get(request.ledger_id, 0)
            whole = request.absorbed_sats + request.charged_sats + request.unpaid_sats
            assert whole == request.actual_sats
        credited = {e.key: e.paid_sats for e in entries if e.kind is Kind.CREDIT}
        assert credited == {r.ledger_id: r.charged_sats for r in done if r.charged_sats}


def test_sessions_in_every_order() -> None:
    """Whatever runs at once and in whatever order, balance, holds and ledger add up."""
    run_state_machine_as_test(
        SessionMachine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )

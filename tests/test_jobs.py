"""Jobs: each event in each situation, and what a job says of itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest
from attrs import evolve

from freetier import InvalidInput, jobs
from freetier.errors import IllegalTransition
from freetier.jobs import Invoice, Job, JobState, Refund, RefundState, Step
from freetier.values import Settlement

from .job_examples import (
    EVAL,
    LATER,
    NOW,
    PRICE,
    RATES,
    WORK,
    created,
    grant,
    priced,
    settlement,
    situations,
    worked,
)

SITUATIONS = situations()

# Each event, with the figures that the situations have, and where it leads from where.
EVENTS: dict[str, tuple[Callable[[Job], Job], dict[str, str]]] = {
    "invoiced for the evaluation": (
        lambda job: jobs.invoiced(job, EVAL, at=NOW),
        {"new": "eval asked"},
    ),
    "paid for the evaluation": (
        lambda job: jobs.paid(job, EVAL, at=NOW),
        {"new": "evaluating", "eval asked": "evaluating", "eval expired": "evaluating"},
    ),
    "expired": (
        lambda job: jobs.expired(job, at=LATER),
        {
            "eval asked": "eval expired",
            "work asked": "work expired",
            "granted": "never asked",
        },
    ),
    "rejected": (
        lambda job: jobs.rejected(job, "not our kind of work", at=NOW),
        {"evaluating": "rejected"},
    ),
    "priced": (priced, {"evaluating": "priced"}),
    "granted": (lambda job: jobs.granted(job, grant(), at=NOW), {"priced": "granted"}),
    "invoiced for the work": (
        lambda job: jobs.invoiced(job, WORK, at=NOW),
        {"granted": "work asked"},
    ),
    "paid for the work": (
        lambda job: jobs.paid(job, WORK, at=NOW),
        {
            "granted": "executing",
            "work asked": "executing",
            "work expired": "executing",
            "never asked": "executing",
        },
    ),
    "worked": (worked, {"executing": "worked"}),
    "completed": (
        lambda job: jobs.completed(job, settlement(80), at=NOW),
        {"worked": "complete"},
    ),
    "work failed": (
        lambda job: jobs.work_failed(job, "out of order", at=NOW),
        {"evaluating": "evaluation broken", "executing": "broken"},
    ),
    "failed": (lambda job: jobs.failed(job, at=NOW), {"broken": "failed"}),
    "refund to": (
        lambda job: jobs.refund_to(job, "ada@example.org", at=NOW),
        {"complete": "addressed"},
    ),
    "refund begun": (
        lambda job: jobs.refund_begun(job, "ada@example.org", "lnbc-refund", "hash-refund", at=NOW),
        {"addressed": "refund begun"},
    ),
    "refund paid": (
        lambda job: jobs.refund_paid(job, "hash-refund", at=NOW),
        {"refund begun": "refunded"},
    ),
    "refund broken": (
        lambda job: jobs.refund_broken(job, "hash-refund", at=NOW),
        {"refund begun": "addressed"},
    ),
}


def same(one: Job, other: Job) -> bool:
    """The same but for their versions and times."""

    def bare(job: Job) -> Job:
        return evolve(
            job,
            version=1,
            updated_at=NOW,
            eval_invoice=job.eval_invoice and at_noon(job.eval_invoice),
            work_invoice=job.work_invoice and at_noon(job.work_invoice),
        )

    def at_noon(invoice: Invoice) -> Invoice:
        return evolve(invoice, paid_at=invoice.paid_at and NOW)

    return bare(one) == bare(other)


@pytest.mark.parametrize(
    ("event", "start", "end"),
    [(event, *pair) for event, (_, pairs) in EVENTS.items() for pair in pairs.items()],
)
def test_an_event_leads_on(event: str, start: str, end: str) -> None:
    """An event that fits leads to the next version of the record, in the state that it should."""
    before = SITUATIONS[start]
    after = EVENTS[event][0](before)
    assert same(after, SITUATIONS[end])
    assert after.version == before.version + 1


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_any_other_event_changes_nothing(event: str, situation: str) -> None:
    """An event that repeats what is noted changes nothing; one that does not fit is refused."""
    apply, pairs = EVENTS[event]
    job = SITUATIONS[situation]
    if situation in pairs or (event, situation) in _ALSO_LEAD_ON:
        return
    with suppress(IllegalTransition, InvalidInput):
        assert apply(job) is job


# A refund's destination may be named at any time; a pool's grant may be broken before it is noted.
_ALSO_LEAD_ON = (
    {("refund to", name) for name in SITUATIONS}
    | {("work failed", "priced")}
    | {("failed", "evaluation broken")}
)


@pytest.mark.parametrize(
    ("event", "situation"),
    [
        ("paid for the evaluation", "work asked"),
        ("paid for the work", "complete"),
        ("invoiced for the work", "executing"),
        ("priced", "granted"),
        ("granted", "complete"),
        ("worked", "complete"),
        ("completed", "refunded"),
        ("failed", "failed"),
        ("expired", "work expired"),
        ("rejected", "rejected"),
        ("work failed", "broken"),
        ("refund begun", "refunded"),
        ("refund paid", "refunded"),
    ],
)
def test_a_repeated_event_is_no_error(event: str, situation: str) -> None:
    """What is noted may be told again, at any later time: the record stays as it is."""
    job = SITUATIONS[situation]
    assert EVENTS[event][0](job) is job


@pytest.mark.parametrize(
    ("situation", "step"),
    [
        ("new", Step.INVOICE),
        ("eval asked", Step.PAYMENT),
        ("eval expired", None),
        ("evaluating", Step.EVALUATION),
        ("rejected", None),
        ("evaluation broken", Step.RELEASE),
        ("priced", Step.GRANT),
        ("granted", Step.INVOICE),
        ("work asked", Step.PAYMENT),
        ("work expired", None),
        ("never asked", None),
        ("executing", Step.WORK),
        ("worked", Step.SETTLEMENT),
        ("broken", Step.RELEASE),
        ("failed", Step.DESTINATION),
        ("complete", Step.DESTINATION),
        ("addressed", Step.REFUND),
        ("refund begun", Step.REFUND_PAYMENT),
        ("refunded", None),
    ],
)
def test_the_next_step(situation: str, step: Step | None) -> None:
    """Each record says what comes next."""
    assert jobs.next_step(SITUATIONS[situation]) is step


@pytest.mark.parametrize(
    ("situation", "absorbed", "refund", "state"),
    [
        ("evaluating", 0, 0, RefundState.NOT_APPLICABLE),
        ("granted", 60, 0, RefundState.NOT_APPLICABLE),
        ("work expired", 0, 0, RefundState.NOT_APPLICABLE),
        ("never asked", 0, 0, RefundState.NOT_APPLICABLE),
        ("complete", 60, 20, RefundState.PENDING),
        ("failed", 0, 40, RefundState.PENDING),
        ("refunded", 60, 20, RefundState.PAID),
    ],
)
def test_the_money_of_a_job(situation: str, absorbed: int, refund: int, state: RefundState) -> None:
    """What the pool pays, and what comes back: the difference to the real cost, or all."""
    job = SITUATIONS[situation]
    assert (job.absorbed_sats, job.refund.sats, job.refund.state) == (absorbed, refund, state)
    assert job.free_tier is (absorbed > 0)


def test_a_broken_evaluation_gives_its_fee_back() -> None:
    """When the evaluation breaks, its own payment is refunded; a rejection keeps it."""
    broken = jobs.failed(SITUATIONS["evaluation broken"], at=NOW)
    assert (broken.state, broken.refund.sats) == (JobState.FAILED, EVAL.amount_sats)
    assert SITUATIONS["rejected"].refund.sats == 0


def test_free_work_needs_no_invoice() -> None:
    """A job that the pool pays in full goes straight to work, and settles on what it cost."""
    job = jobs.granted(priced(created(0)), grant(pool_sats=PRICE), at=NOW)
    assert (job.state, job.work_amount_sats, job.free_tier) == (JobState.EXECUTING, 0, True)
    whole = grant(pool_sats=PRICE).decision.settle(80)
    job = jobs.completed(worked(job), whole, at=NOW)
    assert (job.absorbed_sats, job.refund.state) == (80, RefundState.NOT_APPLICABLE)
    assert jobs.next_step(job) is None


def test_a_gate_settles_alone() -> None:
    """A job that the pool pays nothing of settles without the ledger; one that it pays does not."""
    gate = jobs.granted(priced(created(0)), grant(pool_sats=0), at=NOW)
    asked = Invoice("hash-gate", "lnbc-gate", PRICE, NOW)
    done = worked(jobs.paid(gate, asked, at=NOW), actual_sats=70)
    assert jobs.settlement_without_grant(done) == Settlement(70, 0, 70, 30, 0, 0)
    assert jobs.settlement_without_grant(SITUATIONS["worked"]) is None
    assert jobs.settlement_without_grant(SITUATIONS["priced"]) is None


def test_paid_late_is_taken_up_again() -> None:
    """A job that failed for want of a payment that then comes is done, at the price quoted."""
    job = jobs.paid(SITUATIONS["work expired"], WORK, at=LATER)
    assert (job.state, job.absorbed_sats, job.error_message) == (JobState.EXECUTING, 60, None)
    assert job.work_invoice is not None
    assert job.work_invoice.paid_at == LATER


def test_not_expired_before_its_time() -> None:
    """An invoice that can still be paid has not expired."""
    just = WORK.expires_at - timedelta(microseconds=1)
    with pytest.raises(IllegalTransition, match="no invoice of it has expired"):
        jobs.expired(SITUATIONS["work asked"], at=just)


@pytest.mark.parametrize("event", [jobs.invoiced, jobs.paid])
@pytest.mark.parametrize("situation", ["eval asked", "work asked", "complete", "executing"])
def test_never_a_second_invoice(event: Callable[..., Job], situation: str) -> None:
    """An invoice that is not the stage's own is refused, whatever was paid for it."""
    other = evolve(WORK, id="hash-other")
    with pytest.raises(IllegalTransition, match="'hash-other' is not its own"):
        event(SITUATIONS[situation], other, at=NOW)


@pytest.mark.parametrize("event", [jobs.invoiced, jobs.paid])
def test_an_invoice_asks_for_the_quote(event: Callable[..., Job]) -> None:
    """An invoice over another amount than the quoted one is refused."""
    for amount in (39, 41):
        with pytest.raises(InvalidInput) as caught:
            event(SITUATIONS["granted"], evolve(WORK, amount_sats=amount), at=NOW)
        assert caught.value.argument == "invoice"


def test_the_first_figures_stand() -> None:
    """A price, a cost and a settlement that are noted are not replaced by others."""
    with pytest.raises(IllegalTransition):
        jobs.priced(
            SITUATIONS["priced"], 101, estimated_cost_usd=Decimal("0.09"), rates=RATES, at=NOW
        )
    with pytest.raises(IllegalTransition):
        worked(SITUATIONS["worked"], actual_sats=81)
    with pytest.raises(InvalidInput):
        jobs.completed(SITUATIONS["worked"], settlement(79), at=NOW)
    with pytest.raises(InvalidInput):
        jobs.granted(SITUATIONS["priced"], grant(99), at=NOW)
    others = (
        evolve(grant(), identity="eve"),
        evolve(grant(), tier="new"),
        evolve(grant(), request_id="job"),
    )
    for other in others:
        with pytest.raises(InvalidInput, match="the grant of 'job:job' at its price"):
            jobs.granted(SITUATIONS["priced"], other, at=NOW)
    broken = SITUATIONS["broken"]
    assert jobs.work_failed(broken, "another message", at=NOW) is broken


def test_a_refund_is_paid_once() -> None:
    """While one payment of a refund is under way, no other begins; after one failed, one may."""
    begun = SITUATIONS["refund begun"]
    with pytest.raises(IllegalTransition):
        jobs.refund_begun(begun, "ada@example.org", "lnbc-other", "hash-other", at=NOW)
    with pytest.raises(IllegalTransition):
        jobs.refund_to(begun, "eve@example.org", at=NOW)
    with pytest.raises(IllegalTransition):
        jobs.refund_paid(begun, "hash-other", at=NOW)
    with pytest.raises(IllegalTransition):
        jobs.refund_broken(SITUATIONS["refunded"], "hash-refund", at=NOW)
    again = jobs.refund_broken(begun, "hash-refund", at=NOW)
    assert jobs.next_step(again) is Step.REFUND
    assert (
        jobs.refund_begun(again, "ada@example.org", "lnbc-2", "hash-2", at=NOW).refund.payment_hash
        == "hash-2"
    )


def test_a_refund_goes_where_it_was_last_said() -> None:
    """An invoice of a destination that the caller has replaced meanwhile begins no payment."""
    corrected = jobs.refund_to(SITUATIONS["addressed"], "right@example.org", at=NOW)
    with pytest.raises(IllegalTransition):
        jobs.refund_begun(corrected, "ada@example.org", "lnbc-typo", "hash-typo", at=NOW)
    begun = jobs.refund_begun(corrected, "right@example.org", "lnbc", "hash", at=NOW)
    assert (begun.refund.destination, begun.refund.bolt11) == ("right@example.org", "lnbc")


@pytest.mark.parametrize("event", [jobs.refund_paid, jobs.refund_broken])
def test_a_refund_that_was_not_begun(event: Callable[..., Job]) -> None:
    """A refund whose payment has not begun was not paid, and did not fail, by no payment either."""
    for payment_hash, error in ((None, InvalidInput), ("hash-refund", IllegalTransition)):
        with pytest.raises(error):
            event(SITUATIONS["addressed"], payment_hash, at=NOW)


def test_a_callers_own_invoice_is_used_up() -> None:
    """A refund to an invoice that could not be paid waits for another destination."""
    job = jobs.refund_to(SITUATIONS["complete"], "lnbc-mine", at=NOW)
    job = jobs.refund_begun(job, "lnbc-mine", "lnbc-mine", "hash-mine", at=NOW)
    assert jobs.next_step(jobs.refund_broken(job, "hash-mine", at=NOW)) is Step.DESTINATION


def test_time_never_runs_back() -> None:
    """A host whose clock is behind notes the record's own time."""
    job = jobs.expired(SITUATIONS["eval asked"], at=LATER)
    assert jobs.paid(job, EVAL, at=NOW).updated_at == LATER


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("job_id", ""),
        ("job_id", "a\nb"),
        ("request", ""),
        ("request", "a\0b"),
        ("request", "\ud800"),
        ("request", "x" * 1_000_001),
        ("request", None),
        ("eval_amount_sats", -1),
        ("eval_amount_sats", True),
        ("eval_amount_sats", 1.0),
        ("identity", ""),
        ("tier", 1),
        ("at", NOW.replace(tzinfo=None)),
    ],
)
def test_bad_input_is_named(argument: str, value: object) -> None:
    """What is not a job raises an error that names the argument."""
    good = {"job_id": "job", "request": "text", "eval_amount_sats": 0, "at": NOW}
    with pytest.raises(InvalidInput) as caught:
        jobs.create(**good | {argument: value})  # type: ignore[arg-type]
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("amount_sats", lambda: evolve(WORK, amount_sats=0)),
        ("id", lambda: evolve(WORK, id="")),
        ("bolt11", lambda: evolve(WORK, bolt11="")),
        ("expires_at", lambda: evolve(WORK, expires_at=NOW.replace(tzinfo=None))),
        ("state", lambda: Refund(5)),
        ("state", lambda: Refund(0, RefundState.PENDING)),
        ("sats", lambda: Refund(-5, RefundState.PENDING)),
    ],
)
def test_bad_invoices_and_refunds(argument: str, make: Callable[[], object]) -> None:
    """An invoice of nothing, and a refund whose state belies its amount, cannot be made."""
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.argument == argument


def test_request_of_needs_a_price() -> None:
    """The ledger is asked for the job's price, by its id; before there is one, nothing is asked."""
    asked = jobs.request_of(SITUATIONS["priced"])
    assert (asked.request_id, asked.identity, asked.tier) == ("job:job", "ada", "elite")
    assert asked.price_sats == PRICE
    with pytest.raises(IllegalTransition):
        jobs.request_of(SITUATIONS["new"])

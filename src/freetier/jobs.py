"""A paid job, from its creation to its refund: a record, and how one version follows another.

The host keeps the record and does the I/O; `next_step` says which. So a host that was killed reads
its records and goes on: each step may be done again. What the ledger is asked for is noted first
(`priced`, `worked`, `work_failed`) and its answer after (`granted`, `completed`, `failed`); a host
whose records are in the ledger's database notes both in one transaction.

An event that repeats what is noted gives the record as it is. One that does not fit the state
raises `IllegalTransition`, and the record stays. Every event takes `at`, the host's time. Raises
`InvalidInput`, whatever the state; what fits no such record (an invoice of another amount, the
grant or settlement of another job) is looked at after the state.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from attrs import evolve

from freetier._job import KIND, Job, JobState, next_step, request_of, settlement_without_grant
from freetier._records import Step, check_event, check_record_id, check_text, moved, refuse
from freetier._refunding import refund_begun, refund_broken, refund_paid, refund_to
from freetier.entries import Grant
from freetier.errors import InvalidInput
from freetier.invoices import Invoice, Refund, RefundState
from freetier.pricing import Rates, check_decimal, check_tokens
from freetier.values import Settlement, check_id, check_sats, check_time, check_type

__all__ = [
    "Invoice",
    "Job",
    "JobState",
    "Refund",
    "RefundState",
    "Step",
    "completed",
    "create",
    "expired",
    "failed",
    "granted",
    "invoiced",
    "next_step",
    "paid",
    "priced",
    "refund_begun",
    "refund_broken",
    "refund_paid",
    "refund_to",
    "rejected",
    "request_of",
    "settlement_without_grant",
    "work_failed",
    "worked",
]


def create(
    job_id: str,
    request: str,
    *,
    eval_amount_sats: int,
    at: datetime,
    identity: str | None = None,
    tier: str = "new",
) -> Job:
    """A new job, `awaiting_eval_payment`, or `evaluating` if that costs 0. Raises `InvalidInput`.

    `job_id` is 1 to 252 characters, and of no other job. `identity` and `tier` are what the host
    vouches for; the ledger checks the tier.
    """
    return Job(
        id=check_record_id("job_id", KIND, job_id),
        request=check_text("request", request),
        state=JobState.AWAITING_EVAL_PAYMENT
        if check_sats("eval_amount_sats", eval_amount_sats)
        else JobState.EVALUATING,
        identity=None if identity is None else check_id("identity", identity),
        tier=check_id("tier", tier),
        eval_amount_sats=eval_amount_sats,
        created_at=check_time("at", at),
        updated_at=at,
    )


def invoiced(job: Job, invoice: Invoice, *, at: datetime) -> Job:
    """The invoice of this stage was made. A second one for the same stage is refused."""
    check_event("job", job, Job, at)
    check_type("invoice", invoice, Invoice)
    known = _known(job, invoice)
    if known:
        return job
    if next_step(job) is not Step.INVOICE:
        refuse(job, f"invoice {invoice.id!r} is not its own")
    return moved(job, at, **_stored(job, evolve(_fitting(job, invoice), paid_at=None)))


def paid(job: Job, invoice: Invoice, *, at: datetime) -> Job:
    """The invoice was paid, says the node: on to `evaluating`, or `executing`.

    A notice that comes twice changes nothing. One that comes before the invoice was noted notes
    it. One that comes after the job `expired` takes it up again: the caller has paid what was
    quoted, and the grant settles late.
    """
    check_event("job", job, Job, at)
    check_type("invoice", invoice, Invoice)
    known = _known(job, invoice)
    if known and known.paid_at:
        return job
    waiting = (JobState.AWAITING_EVAL_PAYMENT, JobState.AWAITING_WORK_PAYMENT)
    if not (known == job.invoice and (job.state in waiting or job.expired)):
        refuse(job, f"invoice {invoice.id!r} is not its own")
    evaluated = job.work_amount_sats is not None
    return moved(
        job,
        at,
        state=JobState.EXECUTING if evaluated else JobState.EVALUATING,
        error_message=None,
        absorbed_sats=(job.price_sats or 0) - job.asked_sats if evaluated else 0,
        **_stored(job, evolve(known or _fitting(job, invoice), paid_at=at)),
    )


def expired(job: Job, *, at: datetime) -> Job:
    """The invoice was not paid in time, says the node: `failed`. Nothing is owed to anybody.

    So too when no invoice could be made while the grant held: a host may not ask for less than the
    price when the pool promises the rest no more.

    The grant is not released: it expires by itself, and the allowance stays spent. Else holding
    the pool's sats without ever paying would cost nothing. Before its time, it is refused.
    """
    check_event("job", job, Job, at)
    if job.expired:
        return job
    if next_step(job) is Step.INVOICE and job.free_tier:
        message = "no invoice could be made in time"
    elif next_step(job) is Step.PAYMENT and job.invoice and at >= job.invoice.expires_at:
        until = job.invoice.expires_at.isoformat()
        message = f"invoice {job.invoice.id} was not paid until {until}"
    else:
        refuse(job, "no invoice of it has expired")
    return moved(job, at, state=JobState.FAILED, error_message=message, absorbed_sats=0)


def rejected(job: Job, reason: str, *, at: datetime) -> Job:
    """The evaluation says no: `rejected`. What the evaluation cost stays paid."""
    check_event("job", job, Job, at)
    check_text("reason", reason)
    if job.state is JobState.REJECTED and job.rejection_reason == reason:
        return job
    if next_step(job) is not Step.EVALUATION:
        refuse(job, "there is nothing to reject")
    return moved(job, at, state=JobState.REJECTED, rejection_reason=reason)


def priced(
    job: Job, price_sats: int, *, estimated_cost_usd: Decimal, rates: Rates, at: datetime
) -> Job:
    """The evaluation says yes, at this price. It is kept: the ledger is asked for no other."""
    check_event("job", job, Job, at)
    check_type("rates", rates, Rates)
    figures = {
        "price_sats": check_sats("price_sats", price_sats),
        "estimated_cost_usd": check_decimal("estimated_cost_usd", estimated_cost_usd),
        "margin_pct": Decimal(rates.margin_pct),
        "btc_usd": Decimal(rates.btc_usd),
    }
    if job.price_sats is not None and _says(job, figures):
        return job
    if next_step(job) is not Step.EVALUATION:
        refuse(job, "it is not to be priced now")
    return moved(job, at, **figures)


def granted(job: Job, grant: Grant, *, at: datetime) -> Job:
    """The ledger has decided: `executing` if the caller pays nothing, else an invoice is next."""
    check_event("job", job, Job, at)
    check_type("grant", grant, Grant)
    its_own = (
        grant.request_id == job.ledger_id
        and (grant.identity, grant.tier) == (job.identity, job.tier)
        and grant.decision.price_sats == job.price_sats
    )
    if its_own and job.work_amount_sats == grant.charge_sats:
        return job
    if next_step(job) is not Step.GRANT:
        refuse(job, "it is not to be granted now")
    if not its_own:
        raise InvalidInput(
            "grant", grant.request_id, f"the grant of {job.ledger_id!r} at its price"
        )
    asks = grant.charge_sats > 0
    return moved(
        job,
        at,
        state=JobState.AWAITING_WORK_PAYMENT if asks else JobState.EXECUTING,
        absorbed_sats=grant.absorb_sats,
        work_amount_sats=grant.charge_sats,
    )


def worked(
    job: Job,
    result: str,
    *,
    actual_sats: int,
    input_tokens: int,
    output_tokens: int,
    actual_cost_usd: Decimal,
    at: datetime,
) -> Job:
    """The work is done. Its figures are kept: the ledger is asked to settle on no others."""
    check_event("job", job, Job, at)
    figures = {
        "result": check_text("result", result, least=0),
        "actual_sats": check_sats("actual_sats", actual_sats),
        "input_tokens": check_tokens("input_tokens", input_tokens),
        "output_tokens": check_tokens("output_tokens", output_tokens),
        "actual_cost_usd": check_decimal("actual_cost_usd", actual_cost_usd),
    }
    if job.actual_sats is not None and _says(job, figures):
        return job
    if next_step(job) is not Step.WORK:
        refuse(job, "there is no work to be done")
    return moved(job, at, **figures)


def completed(job: Job, settlement: Settlement, *, at: datetime) -> Job:
    """The ledger has settled: `complete`; what was charged too much is to be refunded.

    Credit the pool before this is noted, once, on what the caller paid in the end:
    `ledger.credit(job.work_invoice.id, settlement.charged_sats)`, if that is not 0.
    """
    check_event("job", job, Job, at)
    check_type("settlement", settlement, Settlement)
    figures = (settlement.actual_sats, settlement.charged_sats + settlement.refund_sats)
    its_own = figures == (job.actual_sats, job.work_amount_sats)
    if its_own and job.state is JobState.COMPLETE and job.refund.sats == settlement.refund_sats:
        return job
    if next_step(job) is not Step.SETTLEMENT:
        refuse(job, "it is not to be settled now")
    if not its_own:
        raise InvalidInput("settlement", settlement.actual_sats, f"the settlement of {job.id!r}")
    return moved(
        job,
        at,
        state=JobState.COMPLETE,
        absorbed_sats=settlement.absorbed_sats,
        refund=job.refund.owed(settlement.refund_sats),
    )


def work_failed(job: Job, message: str, *, at: datetime) -> Job:
    """The evaluation or the work broke. Noted first: what the ledger releases is not redone.

    When it breaks again, the first message stands.
    """
    check_event("job", job, Job, at)
    check_text("message", message)
    if job.error_message is not None and not job.expired:
        return job
    if next_step(job) not in (Step.EVALUATION, Step.GRANT, Step.WORK):
        refuse(job, "there is no work that could fail")
    return moved(job, at, error_message=message)


def failed(job: Job, *, at: datetime) -> Job:
    """The ledger has released: `failed`. What was paid for the stage that broke is refunded."""
    check_event("job", job, Job, at)
    if job.state is JobState.FAILED and not job.expired:
        return job
    if next_step(job) is not Step.RELEASE:
        refuse(job, "nothing of it broke")
    return moved(
        job, at, state=JobState.FAILED, absorbed_sats=0, refund=job.refund.owed(job.asked_sats)
    )


def _known(job: Job, invoice: Invoice) -> Invoice | None:
    """The job's own invoice by that id."""
    for made in (job.eval_invoice, job.work_invoice):
        if made and made.id == invoice.id:
            return made
    return None


def _fitting(job: Job, invoice: Invoice) -> Invoice:
    if invoice.amount_sats != job.asked_sats:
        raise InvalidInput("invoice", invoice.amount_sats, f"one of {job.asked_sats} sats")
    return invoice


def _stored(job: Job, invoice: Invoice) -> dict[str, Invoice]:
    stage = "eval_invoice" if job.work_amount_sats is None else "work_invoice"
    return {stage: invoice}


def _says(job: Job, figures: dict[str, object]) -> bool:
    return all(getattr(job, name) == value for name, value in figures.items())

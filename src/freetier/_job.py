"""The record of a job, its states, and what comes next. Public as `freetier.jobs`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from attrs import field, frozen

from freetier._records import Step, ledger_id, refuse
from freetier._refunding import next_step_of_refund
from freetier.invoices import Invoice, Refund
from freetier.values import Decision, Request, Serve, Settlement, check_type

KIND: Final = "job"
"""Of which kind the ledger knows a job's grant to be."""


class JobState(StrEnum):
    """Where a job stands. `REJECTED`, `COMPLETE` and `FAILED` are ends."""

    AWAITING_EVAL_PAYMENT = "awaiting_eval_payment"
    EVALUATING = "evaluating"
    REJECTED = "rejected"
    AWAITING_WORK_PAYMENT = "awaiting_work_payment"
    EXECUTING = "executing"
    COMPLETE = "complete"
    FAILED = "failed"


@frozen
class Job:
    """What is known of a job. Sats are whole; a figure that is not known yet is None.

    `price_sats` is what the work was quoted at, `absorbed_sats` what the pool pays of it (promised,
    and once the job is complete, paid), `work_amount_sats` what the caller is asked for it. Of
    `eval_invoice` and `work_invoice`, each is made once. `version` goes up by 1 with every event.
    """

    id: str
    request: str = field(repr=False)
    state: JobState
    identity: str | None
    tier: str
    eval_amount_sats: int
    created_at: datetime
    updated_at: datetime
    version: int = 1
    eval_invoice: Invoice | None = None
    rejection_reason: str | None = None
    estimated_cost_usd: Decimal | None = None
    margin_pct: Decimal | None = None
    btc_usd: Decimal | None = None
    price_sats: int | None = None
    absorbed_sats: int = 0
    work_amount_sats: int | None = None
    work_invoice: Invoice | None = None
    result: str | None = field(default=None, repr=False)
    error_message: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    actual_cost_usd: Decimal | None = None
    actual_sats: int | None = None
    refund: Refund = field(factory=Refund)

    @property
    def ledger_id(self) -> str:
        """What the ledger knows its grant by."""
        return ledger_id(KIND, self.id)

    @property
    def free_tier(self) -> bool:
        """Whether the pool pays for any of it."""
        return self.absorbed_sats > 0

    @property
    def invoice(self) -> Invoice | None:
        """The invoice of the stage that the job is in: of the work, once that was quoted."""
        return self.eval_invoice if self.work_amount_sats is None else self.work_invoice

    @property
    def asked_sats(self) -> int:
        """What the caller is asked for, at the stage that the job is in."""
        return self.eval_amount_sats if self.work_amount_sats is None else self.work_amount_sats

    @property
    def paid_sats(self) -> int:
        """What the caller paid, for evaluation and work, before any refund."""
        invoices = (self.eval_invoice, self.work_invoice)
        return sum(made.amount_sats for made in invoices if made and made.paid_at)

    @property
    def expired(self) -> bool:
        """Whether it failed because an invoice was not paid in time. It is not too late to pay."""
        return self.state is JobState.FAILED and not self._covered

    @property
    def _covered(self) -> bool:
        """Whether what is asked was paid."""
        return self.asked_sats == 0 or (self.invoice is not None and bool(self.invoice.paid_at))


def next_step(job: Job) -> Step | None:
    """What comes next; None when the job has ended, and nothing is owed."""
    check_type("job", job, Job)
    match job.state:
        case JobState.AWAITING_EVAL_PAYMENT | JobState.AWAITING_WORK_PAYMENT:
            return Step.PAYMENT if job.invoice else Step.INVOICE
        case JobState.EVALUATING | JobState.EXECUTING if job.error_message is not None:
            return Step.RELEASE
        case JobState.EVALUATING:
            return Step.EVALUATION if job.price_sats is None else Step.GRANT
        case JobState.EXECUTING:
            return Step.WORK if job.actual_sats is None else Step.SETTLEMENT
    return next_step_of_refund(job.refund)


def request_of(job: Job) -> Request:
    """What to ask the ledger for, once the job was priced; its request id is `job.ledger_id`.

    Reserve it for as long as the invoice can be paid, plus the time that the work takes: the
    grant of a caller who pays at the last moment must still hold. Raises `IllegalTransition`.
    """
    check_type("job", job, Job)
    if job.price_sats is None:
        refuse(job, "it was not priced yet")
    return Request(job.ledger_id, job.identity, job.tier, job.price_sats)


def settlement_without_grant(job: Job) -> Settlement | None:
    """How a job settles of which the pool pays nothing: by arithmetic. None if it pays.

    Then the ledger holds a grant, and `FreeTier.settle` is the answer.
    """
    check_type("job", job, Job)
    if job.free_tier or job.work_amount_sats is None:
        return None
    serve = Serve.GATE if job.work_amount_sats else Serve.FREE
    alone = Decision(serve, job.work_amount_sats, 0, job.work_amount_sats, None, {})
    return alone.settle(job.actual_sats)

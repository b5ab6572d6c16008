"""What the API takes and gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from freetier import PoolStatus, jobs, sessions
from freetier.http import PROBLEM
from freetier.jobs import Job
from freetier.pricing import Estimate
from freetier.sessions import Session, SessionRequest
from freetier.values import MAX_SATS

from .work import LONGEST

# What is stored is what was sent: text that a database refuses is not taken.
Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST, pattern=r"^[^\x00]*$")]
# Who knows the id of a job or a session may read it, and say where its refund goes.
Secret = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{20,64}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
# A Lightning address (LUD-16) or a BOLT11 invoice.
Destination = Annotated[
    str,
    StringConstraints(
        min_length=3,
        max_length=2000,
        pattern=r"^([a-z0-9._+-]{1,64}@[a-z0-9.-]{1,253}(:[0-9]{1,5})?"
        r"|[lL][nN]([bB][cC]|[tT][bB]|[bB][cC][rR][tT])[0-9a-zA-Z]+)$",
    ),
]
# JSON has one kind of number: 5.0 is the whole number 5, says JSON Schema.
Whole = BeforeValidator(lambda got: int(got) if type(got) is float and got.is_integer() else got)
Sats = Annotated[int, Field(ge=0, le=MAX_SATS)]
InPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


class Body(BaseModel):
    """A body has no member that is not known: a misspelled one is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewJob(Body):
    """`id` is the caller's own, to ask again by; without one each request is a new job.

    Who knows it may read the job and say where its refund goes, unless it was signed for.
    """

    request: Text
    id: Secret | None = None
    refund_to: Destination | None = None


class NewSession(Body):
    """`id` is the caller's own, to ask again by. Who knows it may spend the balance.

    Unless the session was signed for: then its requests are, too.
    """

    deposit_sats: Annotated[int, Field(ge=1, le=10_000_000), Whole]
    id: Secret | None = None


class NewRequest(Body):
    """`id` is the caller's own, to ask again by; without one each request is a new one.

    So who gives none and gets no answer does not know whether it was done, and paid.
    """

    request: Text
    id: Id | None = None


class RefundTo(Body):
    """A Lightning address, or an invoice over just what is owed."""

    destination: Destination


class InvoiceOut(BaseModel):
    payment_hash: str
    bolt11: str
    amount_sats: Sats
    expires_at: datetime
    paid: bool


class RefundOut(BaseModel):
    sats: Sats
    state: jobs.RefundState
    destination: str | None
    payment_hash: str | None


class JobOut(BaseModel):
    """A job as it stands, and what it waits for. `invoice` is of the stage that it is in."""

    id: str
    state: jobs.JobState
    next_step: jobs.Step | None
    free_tier: bool
    absorbed_sats: Sats
    eval_amount_sats: Sats
    work_amount_sats: Sats | None
    invoice: InvoiceOut | None
    rejection_reason: str | None
    result: str | None
    error_message: str | None
    estimated_cost_usd: str | None
    margin_pct: str | None
    btc_usd: str | None
    input_tokens: int | None
    output_tokens: int | None
    actual_cost_usd: str | None
    actual_sats: Sats | None
    refund: RefundOut
    created_at: datetime
    updated_at: datetime


class SessionOut(BaseModel):
    id: str
    state: sessions.SessionState
    deposit_sats: Sats
    balance_sats: Sats
    free_sats: Sats
    invoice: InvoiceOut | None
    refund: RefundOut


class RequestOut(BaseModel):
    id: str
    session_id: str
    state: sessions.RequestState
    free_tier: bool
    absorbed_sats: Sats
    charged_sats: Sats
    result: str | None
    error_message: str | None
    actual_sats: Sats | None


class DecisionOut(BaseModel):
    serve: str
    price_sats: Sats
    absorb_sats: Sats
    charge_sats: Sats
    bound_by: str | None
    resets_at: datetime | None


class EstimateOut(BaseModel):
    estimated_sats: Sats
    btc_usd: str
    input_tokens: int
    output_tokens: int
    cost_usd: str
    identity: str | None
    tier: str
    decision: DecisionOut
    pool_balance_sats: Sats
    pool_available_sats: Sats
    budgets: dict[str, int]


class PoolOut(BaseModel):
    as_of: datetime
    balance_sats: Sats
    reserved_sats: Sats
    available_sats: Sats
    open_grants: int
    absorbed_today_sats: Sats
    gated_today: int
    gated_today_sats: Sats
    budgets: dict[str, int]


class ProblemOut(BaseModel):
    """Problem details (RFC 9457); `error` is for programs."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    error: str | None = None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an endpoint may answer, for the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/ProblemOut"}
    content = {PROBLEM: {"schema": schema}}
    return {status: {"description": "a problem", "content": content} for status in statuses}


def invoice_out(invoice: jobs.Invoice | None) -> InvoiceOut | None:
    if invoice is None:
        return None
    return InvoiceOut(
        payment_hash=invoice.id,
        bolt11=invoice.bolt11,
        amount_sats=invoice.amount_sats,
        expires_at=invoice.expires_at,
        paid=invoice.paid_at is not None,
    )


def job_out(job: Job) -> JobOut:
    def text(figure: object) -> str | None:
        return None if figure is None else str(figure)

    return JobOut(
        id=job.id,
        state=job.state,
        next_step=jobs.next_step(job),
        free_tier=job.free_tier,
        absorbed_sats=job.absorbed_sats,
        eval_amount_sats=job.eval_amount_sats,
        work_amount_sats=job.work_amount_sats,
        invoice=invoice_out(job.invoice),
        rejection_reason=job.rejection_reason,
        result=job.result if job.state is jobs.JobState.COMPLETE else None,
        error_message=job.error_message,
        estimated_cost_usd=text(job.estimated_cost_usd),
        margin_pct=text(job.margin_pct),
        btc_usd=text(job.btc_usd),
        input_tokens=job.input_tokens,
        output_tokens=job.output_tokens,
        actual_cost_usd=text(job.actual_cost_usd),
        actual_sats=job.actual_sats,
        refund=refund_out(job.refund),
        created_at=job.created_at,
        updated_at=job.updated_at,
    )


def refund_out(refund: jobs.Refund) -> RefundOut:
    return RefundOut(
        sats=refund.sats,
        state=refund.state,
        destination=refund.destination,
        payment_hash=refund.payment_hash,
    )


def session_out(session: Session) -> SessionOut:
    return SessionOut(
        id=session.id,
        state=session.state,
        deposit_sats=session.deposit_sats,
        balance_sats=session.balance_sats,
        free_sats=session.free_sats,
        invoice=invoice_out(session.invoice),
        refund=refund_out(session.refund),
    )


def request_out(request: SessionRequest) -> RequestOut:
    return RequestOut(
        id=request.id.removeprefix(f"{request.session_id}:"),
        session_id=request.session_id,
        state=request.state,
        free_tier=request.free_tier,
        absorbed_sats=request.absorbed_sats,
        charged_sats=request.charged_sats,
        result=request.result,
        error_message=request.error_message,
        actual_sats=request.actual_sats,
    )


def estimate_out(made: Estimate, identity: str | None, tier: str) -> EstimateOut:
    decision = made.decision
    return EstimateOut(
        estimated_sats=made.price_sats,
        btc_usd=str(made.btc_usd),
        input_tokens=made.input_tokens,
        output_tokens=made.output_tokens,
        cost_usd=str(made.cost_usd),
        identity=identity,
        tier=tier,
        decision=DecisionOut(
            serve=decision.serve,
            price_sats=decision.price_sats,
            absorb_sats=decision.absorb_sats,
            charge_sats=decision.charge_sats,
            bound_by=decision.bound_by,
            resets_at=decision.resets_at,
        ),
        pool_balance_sats=made.balance_sats,
        pool_available_sats=made.available_sats,
        budgets=dict(made.budgets),
    )


def pool_out(pool: PoolStatus) -> PoolOut:
    return PoolOut(
        as_of=pool.as_of,
        balance_sats=pool.balance_sats,
        reserved_sats=pool.reserved_sats,
        available_sats=pool.available_sats,
        open_grants=pool.open_grants,
        absorbed_today_sats=pool.absorbed_today_sats,
        gated_today=pool.gated_today,
        gated_today_sats=pool.gated_today_sats,
        budgets=dict(pool.budgets),
    )

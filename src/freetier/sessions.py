"""A prepaid balance that many requests are paid from: records, and how one follows another.

The caller pays a deposit once. Each request is admitted on an estimate, computed, and then, on its
real cost, decided by the ledger; the balance is debited only what the pool does not pay. What a
request may cost is held while it is computed, so the balance never goes below 0, however many
requests run at once.

As for jobs: the host keeps the records and does the I/O, `next_step` and `next_step_of_request`
say which, an event that repeats what is noted changes nothing, and one that does not fit raises
`IllegalTransition`. An event that changes two records gives both: note them in one transaction.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from attrs import evolve, field, frozen

from freetier._records import Step, check_text, moved, refuse
from freetier._refunding import (
    next_step_of_refund,
    refund_begun,
    refund_broken,
    refund_paid,
    refund_to,
)
from freetier.errors import Conflict, InsufficientBalance, InvalidInput
from freetier.invoices import Invoice, Refund, RefundState
from freetier.pricing import check_decimal, check_tokens
from freetier.values import Decision, Grant, Request, check_id, check_sats, check_time

__all__ = [
    "Invoice",
    "Refund",
    "RefundState",
    "RequestState",
    "Session",
    "SessionRequest",
    "SessionState",
    "Step",
    "admitted",
    "closed",
    "computed",
    "create",
    "debited",
    "expired",
    "invoiced",
    "next_step",
    "next_step_of_request",
    "paid",
    "refund_begun",
    "refund_broken",
    "refund_paid",
    "refund_to",
    "repeated",
    "request_failed",
    "request_of",
]


class SessionState(StrEnum):
    """`expired` is not the end of a session: its invoice may turn out to be paid."""

    AWAITING_PAYMENT = "awaiting_payment"
    ACTIVE = "active"
    EXPIRED = "expired"
    CLOSED = "closed"


class RequestState(StrEnum):
    """`computing`, then one of `complete` and `failed`."""

    COMPUTING = "computing"
    COMPLETE = "complete"
    FAILED = "failed"


@frozen
class Session:
    """A caller's prepaid balance. `held_sats` of it are for the `open_requests`, being computed."""

    id: str
    state: SessionState
    identity: str | None
    tier: str
    deposit_sats: int
    created_at: datetime
    updated_at: datetime
    version: int = 1
    invoice: Invoice | None = None
    balance_sats: int = 0
    held_sats: int = 0
    open_requests: int = 0
    refund: Refund = field(factory=Refund)

    @property
    def free_sats(self) -> int:
        """Balance less held: what the next request may cost its caller."""
        return self.balance_sats - self.held_sats


@frozen
class SessionRequest:
    """A request that a session pays for. A figure that is not known yet is None.

    `charged_sats` is what the balance was debited; `unpaid_sats` is what the balance did not reach
    for, when the work cost more than its estimate: the host's loss, no balance goes below 0.
    """

    id: str
    session_id: str
    request: str = field(repr=False)
    state: RequestState
    held_sats: int
    created_at: datetime
    updated_at: datetime
    version: int = 1
    result: str | None = field(default=None, repr=False)
    error_message: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    actual_cost_usd: Decimal | None = None
    actual_sats: int | None = None
    absorbed_sats: int = 0
    charged_sats: int = 0
    unpaid_sats: int = 0

    @property
    def free_tier(self) -> bool:
        """Whether the pool paid for any of it."""
        return self.absorbed_sats > 0


def create(
    session_id: str,
    *,
    deposit_sats: int,
    at: datetime,
    identity: str | None = None,
    tier: str = "new",
) -> Session:
    """A new session, to be paid for: `deposit_sats` from 1. Raises `InvalidInput`."""
    return Session(
        id=check_id("session_id", session_id),
        state=SessionState.AWAITING_PAYMENT,
        identity=None if identity is None else check_id("identity", identity),
        tier=check_id("tier", tier),
        deposit_sats=check_sats("deposit_sats", deposit_sats, least=1),
        created_at=check_time("at", at),
        updated_at=at,
    )


def next_step(session: Session) -> Step | None:
    """What comes next for a session; None when it waits for requests, or has ended."""
    if session.state is SessionState.AWAITING_PAYMENT:
        return Step.PAYMENT if session.invoice else Step.INVOICE
    return next_step_of_refund(session.refund)


def next_step_of_request(request: SessionRequest) -> Step | None:
    """What comes next for a request: `WORK`, `SETTLEMENT`, or None."""
    if request.state is not RequestState.COMPUTING:
        return None
    return Step.WORK if request.actual_sats is None else Step.SETTLEMENT


def request_of(session: Session, request: SessionRequest) -> Request:
    """What to ask the ledger for, by `record_grant`, once the real cost is known.

    Its request id is the request's: unique among the host's jobs and requests. Raises
    `IllegalTransition`.
    """
    if request.actual_sats is None:
        refuse(request, "it was not computed yet")
    return Request(request.id, session.identity, session.tier, request.actual_sats)


def invoiced(session: Session, invoice: Invoice, *, at: datetime) -> Session:
    """The invoice for the deposit was made. A second one is refused."""
    if session.invoice is not None and session.invoice.id == invoice.id:
        return session
    if next_step(session) is not Step.INVOICE:
        refuse(session, f"invoice {invoice.id!r} is not its own")
    return moved(session, at, invoice=evolve(_fitting(session, invoice), paid_at=None))


def paid(session: Session, invoice: Invoice, *, at: datetime) -> Session:
    """The deposit was paid, says the node: `active`. Twice, early or late, as for a job."""
    known = session.invoice
    if known is not None and known.id == invoice.id and known.paid_at:
        return session
    waits = session.state in (SessionState.AWAITING_PAYMENT, SessionState.EXPIRED)
    if not waits or (known is not None and known.id != invoice.id):
        refuse(session, f"invoice {invoice.id!r} is not its own")
    return moved(
        session,
        at,
        state=SessionState.ACTIVE,
        invoice=evolve(known or _fitting(session, invoice), paid_at=at),
        balance_sats=session.deposit_sats,
    )


def expired(session: Session, *, at: datetime) -> Session:
    """The deposit was not paid in time, says the node. Before its time, it is refused."""
    if session.state is SessionState.EXPIRED:
        return session
    awaited = session.invoice if next_step(session) is Step.PAYMENT else None
    if awaited is None or at < awaited.expires_at:
        refuse(session, "no invoice of it has expired")
    return moved(session, at, state=SessionState.EXPIRED)


def admitted(
    session: Session, request_id: str, request: str, *, estimate: Decision, at: datetime
) -> tuple[Session, SessionRequest]:
    """A request may be computed: what `estimate` would charge for it is held.

    `estimate` is `FreeTier.decide` on the estimated price. Raises `InsufficientBalance` when the
    balance does not reach, before anything is computed. A request that is known is `repeated`.
    """
    if session.state is not SessionState.ACTIVE:
        refuse(session, "it pays for no request")
    needed = estimate.charge_sats
    if needed > session.free_sats:
        raise InsufficientBalance(session.id, needed, session.free_sats)
    new = SessionRequest(
        id=check_id("request_id", request_id),
        session_id=session.id,
        request=check_text("request", request),
        state=RequestState.COMPUTING,
        held_sats=needed,
        created_at=check_time("at", at),
        updated_at=at,
    )
    return (
        moved(
            session,
            at,
            held_sats=session.held_sats + needed,
            open_requests=session.open_requests + 1,
        ),
        new,
    )


def repeated(known: SessionRequest, session_id: str, request: str) -> SessionRequest:
    """The request that was admitted under this id before. Raises `Conflict` if it was another."""
    if (known.session_id, known.request) != (session_id, request):
        raise Conflict(f"request {known.id!r} was another: of another session, or another text")
    return known


def computed(
    request: SessionRequest,
    result: str,
    *,
    actual_sats: int,
    input_tokens: int,
    output_tokens: int,
    actual_cost_usd: Decimal,
    at: datetime,
) -> SessionRequest:
    """The work is done. Its figures are kept: the ledger is asked to decide on no others."""
    figures: dict[str, object] = {
        "result": check_text("result", result, least=0),
        "actual_sats": check_sats("actual_sats", actual_sats),
        "input_tokens": check_tokens("input_tokens", input_tokens),
        "output_tokens": check_tokens("output_tokens", output_tokens),
        "actual_cost_usd": check_decimal("actual_cost_usd", actual_cost_usd),
    }
    if all(getattr(request, name) == value for name, value in figures.items()):
        return request
    if next_step_of_request(request) is not Step.WORK:
        refuse(request, "there is no work to be done")
    return moved(request, at, **figures)


def debited(
    session: Session, request: SessionRequest, grant: Grant, *, at: datetime
) -> tuple[Session, SessionRequest]:
    """The ledger has decided on the real cost: the balance pays what the pool does not.

    At most what is free of it, with what was held for this request. Credit the pool with it, once:
    `ledger.credit(request.id, request.charged_sats)`, if that is not 0; in the transaction that
    notes both records, or from the noted request.
    """
    asked = (grant.request_id, grant.decision.price_sats)
    if session.id != request.session_id or asked != (request.id, request.actual_sats):
        raise InvalidInput("grant", grant.request_id, f"the grant of {request.id!r} at its cost")
    if request.state is RequestState.COMPLETE:
        return session, request
    if next_step_of_request(request) is not Step.SETTLEMENT:
        refuse(request, "it is not to be settled now")
    charged = min(grant.charge_sats, session.free_sats + request.held_sats)
    return (
        _without(session, request, charged, at),
        moved(
            request,
            at,
            state=RequestState.COMPLETE,
            absorbed_sats=grant.absorb_sats,
            charged_sats=charged,
            unpaid_sats=grant.charge_sats - charged,
        ),
    )


def request_failed(
    session: Session, request: SessionRequest, message: str, *, at: datetime
) -> tuple[Session, SessionRequest]:
    """The work broke: `failed`. Nothing is debited, and nothing is held for it any more."""
    if session.id != request.session_id:
        raise InvalidInput("session", session.id, f"the session of {request.id!r}")
    if request.state is RequestState.FAILED:
        return session, request
    if next_step_of_request(request) is not Step.WORK:
        refuse(request, "there is no work that could fail")
    return (
        _without(session, request, 0, at),
        moved(
            request,
            at,
            state=RequestState.FAILED,
            error_message=check_text("message", message),
        ),
    )


def closed(session: Session, *, at: datetime) -> Session:
    """The caller wants no more: `closed`, and the balance is to be refunded.

    Refused while a request is being computed.
    """
    if session.state is SessionState.CLOSED:
        return session
    if session.state is not SessionState.ACTIVE or session.open_requests:
        refuse(session, "it cannot be closed now")
    return moved(
        session,
        at,
        state=SessionState.CLOSED,
        balance_sats=0,
        refund=session.refund.owed(session.balance_sats),
    )


def _without(session: Session, request: SessionRequest, charged_sats: int, at: datetime) -> Session:
    """The session once the request has ended: debited so much, and holding nothing for it."""
    return moved(
        session,
        at,
        balance_sats=session.balance_sats - charged_sats,
        held_sats=session.held_sats - request.held_sats,
        open_requests=session.open_requests - 1,
    )


def _fitting(session: Session, invoice: Invoice) -> Invoice:
    if invoice.amount_sats != session.deposit_sats:
        raise InvalidInput("invoice", invoice.amount_sats, f"one of {session.deposit_sats} sats")
    return invoice

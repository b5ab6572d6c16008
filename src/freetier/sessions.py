"""A prepaid balance that many requests are paid from: records, and how one follows another.

The caller pays a deposit once. Each request is admitted on an estimate, computed, and then, on its
real cost, decided by the ledger; the balance is debited only what the pool does not pay. What a
request may cost is held while it is computed, so the balance never goes below 0, however many
requests run at once.

As for jobs: the host keeps the records and does the I/O, `next_step` and `next_step_of_request`
say which, an event that repeats what is noted changes nothing, and one that does not fit raises
`IllegalTransition`. An event that changes two records gives both: note them in one transaction.
Raises `InvalidInput`, whatever the state; only whether an invoice is of the deposit's amount is
looked at after it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from attrs import evolve

from freetier._records import Step, check_event, check_record_id, check_text, moved, refuse
from freetier._refunding import refund_begun, refund_broken, refund_paid, refund_to
from freetier._session import (
    KIND,
    RequestState,
    Session,
    SessionRequest,
    SessionState,
    next_step,
    next_step_of_request,
    request_of,
)
from freetier.entries import Grant
from freetier.errors import Conflict, InsufficientBalance, InvalidInput
from freetier.invoices import Invoice, Refund, RefundState
from freetier.pricing import check_decimal, check_tokens
from freetier.values import Decision, Limit, check_id, check_sats, check_time, check_type

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


def invoiced(session: Session, invoice: Invoice, *, at: datetime) -> Session:
    """The invoice for the deposit was made. A second one is refused."""
    check_event("session", session, Session, at)
    check_type("invoice", invoice, Invoice)
    if session.invoice is not None and session.invoice.id == invoice.id:
        return session
    if next_step(session) is not Step.INVOICE:
        refuse(session, f"invoice {invoice.id!r} is not its own")
    return moved(session, at, invoice=evolve(_fitting(session, invoice), paid_at=None))


def paid(session: Session, invoice: Invoice, *, at: datetime) -> Session:
    """The deposit was paid, says the node: `active`. Twice, early or late, as for a job."""
    check_event("session", session, Session, at)
    check_type("invoice", invoice, Invoice)
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
    check_event("session", session, Session, at)
    if session.state is SessionState.EXPIRED:
        return session
    awaited = session.invoice if next_step(session) is Step.PAYMENT else None
    if awaited is None or at < awaited.expires_at:
        refuse(session, "no invoice of it has expired")
    return moved(session, at, state=SessionState.EXPIRED)


def admitted(
    session: Session,
    request_id: str,
    request: str,
    *,
    estimate: Decision,
    at: datetime,
    promised_elsewhere_sats: int = 0,
) -> tuple[Session, SessionRequest]:
    """A request may be computed: what its estimate leaves to the caller is held.

    `request_id` is 1 to 248 characters, and of no other request of any session. `estimate` is
    `FreeTier.decide` on the estimated price. What the requests that are open count on from the
    pool is counted once: those of this session, and `promised_elsewhere_sats` of the identity's
    other sessions. Raises `InsufficientBalance` when the balance does not reach, before anything
    is computed. A request that is known is `repeated`.
    """
    check_event("session", session, Session, at)
    check_record_id("request_id", KIND, request_id)
    check_text("request", request)
    check_type("estimate", estimate, Decision)
    check_sats("promised_elsewhere_sats", promised_elsewhere_sats)
    if session.state is not SessionState.ACTIVE:
        refuse(session, "it pays for no request")
    unpromised = _room(estimate) - session.promised_sats
    promised = max(0, min(estimate.absorb_sats, unpromised - promised_elsewhere_sats))
    held = estimate.price_sats - promised
    # Others may have taken what was promised here; the balance must reach for that as well.
    needed = held + max(0, -unpromised)
    if needed > session.free_sats:
        raise InsufficientBalance(session.id, needed, session.free_sats)
    new = SessionRequest(
        id=request_id,
        session_id=session.id,
        request=request,
        state=RequestState.COMPUTING,
        held_sats=held,
        promised_sats=promised,
        created_at=at,
        updated_at=at,
    )
    return (
        moved(
            session,
            at,
            held_sats=session.held_sats + held,
            promised_sats=session.promised_sats + promised,
            open_requests=session.open_requests + 1,
        ),
        new,
    )


def repeated(known: SessionRequest, session_id: str, request: str) -> SessionRequest:
    """The request that was admitted under this id before. Raises `Conflict` if it was another."""
    check_type("known", known, SessionRequest)
    check_id("session_id", session_id)
    check_text("request", request)
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
    check_event("request", request, SessionRequest, at)
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
    `ledger.credit(request.ledger_id, request.charged_sats)`, if that is not 0; in the transaction
    that notes both records, or from the noted request.
    """
    check_type("session", session, Session)
    check_event("request", request, SessionRequest, at)
    check_type("grant", grant, Grant)
    its_own = (
        session.id == request.session_id
        and grant.request_id == request.ledger_id
        and (grant.identity, grant.tier) == (session.identity, session.tier)
        and grant.decision.price_sats == request.actual_sats
    )
    if not its_own:
        expected = f"the grant of {request.ledger_id!r} at its cost"
        raise InvalidInput("grant", grant.request_id, expected)
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
    """The work broke, or cannot be settled: `failed`. Nothing is debited, nothing stays held.

    If the ledger has already decided on it, note `debited`: what the pool paid is not given back.
    """
    check_type("session", session, Session)
    check_event("request", request, SessionRequest, at)
    check_text("message", message)
    if session.id != request.session_id:
        raise InvalidInput("session", session.id, f"the session of {request.id!r}")
    if request.state is RequestState.FAILED:
        return session, request
    if next_step_of_request(request) is None:
        refuse(request, "there is nothing that could fail")
    return (
        _without(session, request, 0, at),
        moved(
            request,
            at,
            state=RequestState.FAILED,
            error_message=message,
        ),
    )


def closed(session: Session, *, at: datetime) -> Session:
    """The caller wants no more: `closed`, and the balance is to be refunded.

    Refused while a request is being computed.
    """
    check_event("session", session, Session, at)
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


def _room(estimate: Decision) -> int:
    """What the pool has for several requests: the least of its limits but the one for each."""
    rooms = estimate.rooms.items()
    return min((sats for limit, sats in rooms if limit != Limit.PER_REQUEST), default=0)


def _without(session: Session, request: SessionRequest, charged_sats: int, at: datetime) -> Session:
    """The session once the request has ended: debited so much, and holding nothing for it."""
    left = {
        "held_sats": session.held_sats - request.held_sats,
        "promised_sats": session.promised_sats - request.promised_sats,
        "open_requests": session.open_requests - 1,
    }
    if min(left.values()) < 0:
        refuse(session, f"it holds nothing for request {request.id!r}: an old version, perhaps")
    return moved(session, at, balance_sats=session.balance_sats - charged_sats, **left)


def _fitting(session: Session, invoice: Invoice) -> Invoice:
    if invoice.amount_sats != session.deposit_sats:
        raise InvalidInput("invoice", invoice.amount_sats, f"one of {session.deposit_sats} sats")
    return invoice

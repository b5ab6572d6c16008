"""The records of a session and its requests, and what comes next. Public as `freetier.sessions`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from attrs import field, frozen

from freetier._records import Step, ledger_id, refuse
from freetier._refunding import next_step_of_refund
from freetier.invoices import Invoice, Refund
from freetier.values import Request, check_type

KIND: Final = "request"
"""Of which kind the ledger knows a request's grant and credit to be."""


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
    """A caller's prepaid balance. `held_sats` of it are for the `open_requests`, being computed.

    `promised_sats` is what those count on from the pool, beyond what is held for them.
    """

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
    promised_sats: int = 0
    open_requests: int = 0
    refund: Refund = field(factory=Refund)

    @property
    def free_sats(self) -> int:
        """Balance less held: what the next request may cost its caller."""
        return self.balance_sats - self.held_sats


@frozen
class SessionRequest:
    """A request that a session pays for. A figure that is not known yet is None.

    Of its estimate, `held_sats` are held of the balance, `promised_sats` expected of the pool.
    `charged_sats` is what the balance was debited; `unpaid_sats` is what the balance did not reach
    for, when the work cost more than its estimate: the host's loss, no balance goes below 0.
    """

    id: str
    session_id: str
    request: str = field(repr=False)
    state: RequestState
    held_sats: int
    promised_sats: int
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
    def ledger_id(self) -> str:
        """What the ledger knows its grant and its credit by."""
        return ledger_id(KIND, self.id)

    @property
    def free_tier(self) -> bool:
        """Whether the pool paid for any of it."""
        return self.absorbed_sats > 0


def next_step(session: Session) -> Step | None:
    """What comes next for a session; None when it waits for requests, or has ended."""
    check_type("session", session, Session)
    if session.state is SessionState.AWAITING_PAYMENT:
        return Step.PAYMENT if session.invoice else Step.INVOICE
    return next_step_of_refund(session.refund)


def next_step_of_request(request: SessionRequest) -> Step | None:
    """What comes next for a request: `WORK`, `SETTLEMENT`, or None."""
    check_type("request", request, SessionRequest)
    if request.state is not RequestState.COMPUTING:
        return None
    return Step.WORK if request.actual_sats is None else Step.SETTLEMENT


def request_of(session: Session, request: SessionRequest) -> Request:
    """What to ask the ledger for, by `record_grant`, once the real cost is known.

    Its request id is `request.ledger_id`. Raises `IllegalTransition`.
    """
    check_type("session", session, Session)
    check_type("request", request, SessionRequest)
    if request.actual_sats is None:
        refuse(request, "it was not computed yet")
    return Request(request.ledger_id, session.identity, session.tier, request.actual_sats)

"""The next step and the events of a refund, for every record that can owe one."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, TypeVar

from freetier._records import Record, Step, moved
from freetier.errors import InvalidInput
from freetier.invoices import Refund, RefundState
from freetier.values import check_time


class Refunding(Record, Protocol):
    """A record that can owe its caller something."""

    @property
    def refund(self) -> Refund: ...


R = TypeVar("R", bound=Refunding)


def next_step_of_refund(refund: Refund) -> Step | None:
    """What comes next for a refund; None when nothing is owed."""
    if refund.state is not RefundState.PENDING:
        return None
    if refund.payment_hash is not None:
        return Step.REFUND_PAYMENT
    return Step.DESTINATION if refund.destination is None else Step.REFUND


def refund_to(record: R, destination: str, *, at: datetime) -> R:
    """Where the caller wants a refund, should one be owed: a Lightning address or an invoice."""
    return _noted(record, _refund_of(record, at).addressed(destination), at)


def refund_begun(record: R, destination: str, bolt11: str, payment_hash: str, *, at: datetime) -> R:
    """The refund is about to be paid by this invoice of its destination. To be noted before.

    `destination` is the one that the invoice was asked of. If the caller has said another since,
    it is refused: the invoice is of a place where the refund shall not go.
    """
    return _noted(record, _refund_of(record, at).begun(destination, bolt11, payment_hash), at)


def refund_paid(record: R, payment_hash: str, *, at: datetime) -> R:
    """The refund was paid, says the node."""
    return _noted(record, _refund_of(record, at).paid(payment_hash), at)


def refund_broken(record: R, payment_hash: str, *, at: datetime) -> R:
    """The refund's payment failed for good, says the node. It may be begun anew."""
    return _noted(record, _refund_of(record, at).broken(payment_hash), at)


def _refund_of(record: Refunding, at: datetime) -> Refund:
    check_time("at", at)
    refund = getattr(record, "refund", None)
    if isinstance(refund, Refund):
        return refund
    raise InvalidInput("record", record, "a Job or a Session")


def _noted(record: R, refund: Refund, at: datetime) -> R:
    return record if refund == record.refund else moved(record, at, refund=refund)

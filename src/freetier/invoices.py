"""What goes over Lightning for a job or a session: an invoice in, a refund out. No I/O."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from attrs import evolve, frozen

from freetier._records import check_text
from freetier.errors import IllegalTransition, InvalidInput
from freetier.values import check_id, check_sats, check_time, check_type


@frozen
class Invoice:
    """What a Lightning node asks to be paid: `amount_sats` (from 1) until `expires_at`.

    `id` is what the node knows it by, as a rule its payment hash; `bolt11` is what the caller
    pays. `paid_at` is when the host learnt that it was paid. Raises `InvalidInput`.
    """

    id: str
    bolt11: str
    amount_sats: int
    expires_at: datetime
    paid_at: datetime | None = None

    def __attrs_post_init__(self) -> None:
        check_id("id", self.id)
        check_text("bolt11", self.bolt11)
        check_sats("amount_sats", self.amount_sats, least=1)
        check_time("expires_at", self.expires_at)
        if self.paid_at is not None:
            check_time("paid_at", self.paid_at)


class RefundState(StrEnum):
    """`not_applicable`: nothing is owed; `pending`: owed; `paid`: the caller has it."""

    NOT_APPLICABLE = "not_applicable"
    PENDING = "pending"
    PAID = "paid"


@frozen
class Refund:
    """What the caller gets back, and how far that is.

    `destination` is where the caller wants it: a Lightning address, or an invoice. `bolt11` and
    `payment_hash` are of the invoice that is being paid or was; they are noted before the payment
    begins, so that a host that was killed asks its node about that payment, and never makes
    another. An invoice can be paid once only. Raises `InvalidInput`, as its methods do.
    """

    sats: int = 0
    state: RefundState = RefundState.NOT_APPLICABLE
    destination: str | None = None
    bolt11: str | None = None
    payment_hash: str | None = None

    def __attrs_post_init__(self) -> None:
        check_sats("sats", self.sats)
        check_type("state", self.state, RefundState)
        if (self.sats == 0) is not (self.state is RefundState.NOT_APPLICABLE):
            raise InvalidInput("state", self.state, "not_applicable for 0 sats, only then")
        if self.destination is not None:
            check_text("destination", self.destination)
        if self.bolt11 is not None:
            check_text("bolt11", self.bolt11)
        if self.payment_hash is not None:
            check_id("payment_hash", self.payment_hash)

    def owed(self, sats: int) -> Refund:
        """A refund of so many sats, to be paid; of 0, none."""
        return evolve(
            self,
            sats=sats,
            state=RefundState.PENDING if sats else RefundState.NOT_APPLICABLE,
        )

    def addressed(self, destination: str) -> Refund:
        """To be paid there, unless a payment has begun. Raises `IllegalTransition`."""
        check_text("destination", destination)
        if self.payment_hash is not None and destination != self.destination:
            raise IllegalTransition("a refund that is being paid keeps its destination")
        return evolve(self, destination=destination)

    def begun(self, destination: str, bolt11: str, payment_hash: str) -> Refund:
        """About to be paid by this invoice, which is of this destination.

        Raises `IllegalTransition` when another was begun, when nothing is to be paid, and when it
        is to be paid elsewhere by now.
        """
        check_text("destination", destination)
        check_text("bolt11", bolt11)
        if self.payment_hash == check_id("payment_hash", payment_hash):
            return self
        ready = self.state is RefundState.PENDING and self.destination is not None
        if not ready or self.payment_hash is not None:
            raise IllegalTransition(f"a refund that is {self._shown()} begins no other payment")
        if destination != self.destination:
            raise IllegalTransition("a refund is not paid to a destination that was replaced")
        return evolve(self, bolt11=bolt11, payment_hash=payment_hash)

    def paid(self, payment_hash: str) -> Refund:
        """Paid. Raises `IllegalTransition` for a payment that was not the one begun."""
        check_id("payment_hash", payment_hash)
        if self.payment_hash != payment_hash:
            raise IllegalTransition(f"a refund that is {self._shown()} was not paid by another")
        return evolve(self, state=RefundState.PAID)

    def broken(self, payment_hash: str) -> Refund:
        """The payment failed for good, says the node: another may begin, to where it is said.

        An invoice that the caller gave is used up by that. Raises `IllegalTransition` once it was
        paid, and for a payment that was not the one begun.
        """
        check_id("payment_hash", payment_hash)
        if self.state is not RefundState.PENDING or self.payment_hash != payment_hash:
            raise IllegalTransition(f"a refund that is {self._shown()} did not fail to be paid")
        kept = None if self.destination == self.bolt11 else self.destination
        return evolve(self, destination=kept, bolt11=None, payment_hash=None)

    def _shown(self) -> str:
        by = f" by {self.payment_hash}" if self.payment_hash else ""
        return f"{self.state}{by}"

"""The journal against the outside: which paid invoices lack their credit. Pure, as `audit` is."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from freetier.entries import Kind
from freetier.errors import InvalidInput
from freetier.repository import page_after
from freetier.steps import Steps
from freetier.values import check_id, check_sats


@frozen
class Payment:
    """A payment that was received: its hash, and the sats (from 1) that the payer paid."""

    payment_hash: str
    paid_sats: int


@frozen
class Reconciliation:
    """What a list of payments and the journal's credits say of each other; `ok` if they agree.

    `missing` were paid and not credited: `FreeTier.credit` makes up for each. `differing` were
    credited with another amount than they were paid with; the payment is as the list has it.
    `unlisted` credits are of payments that are not in the list, as it is with a list of one day;
    that alone breaks nothing.
    """

    credited: int
    missing: tuple[Payment, ...]
    differing: tuple[Payment, ...]
    unlisted: int

    @property
    def ok(self) -> bool:
        """Whether every payment was credited, with its amount."""
        return not self.missing and not self.differing


def checked_payments(paid: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The payments by their hashes; the same one twice is one. Raises `InvalidInput`."""
    if not isinstance(paid, Iterable):
        raise InvalidInput("paid", paid, "pairs of a payment hash and the sats paid")
    payments: dict[str, int] = {}
    for payment in paid:
        if not isinstance(payment, tuple) or len(payment) != 2:  # noqa: PLR2004  # a pair
            raise InvalidInput("paid", payment, "pairs of a payment hash and the sats paid")
        payment_hash = check_id("payment_hash", payment[0])
        paid_sats = check_sats("paid_sats", payment[1], least=1)
        if payments.setdefault(payment_hash, paid_sats) != paid_sats:
            raise InvalidInput("paid_sats", paid_sats, f"one amount for {payment_hash!r}")
    return payments


def reconcile(payments: dict[str, int]) -> Steps[Reconciliation]:
    """Hold the payments against the credits, in one pass over the journal."""
    left = dict(payments)
    differing: list[Payment] = []
    unlisted = 0
    seq = 0
    while page := (yield page_after(seq)):
        seq = page[-1].seq
        for entry in page:
            if entry.kind is not Kind.CREDIT:
                continue
            paid_sats = left.pop(entry.key, None)
            if paid_sats is None:
                unlisted += 1
            elif paid_sats != entry.paid_sats:
                differing.append(Payment(entry.key, paid_sats))
    missing = tuple(Payment(key, sats) for key, sats in left.items())
    credited = len(payments) - len(missing) - len(differing)
    return Reconciliation(credited, missing, tuple(differing), unlisted)

"""The port to a Lightning node: what the service asks of it, whichever it is."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from freetier.invoices import Invoice


class NodeError(Exception):
    """The node did not answer, or said no. Nothing is lost: the step stays the next one."""


class Outcome(StrEnum):
    """How a payment out went. A payment that is `pending` may still go either way."""

    PAID = "paid"
    FAILED = "failed"
    PENDING = "pending"


class Node(Protocol):
    """Each method may be called again with the same arguments. Raises `NodeError`."""

    async def invoice(self, key: str, sats: int, ttl: timedelta, memo: str) -> Invoice:
        """The one invoice of this key, made if need be: however often it is asked for."""

    async def is_paid(self, invoice_id: str) -> bool:
        """Whether the node has the sats of this invoice."""

    async def key_of(self, invoice_id: str) -> str | None:
        """The key that an invoice was made for; None if it is not one of ours."""

    async def invoice_of(self, destination: str, sats: int) -> tuple[str, str]:
        """An invoice over so many sats of a refund's destination, and its payment hash."""

    async def pay(self, bolt11: str, payment_hash: str) -> Outcome:
        """Pay an invoice, or say how its payment went: it is paid once, if at all."""

    async def close(self) -> None:
        """Let go of what is held."""

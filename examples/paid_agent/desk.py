"""What the desks for jobs and for sessions share: one at a time, and nothing noted twice."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from datetime import UTC, datetime
from types import ModuleType
from typing import Generic, TypeVar

from freetier import StalePrice
from freetier.errors import IllegalTransition
from freetier.jobs import Job, Step
from freetier.sessions import Session
from freetier.tables import Table

from .lightning import Node, NodeError, Outcome
from .settings import Settings
from .store import Books, Overtaken, Store
from .turns import Turns
from .work import Done, Work, WorkFailed, told

log = logging.getLogger("paid_agent")
WORK = frozenset({Step.WORK})
REFUNDS = frozenset({Step.REFUND, Step.REFUND_PAYMENT})
_ATTEMPTS = 100
T = TypeVar("T")
P = TypeVar("P", Job, Session)
Event = Callable[[Books, P], Awaitable[P]]


class NotFound(Exception):
    """There is no such record, or it is not the caller's; its message is for the caller."""


class Desk(ABC, Generic[P]):
    """Does the next steps. What goes over the network is done outside any transaction."""

    def __init__(
        self,
        store: Store,
        node: Node,
        work: Work,
        settings: Settings,
        *,
        flow: ModuleType,
        table: Table[P],
    ) -> None:
        self.store = store
        self.node = node
        self.work = work
        self.settings = settings
        self._flow = flow  # `freetier.jobs` or `freetier.sessions`: events of the same names
        self._table: Table[P] = table
        self._turns = Turns()

    @abstractmethod
    async def own_step(self, record: P) -> Event[P] | None:
        """Do the part of a step that only this kind has; the rest of it is the event."""

    @abstractmethod
    def may_be_paid_late(self, record: P) -> bool:
        """Whether it ended for want of a payment that may have come since."""

    async def find(self, record_id: str) -> P | None:
        """The record of an id."""
        async with self.store.reading() as books:
            return await books.find(self._table, record_id)

    async def take_up(self, record_id: str) -> None:
        """Go on with a record that ended for want of a payment, if that has come since."""
        record = await self.find(record_id)
        if record is not None and self.may_be_paid_late(record):
            invoice = record.invoice
            try:
                if invoice and await self.node.is_paid(invoice.id):
                    await self._note_or_not(record, simply(self._flow.paid, invoice))
            except NodeError as error:
                log.warning("%s waits: %s", record_id, error)

    async def advance(self, record_id: str, *, but: Container[Step | None] = WORK) -> P | None:
        """Do one step after the other, until the record waits for somebody, or for a step of `but`.

        The record. A step that the node does not answer stays the next.
        """
        record = await self.find(record_id)
        if record is not None and self._flow.next_step(record) in but:
            return record  # and nobody waits for who is doing that step
        async with self._turns.alone(record_id):
            record = await self.find(record_id)
            while record is not None and self._flow.next_step(record) not in but:
                try:
                    event = await self._step(record)
                except (NodeError, StalePrice) as error:
                    log.warning("%s waits: %s", record_id, error)
                    return record
                if event is None:
                    return record
                before, record = record, await self._note_or_not(record, event)
                broke = self._flow.next_step(before) is Step.REFUND_PAYMENT
                if record.version == before.version or broke:  # to be tried in a later round
                    return record
            return record

    async def note(self, record_id: str, event: Event[P]) -> P:
        """Apply an event to what is noted now, and note what it gives; all of it, or nothing."""

        async def apply(books: Books) -> P:
            before = await books.find(self._table, record_id)
            assert before is not None
            after = await event(books, before)
            if after is not before:
                await books.update(self._table, before, after)
            return after

        return await self.transact(apply)

    async def transact(self, what: Callable[[Books], Awaitable[T]]) -> T:
        """Do all of it in one transaction, and again when a record was overtaken meanwhile."""
        for _ in range(_ATTEMPTS):
            with suppress(Overtaken):
                async with self.store.writing() as books:
                    return await what(books)
        raise Overtaken

    async def try_to(self, request: str) -> Done:
        """Do the work. Raises `WorkFailed`, whatever it was that broke: a caller is not kept."""
        limit = asyncio.timeout(self.settings.work_time.total_seconds())
        try:
            async with limit:
                return await self.work.do(request)
        except WorkFailed as error:
            raise WorkFailed(told(str(error), "the work failed")) from error
        except Exception as error:
            if limit.expired():
                raise WorkFailed("the work took too long") from error
            log.exception("the work broke")
            raise WorkFailed("the work broke") from error

    async def _note_or_not(self, record: P, event: Event[P]) -> P:
        """`note`; or the record as it is now, if another event came first and this one is over."""
        try:
            return await self.note(record.id, event)
        except IllegalTransition as error:
            now_noted = await self.find(record.id)
            assert now_noted is not None
            overtaken = now_noted.version != record.version
            log.log(logging.INFO if overtaken else logging.ERROR, "%s", error)
            return now_noted

    async def _step(self, record: P) -> Event[P] | None:
        match self._flow.next_step(record):
            case Step.PAYMENT:
                assert record.invoice is not None
                if await self.node.is_paid(record.invoice.id):
                    return simply(self._flow.paid, record.invoice)
                over = now() >= record.invoice.expires_at
                return simply(self._flow.expired) if over else None
            case Step.REFUND:
                return await self._refund_begins(record)
            case Step.REFUND_PAYMENT:
                return await self._refund_payment(record)
            case _:
                return await self.own_step(record)

    async def _refund_begins(self, record: P) -> Event[P]:
        """A refund begins, unless its invoice is another refund's: that is paid once only."""
        refund = record.refund
        assert refund.destination is not None
        bolt11, payment_hash = await self.node.invoice_of(refund.destination, refund.sats)

        async def begin(books: Books, record: P) -> P:
            of = refund.destination
            begun: P = self._flow.refund_begun(record, of, bolt11, payment_hash, at=now())
            if begun is record or await books.take_for_refund(payment_hash, record):
                return begun
            log.warning("%s: its refund's invoice is another refund's", record.id)
            return record

        return begin

    async def _refund_payment(self, record: P) -> Event[P] | None:
        refund = record.refund
        assert refund.bolt11 is not None
        assert refund.payment_hash is not None
        match await self.node.pay(refund.bolt11, refund.payment_hash):
            case Outcome.PAID:
                return simply(self._flow.refund_paid, refund.payment_hash)
            case Outcome.FAILED:
                return simply(self._flow.refund_broken, refund.payment_hash)
            case Outcome.PENDING:
                return None


def simply(event: Callable[..., P], *arguments: object) -> Event[P]:
    """An event that asks nothing of the ledger."""

    async def apply(_: Books, record: P) -> P:
        return event(record, *arguments, at=now())

    return apply


def now() -> datetime:
    """The host's time."""
    return datetime.now(UTC)

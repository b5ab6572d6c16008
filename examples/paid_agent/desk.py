"""What the desks for jobs and for sessions share: one at a time, and nothing noted twice."""

from __future__ import annotations

import logging
from asyncio import Lock
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

from freetier.errors import IllegalTransition
from freetier.invoices import Invoice
from freetier.tables import Table

from .lightning import Node, NodeError, Outcome
from .settings import Settings
from .store import Books, Overtaken, R, Store
from .work import Done, Work, WorkFailed

log = logging.getLogger("paid_agent")
_ATTEMPTS = 100
T = TypeVar("T")


class Desk:
    """Does the next steps. What goes over the network is done outside any transaction."""

    def __init__(self, store: Store, node: Node, work: Work, settings: Settings) -> None:
        self.store = store
        self.node = node
        self.work = work
        self.settings = settings
        self._busy: dict[str, tuple[Lock, int]] = {}

    @asynccontextmanager
    async def alone(self, record_id: str) -> AsyncIterator[None]:
        """Nobody else in this process does this record's next step."""
        lock, waiting = self._busy.get(record_id, (Lock(), 0))
        self._busy[record_id] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._busy[record_id]
            if waiting == 1:
                del self._busy[record_id]
            else:
                self._busy[record_id] = lock, waiting - 1

    async def note(
        self, table: Table[R], record_id: str, event: Callable[[Books, R], Awaitable[R]]
    ) -> R:
        """Apply an event to what is noted now, and note what it gives; all of it, or nothing.

        An event that does not fit any more has been overtaken by another one: that one stands.
        """

        async def apply(books: Books) -> R:
            before = await books.find(table, record_id)
            assert before is not None
            try:
                after = await event(books, before)
            except IllegalTransition as error:
                log.info("%s", error)
                return before
            if after is not before:
                await books.update(table, before, after)
            return after

        return await self.transact(apply)

    async def transact(self, what: Callable[[Books], Awaitable[T]]) -> T:
        """Do all of it in one transaction, and again when a record was overtaken meanwhile."""
        for _ in range(_ATTEMPTS):
            with suppress(Overtaken):
                async with self.store.writing() as books:
                    return await what(books)
        raise Overtaken

    async def ask_of(self, invoice: Invoice) -> bool | None:
        """True if it was paid, False if it was not in its time, None if it may still be."""
        if await self.node.is_paid(invoice.id):
            return True
        return False if now() >= invoice.expires_at else None

    async def destination_invoice(self, destination: str, sats: int) -> tuple[str, str] | None:
        """An invoice to refund by; None, and a line in the log, if there is none now."""
        try:
            return await self.node.invoice_of(destination, sats)
        except NodeError as error:
            log.warning("no refund of %d sats yet: %s", sats, error)
            return None

    async def try_to(self, request: str) -> Done:
        """Do the work. Raises `WorkFailed`, whatever it was that broke: a caller is not kept."""
        try:
            return await self.work.do(request)
        except WorkFailed:
            raise
        except Exception as error:
            log.exception("the work broke")
            raise WorkFailed("the work broke") from error

    async def pay(self, bolt11: str, payment_hash: str) -> Outcome:
        """Pay a refund; `pending`, and a line in the log, if the node does not say."""
        try:
            return await self.node.pay(bolt11, payment_hash)
        except NodeError as error:
            log.warning("a refund is not paid yet: %s", error)
            return Outcome.PENDING


def now() -> datetime:
    """The host's time."""
    return datetime.now(UTC)

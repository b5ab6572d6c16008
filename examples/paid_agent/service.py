"""The parts of a running service, and what goes on behind: notices, polling, recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

from attrs import define, field

from freetier import Request
from freetier.pricing import Estimate, estimate, price_sats
from freetier.tables import Table
from freetier.values import to_us

from . import paper
from .desk import log, now
from .jobs import JobDesk
from .lightning import Node
from .lnbits import LNbitsNode
from .sessions import Refused, SessionDesk
from .settings import Settings
from .store import R, Store, opened
from .work import TextFacts, Work

LATE = timedelta(days=1)
"""How long after an invoice expired the node is still asked whether it was paid after all."""
AT_ONCE = 10
"""How many records a round brings on at once; callers get what is left of the connections."""


@define
class Service:
    """What the endpoints use."""

    settings: Settings
    store: Store
    node: Node
    work: Work
    jobs: JobDesk
    sessions: SessionDesk
    _running: set[asyncio.Task[object]] = field(factory=set)

    def spawn(self, what: Coroutine[Any, Any, object]) -> None:
        """Do it in the background. What it leaves undone is done by the next round."""

        async def logged() -> None:
            try:
                await what
            except Exception:
                log.exception("left for the next round")

        task: asyncio.Task[object] = asyncio.create_task(logged())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def notice(self, invoice_id: str) -> None:
        """The node, or somebody who claims to be it, says that an invoice was paid: ask the node.

        Also one that was made, and paid, before it could be noted: its key says what it is for.
        """
        async with self.store.reading() as books:
            known = await books.by_invoice(invoice_id)
        if known is None:
            key = await self.node.key_of(invoice_id) or ""
            record_id = key.rpartition(":")[0]
        else:
            record_id = known.id
        if record_id:
            await self._bring_on(record_id)

    async def estimate(self, request: str, identity: str | None) -> Estimate:
        """What a job would cost, and who would pay; nothing is written. Raises `Refused`."""
        verdict = self.work.expect(request)
        if verdict.refused is not None:
            raise Refused(verdict.refused)
        rates = self.settings.rates()
        tokens = {"input_tokens": verdict.input_tokens, "output_tokens": verdict.output_tokens}
        asked = Request(
            uuid4().hex, identity, self.settings.tier_of(identity), price_sats(rates, **tokens)
        )
        async with self.store.reading() as books:
            decision = await books.ledger.decide(asked)
            pool = await books.ledger.pool_status()
        return estimate(rates, **tokens, decision=decision, pool=pool)

    async def round(self) -> None:
        """Bring on everything that has a next step, and what may have been paid late."""
        tables, few = self.store.tables, asyncio.Semaphore(AT_ONCE)

        async def in_turn(what: Coroutine[Any, Any, object]) -> None:
            async with few:
                await what

        async for job in self._unfinished(tables.jobs):
            self.spawn(in_turn(self.jobs.advance(job.id)))
        async for session in self._unfinished(tables.sessions):
            self.spawn(in_turn(self.sessions.advance(session.id)))
        async for request in self._unfinished(tables.session_requests):
            self.spawn(in_turn(self.sessions.resume(request.id)))
        for invoice_id in await self._lately_expired():
            if await self.node.is_paid(invoice_id):
                self.spawn(in_turn(self.notice(invoice_id)))
        while self._running:
            await asyncio.wait(set(self._running))

    async def rounds(self) -> None:
        """A round now, for what an earlier process left, and one every so often."""
        while True:
            try:
                await self.round()
            except Exception:
                log.exception("this round did not end")
            await asyncio.sleep(self.settings.poll.total_seconds())

    async def close(self) -> None:
        """Let what is running end where it may stop."""
        for task in set(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.node.close()

    async def _bring_on(self, record_id: str) -> None:
        await self.jobs.take_up(record_id)
        await self.sessions.take_up(record_id)

    async def _unfinished(self, table: Table[R]) -> AsyncIterator[R]:
        after = ""
        while True:
            async with self.store.reading() as books:
                page = await books.unfinished(table, after)
            for record in page:
                yield record
                after = record.id
            if not page:
                return

    async def _lately_expired(self) -> list[str]:
        since = {"since": to_us(now() - LATE)}
        tables = self.store.tables
        async with self.store.reading() as books:
            jobs = await books.select(tables.jobs, _EXPIRED_JOBS, since)
            sessions = await books.select(tables.sessions, _EXPIRED_SESSIONS, since)
        invoices = [job.invoice for job in jobs if job.expired]
        invoices += [session.invoice for session in sessions]
        return [invoice.id for invoice in invoices if invoice is not None]


_EXPIRED_JOBS = "SELECT * FROM paid_jobs WHERE state = 'failed' AND updated_at_us >= :since"
_EXPIRED_SESSIONS = (
    "SELECT * FROM paid_sessions WHERE state = 'expired' AND updated_at_us >= :since"
)


@asynccontextmanager
async def running(
    settings: Settings, *, node: Node | None = None, work: Work | None = None
) -> AsyncIterator[Service]:
    """The service on its database, with its rounds in the background."""
    async with opened(settings.db, settings.policy, paper.TABLE) as store:
        if node is None:
            node = _node(settings, store)
        work = work or TextFacts()
        made = Service(
            settings,
            store,
            node,
            work,
            JobDesk(store, node, work, settings),
            SessionDesk(store, node, work, settings),
        )
        rounds = asyncio.create_task(made.rounds())
        try:
            yield made
        finally:
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)
            await made.close()


def _node(settings: Settings, store: Store) -> Node:
    if settings.lnbits_url is None or settings.lnbits_key is None:
        return paper.PaperNode(store)
    return LNbitsNode(
        settings.lnbits_url,
        settings.lnbits_key,
        f"{settings.url}/api/lightning/notice",
        plain_addresses=settings.plain_addresses,
    )

"""The parts of a running service, and what goes on behind: notices, polling, recovery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from attrs import define, field

from freetier import InvalidInput, Request, jobs, sessions
from freetier.jobs import Step
from freetier.pricing import Estimate, estimate, price_sats
from freetier.sessions import Session
from freetier.tables import Table

from . import paper, proofs
from .background import Backoff, Crew
from .desk import REFUNDS, WORK, P, log, now
from .jobs import JobDesk
from .lightning import Node
from .lnbits import LNbitsNode
from .proofs import UsedProofs
from .sessions import SessionDesk
from .settings import Settings
from .store import R, Store, opened
from .work import NOT_SOLD, Refused, TextFacts, Work, expected

LATE = timedelta(days=1)
"""How long after an invoice expired the node is still asked whether it was paid after all."""
AT_ONCE = 10
"""How many of each kind are brought on at once; callers get what is left of the connections."""
SOON_S = 2
"""How long a caller waits for a refund that was asked for; it is paid later else."""
MOST_RARELY_S = 3600
"""How seldom at most a refund that cannot be paid is tried, and a late payment asked for."""
MOST_NOTICES = 100
"""How many notices are looked into; who sends more is told to come again, or a round finds it."""


@define
class Service:
    """What the endpoints use."""

    settings: Settings
    store: Store
    node: Node
    work: Work
    jobs: JobDesk
    sessions: SessionDesk
    proofs: UsedProofs
    backoff: Backoff
    _stopping: asyncio.Event = field(factory=asyncio.Event)
    _quick: Crew = field(factory=lambda: Crew(AT_ONCE))
    _works: Crew = field(factory=lambda: Crew(AT_ONCE))
    _refunds: Crew = field(factory=lambda: Crew(AT_ONCE))
    _late: Crew = field(factory=lambda: Crew(AT_ONCE))
    _requests: Crew = field(factory=lambda: Crew(AT_ONCE))
    _notices: Crew = field(factory=lambda: Crew(AT_ONCE, MOST_NOTICES))

    def bring_on_job(self, job_id: str) -> asyncio.Task[None]:
        """In the background: every step that is due.

        Work and refunds have crews of their own: how long they take is for others to say.
        """

        async def until_slow() -> None:
            job = await self.jobs.advance(job_id, but=WORK | REFUNDS)
            if job is not None and jobs.next_step(job) is Step.WORK:
                self._works.start(job_id, work_and_go_on)
            elif job is not None and jobs.next_step(job) in REFUNDS:
                self._refund(f"job {job_id}", partial(self.jobs.advance, job_id))

        async def work_and_go_on() -> None:
            await self.jobs.work_on(job_id)
            if not self._stopping.is_set():
                self.bring_on_job(job_id)

        return self._quick.start(f"job {job_id}", until_slow)

    def bring_on_session(self, session_id: str) -> asyncio.Task[None]:
        """In the background: every step that is due; as for a job."""

        async def until_slow() -> None:
            session = await self.sessions.advance(session_id, but=REFUNDS)
            if session is not None and sessions.next_step(session) in REFUNDS:
                self._refund(f"session {session_id}", partial(self.sessions.advance, session_id))

        return self._quick.start(f"session {session_id}", until_slow)

    async def refund_job(self, job_id: str) -> None:
        """Pay what is owed to a job's caller, who waits for it, if it does not take long."""
        await self._refund_soon(f"job {job_id}", partial(self.jobs.advance, job_id))

    async def refund_session(self, session_id: str) -> None:
        """Pay what is left of a session, as `refund_job` does."""
        await self._refund_soon(f"session {session_id}", partial(self.sessions.advance, session_id))

    async def _refund_soon(self, name: str, what: Callable[[], Awaitable[object]]) -> None:
        await asyncio.wait([self._refunds.start(name, what)], timeout=SOON_S)

    def _refund(self, name: str, what: Callable[[], Awaitable[object]]) -> None:
        """Try to pay a refund; one that cannot be paid, less and less often."""
        if self.backoff.is_due(name):
            self._refunds.start(name, what)

    def notice(self, invoice_id: str) -> asyncio.Task[None]:
        """The node, or somebody who claims to be it, says that an invoice was paid: ask the node.

        Raises `Crowded`.
        """
        return self._notices.start(invoice_id, lambda: self._look_into(invoice_id))

    async def _look_into(self, invoice_id: str) -> None:
        """Also an invoice that was made, and paid, before it could be noted: its key says for what.

        And one that was paid after its job or session had given it up.
        """
        async with self.store.reading() as books:
            known = await books.by_invoice(invoice_id)
        if known is None:
            key = await self.node.key_of(invoice_id) or ""
            record_id, _, stage = key.rpartition(":")
            of_session = stage == "deposit"
        else:
            record_id, of_session = known.id, isinstance(known, Session)
        if record_id and of_session:
            await self.sessions.take_up(record_id)
            self.bring_on_session(record_id)
        elif record_id:
            await self.jobs.take_up(record_id)
            self.bring_on_job(record_id)

    async def estimate(self, request: str, identity: str | None) -> Estimate:
        """What a job would cost, and who would pay; nothing is written. Raises `Refused`."""
        verdict = expected(self.work, request)
        rates = self.settings.rates()
        tokens = {"input_tokens": verdict.input_tokens, "output_tokens": verdict.output_tokens}
        asked = Request(
            uuid4().hex, identity, self.settings.tier_of(identity), price_sats(rates, **tokens)
        )
        async with self.store.reading() as books:
            try:
                decision = await books.ledger.decide(asked)
            except InvalidInput as error:  # a tier that the policy does not have
                log.error("an estimate: %s", error)
                raise Refused(NOT_SOLD) from error
            pool = await books.ledger.pool_status()
        return estimate(rates, **tokens, decision=decision, pool=pool)

    async def round(self) -> None:
        """Bring on everything that has a next step.

        What is slow is waited for no longer than for two rounds, and goes on by itself.
        """
        await self.proofs.forget(now())
        self.backoff.forget()
        tables = self.store.tables
        async for found in self._unfinished(tables.jobs):
            await self._begun([self.bring_on_job(job.id) for job in found])
        async for due in self._unfinished(tables.sessions):
            await self._begun([self.bring_on_session(session.id) for session in due])
        async for asked in self._unfinished(tables.session_requests):
            for request in asked:
                if not self.sessions.is_served(request.id):
                    self._requests.start(request.id, partial(self.sessions.resume, request.id))

    async def late_round(self) -> None:
        """Ask for what may have been paid after it was given up."""
        tables = self.store.tables
        for late in (self._lately_expired(tables.jobs), self._lately_expired(tables.sessions)):
            async for ids in late:
                tasks = [
                    self._late.start(invoice_id, partial(self._look_into, invoice_id))
                    for invoice_id in ids
                    if self.backoff.is_due(f"invoice {invoice_id}")
                ]
                await self._begun(tasks)

    async def _begun(self, tasks: list[asyncio.Task[None]]) -> None:
        if not tasks:
            return
        await self._or_stopping(asyncio.wait(tasks, timeout=2 * self.settings.poll.total_seconds()))

    async def rounds(self, one: Callable[[], Awaitable[None]]) -> None:
        """A round now, for what an earlier process left, and one every so often."""
        while not self._stopping.is_set():
            try:
                await one()
            except Exception:
                log.exception("this round did not end")
            await self._or_stopping(asyncio.sleep(self.settings.poll.total_seconds()))

    async def _or_stopping(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Wait, but no longer once the service stops."""
        both = [asyncio.create_task(waiting), asyncio.create_task(self._stopping.wait())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()

    def stop(self) -> None:
        """Begin no other round, and wait for nothing in the one that is under way."""
        self._stopping.set()

    async def close(self) -> None:
        """Let what is running end where it may stop."""
        crews = (self._notices, self._late, self._quick, self._works, self._refunds, self._requests)
        for crew in crews:
            await crew.close()
        await self.node.close()

    async def _unfinished(self, table: Table[R]) -> AsyncIterator[list[R]]:
        """Page after page."""
        after = ""
        while True:
            async with self.store.reading() as books:
                page = await books.unfinished(table, after)
            if not page:
                return
            yield page
            after = page[-1].id

    async def _lately_expired(self, table: Table[P]) -> AsyncIterator[list[str]]:
        """The invoices, page after page, of what ended lately for want of a payment."""
        since, after = now() - LATE, ""
        while True:
            async with self.store.reading() as books:
                page = await books.expired(table, since, after)
            if not page:
                return
            yield [record.invoice.id for record in page if record.invoice is not None]
            since, after = page[-1].updated_at, page[-1].id


@asynccontextmanager
async def running(
    settings: Settings, *, node: Node | None = None, work: Work | None = None
) -> AsyncIterator[Service]:
    """The service on its database, with its rounds in the background."""
    async with opened(settings.db, settings.policy, paper.TABLE, *proofs.TABLES) as store:
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
            UsedProofs(store),
            Backoff(settings.poll.total_seconds(), MOST_RARELY_S),
        )
        # Two, so that nobody waits while the node is asked for what was given up.
        rounds = [made.rounds(made.round), made.rounds(made.late_round)]
        tasks = [asyncio.create_task(each) for each in rounds]
        try:
            yield made
        finally:
            made.stop()
            await asyncio.gather(*tasks)
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

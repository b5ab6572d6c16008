"""The desk for jobs: does the next steps, whatever was interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from freetier import Conflict, StalePrice, jobs
from freetier.jobs import Job, Step
from freetier.pricing import cost_usd, price_sats

from .desk import Desk, log, now
from .lightning import NodeError, Outcome
from .store import Books
from .work import WorkFailed

Event = Callable[[Books, Job], Awaitable[Job]]


class JobDesk(Desk):
    """Creates jobs and brings them on."""

    async def create(
        self, job_id: str, request: str, identity: str | None, refund_to: str | None
    ) -> tuple[Job, bool]:
        """The job of this id, and whether it is new. Raises `Conflict` if the id is of another."""
        new = jobs.create(
            job_id,
            request,
            eval_amount_sats=self.settings.eval_sats,
            identity=identity,
            tier=self.settings.tier_of(identity),
            at=now(),
        )
        if refund_to is not None:
            new = jobs.refund_to(new, refund_to, at=now())
        async with self.store.writing() as books:
            made = await books.insert(books.tables.jobs, new)
            job = new if made else await books.find(books.tables.jobs, job_id)
        assert job is not None
        if (job.request, job.identity) != (request, identity):
            raise Conflict(f"job {job_id!r} is another one")
        return job, made

    async def refund_to(self, job_id: str, destination: str) -> Job:
        """Say where a refund goes, and have it paid if it is owed."""
        return await self.note(self.store.tables.jobs, job_id, _simply(jobs.refund_to, destination))

    async def find(self, job_id: str) -> Job | None:
        """The job of an id."""
        async with self.store.reading() as books:
            return await books.find(books.tables.jobs, job_id)

    async def take_up(self, job_id: str) -> None:
        """Bring a job on, also one that failed for want of a payment that has come since."""
        job = await self.find(job_id)
        if job and job.expired and job.invoice and await self.node.is_paid(job.invoice.id):
            await self.note(self.store.tables.jobs, job_id, _simply(jobs.paid, job.invoice))
        await self.advance(job_id)

    async def advance(self, job_id: str, *, up_to: Step | None = None) -> Job | None:
        """Do one step after the other, until the job waits for somebody; the job.

        Stops before a step `up_to`. A step that the node does not answer stays the next.
        """
        job = await self.find(job_id)
        if job is not None and jobs.next_step(job) is up_to is not None:
            return job  # and nobody waits for who is doing that step
        async with self.alone(job_id):
            job = await self.find(job_id)
            while job is not None and jobs.next_step(job) is not up_to:
                try:
                    event = await self._step(job)
                except (NodeError, StalePrice) as error:
                    log.warning("job %s waits: %s", job_id, error)
                    return job
                if event is None:
                    return job
                before, job = job, await self.note(self.store.tables.jobs, job_id, event)
                broke = jobs.next_step(before) is Step.REFUND_PAYMENT
                if job.version == before.version or broke:  # to be tried in a later round
                    return job
            return job

    async def _step(self, job: Job) -> Event | None:  # noqa: PLR0911  # one line a step reads best
        """Do the part of the next step that is not a matter of our books; the rest is the event."""
        match jobs.next_step(job):
            case Step.INVOICE:
                stage = "eval" if job.work_amount_sats is None else "work"
                made = await self.node.invoice(
                    f"{job.id}:{stage}", job.asked_sats, self.settings.invoice_ttl, "text work"
                )
                return _simply(jobs.invoiced, made)
            case Step.PAYMENT:
                assert job.invoice is not None
                paid = await self.ask_of(job.invoice)
                if paid is None:
                    return None
                return _simply(jobs.paid, job.invoice) if paid else _simply(jobs.expired)
            case Step.EVALUATION:
                return self._evaluation(job)
            case Step.WORK:
                return await self._work(job)
            case Step.GRANT:
                return self._grant
            case Step.SETTLEMENT:
                return _settle
            case Step.RELEASE:
                return _release
            case Step.REFUND:
                assert job.refund.destination is not None
                to = await self.destination_invoice(job.refund.destination, job.refund.sats)
                return to and _refund_by(*to)
            case Step.REFUND_PAYMENT:
                return await self._refund(job)
            case _:
                return None

    def _evaluation(self, job: Job) -> Event:
        verdict = self.work.expect(job.request)
        if verdict.refused is not None:
            return _simply(jobs.rejected, verdict.refused)
        rates = self.settings.rates()
        tokens = {"input_tokens": verdict.input_tokens, "output_tokens": verdict.output_tokens}
        price, cost = price_sats(rates, **tokens), cost_usd(rates, **tokens)

        async def price_and_grant(books: Books, job: Job) -> Job:
            priced = jobs.priced(job, price, estimated_cost_usd=cost, rates=rates, at=now())
            return await self._grant(books, priced)

        return price_and_grant

    async def _grant(self, books: Books, job: Job) -> Job:
        try:
            grant = await books.ledger.reserve(jobs.request_of(job), ttl=self.settings.grant_ttl)
        except Conflict:  # something else has this id in the ledger, and it will stay so
            return jobs.work_failed(job, "its id was used before", at=now())
        return jobs.granted(job, grant, at=now())

    async def _work(self, job: Job) -> Event:
        try:
            done = await self.try_to(job.request)
        except WorkFailed as error:
            message = str(error)

            async def fail(books: Books, job: Job) -> Job:
                return await _release(books, jobs.work_failed(job, message, at=now()))

            return fail
        rates = self.settings.rates_of(job)
        tokens = {"input_tokens": done.input_tokens, "output_tokens": done.output_tokens}

        async def work_and_settle(books: Books, job: Job) -> Job:
            worked = jobs.worked(
                job,
                done.result,
                actual_sats=price_sats(rates, **tokens),
                actual_cost_usd=cost_usd(rates, **tokens),
                **tokens,
                at=now(),
            )
            return await _settle(books, worked)

        return work_and_settle

    async def _refund(self, job: Job) -> Event | None:
        refund = job.refund
        assert refund.bolt11 is not None
        assert refund.payment_hash is not None
        match await self.pay(refund.bolt11, refund.payment_hash):
            case Outcome.PAID:
                return _simply(jobs.refund_paid, refund.payment_hash)
            case Outcome.FAILED:
                return _simply(jobs.refund_broken, refund.payment_hash)
            case Outcome.PENDING:
                return None


async def _settle(books: Books, job: Job) -> Job:
    """Settle, and credit the pool with what the caller paid in the end."""
    settlement = jobs.settlement_without_grant(job)
    if settlement is None:
        settlement = await books.ledger.settle(job.id, job.actual_sats)
    if settlement.charged_sats:
        assert job.work_invoice is not None
        await books.ledger.credit(job.work_invoice.id, settlement.charged_sats)
    return jobs.completed(job, settlement, at=now())


async def _release(books: Books, job: Job) -> Job:
    """Give back what the pool holds, unless it has already expired."""
    if job.free_tier:
        with suppress(Conflict):
            await books.ledger.release(job.id)
    return jobs.failed(job, at=now())


def _refund_by(bolt11: str, payment_hash: str) -> Event:
    """A refund begins, unless its invoice is another refund's: that is paid once only."""

    async def apply(books: Books, job: Job) -> Job:
        if await books.is_refunding(payment_hash, job.id):
            log.warning("job %s: its refund's invoice is another refund's", job.id)
            return job
        return jobs.refund_begun(job, bolt11, payment_hash, at=now())

    return apply


def _simply(event: Callable[..., Job], *arguments: object) -> Event:
    """An event that asks nothing of the ledger."""

    async def apply(_: Books, job: Job) -> Job:
        return event(job, *arguments, at=now())

    return apply

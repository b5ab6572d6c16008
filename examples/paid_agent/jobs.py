"""The desk for jobs: does the next steps, whatever was interrupted."""

from __future__ import annotations

from contextlib import suppress

from freetier import Conflict, InvalidInput, jobs
from freetier.jobs import Job, Step
from freetier.pricing import cost_usd, price_sats

from .desk import Desk, Event, log, now, simply
from .lightning import Node
from .settings import Settings
from .store import Books, Store
from .work import NOT_SOLD, Refused, Work, WorkFailed, expected


class JobDesk(Desk[Job]):
    """Creates jobs and brings them on."""

    def __init__(self, store: Store, node: Node, work: Work, settings: Settings) -> None:
        super().__init__(store, node, work, settings, flow=jobs, table=store.tables.jobs)

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
        if refund_to not in (None, job.refund.destination):
            raise Conflict(f"job {job_id!r} has another destination for its refund, or none")
        return job, made

    async def refund_to(self, job_id: str, destination: str) -> Job:
        """Say where a refund goes. Raises `Conflict` when its payment has begun elsewhere."""
        return await self.note(job_id, simply(jobs.refund_to, destination))

    def may_be_paid_late(self, job: Job) -> bool:
        """See `Desk.may_be_paid_late`."""
        return job.expired

    async def work_on(self, job_id: str) -> None:
        """Do the work of a job, if that is its next step.

        It takes its time, so nobody who asks for the other steps waits for it.
        """
        async with self._turns.alone(f"work of {job_id}"):
            job = await self.find(job_id)
            if job is None or jobs.next_step(job) is not Step.WORK:
                return
            worked = await self._work(job)

            async def work_and_settle(books: Books, job: Job) -> Job:
                after = await worked(books, job)
                if jobs.next_step(after) is Step.SETTLEMENT:
                    return await _settle(books, after)
                return after

            try:
                await self._note_or_not(job, work_and_settle)
            except Exception:
                await self._note_or_not(job, worked)  # so that it is not done again
                raise

    async def own_step(self, job: Job) -> Event[Job] | None:
        """See `Desk.own_step`."""
        match jobs.next_step(job):
            case Step.INVOICE:
                return await self._invoice(job)
            case Step.EVALUATION:
                return self._evaluation(job)
            case Step.GRANT:
                return self._grant
            case Step.SETTLEMENT:
                return _settle
            case Step.RELEASE:
                return _release
            case _:
                return None

    async def _invoice(self, job: Job) -> Event[Job]:
        """Have it made, to be paid while the grant holds; too late for that, the job expires."""
        stage, ttl = "eval" if job.work_amount_sats is None else "work", self.settings.invoice_ttl
        if job.free_tier:
            async with self.store.reading() as books:
                grant = await books.ledger.grant(job.ledger_id)
            assert grant.expires_at is not None
            ttl = min(ttl, grant.expires_at - self.settings.work_time - now())
            if ttl < self.settings.invoice_ttl / 2:
                return simply(jobs.expired)
        made = await self.node.invoice(f"{job.id}:{stage}", job.asked_sats, ttl, "text work")
        return simply(jobs.invoiced, made)

    def _evaluation(self, job: Job) -> Event[Job]:
        rates = self.settings.rates()
        try:
            verdict = expected(self.work, job.request)
            tokens = {"input_tokens": verdict.input_tokens, "output_tokens": verdict.output_tokens}
            price, cost = price_sats(rates, **tokens), cost_usd(rates, **tokens)
        except Refused as error:
            return simply(jobs.rejected, str(error))
        except Exception:
            log.exception("job %s: its evaluation broke", job.id)
            return _failing("the evaluation broke")

        async def price_and_grant(books: Books, job: Job) -> Job:
            priced = jobs.priced(job, price, estimated_cost_usd=cost, rates=rates, at=now())
            return await self._grant(books, priced)

        return price_and_grant

    async def _grant(self, books: Books, job: Job) -> Job:
        try:
            grant = await books.ledger.reserve(jobs.request_of(job), ttl=self.settings.grant_ttl)
        except InvalidInput as error:  # a tier that the policy has no more, say
            log.error("job %s: %s", job.id, error)
            return await _release(books, jobs.work_failed(job, NOT_SOLD, at=now()))
        return jobs.granted(job, grant, at=now())

    async def _work(self, job: Job) -> Event[Job]:
        rates = self.settings.rates_of(job)
        try:
            done = await self.try_to(job.request)
            tokens = {"input_tokens": done.input_tokens, "output_tokens": done.output_tokens}
            figures = {"actual_sats": price_sats(rates, **tokens), **tokens}
            cost = cost_usd(rates, **tokens)
            jobs.worked(job, done.result, **figures, actual_cost_usd=cost, at=now())
        except WorkFailed as error:
            return _failing(str(error))
        except InvalidInput as error:  # no text that can be kept, or no figures
            log.error("job %s: what the work gave: %s", job.id, error)
            return _failing("the work gave nothing that can be kept")

        async def worked(_: Books, job: Job) -> Job:
            return jobs.worked(job, done.result, **figures, actual_cost_usd=cost, at=now())

        return worked


async def _settle(books: Books, job: Job) -> Job:
    """Settle, and credit the pool with what the caller paid in the end."""
    settlement = jobs.settlement_without_grant(job)
    if settlement is None:
        settlement = await books.ledger.settle(job.ledger_id, job.actual_sats)
    if settlement.charged_sats:
        assert job.work_invoice is not None
        await books.ledger.credit(job.work_invoice.id, settlement.charged_sats)
    return jobs.completed(job, settlement, at=now())


def _failing(message: str) -> Event[Job]:
    """The evaluation or the work broke."""

    async def fail(books: Books, job: Job) -> Job:
        return await _release(books, jobs.work_failed(job, message, at=now()))

    return fail


async def _release(books: Books, job: Job) -> Job:
    """Give back what the pool holds, unless it has already expired."""
    if job.free_tier:
        with suppress(Conflict):
            await books.ledger.release(job.ledger_id)
    return jobs.failed(job, at=now())

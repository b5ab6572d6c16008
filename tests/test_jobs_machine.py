"""Every order of what can happen to jobs: paid, twice, late, never, crashes, failures, retries.

The node is a plain one in memory, the ledger the readable model: what is tested is the records.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from attrs import define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from freetier import Conflict, FreeTier, FreeTierPolicy, Kind, jobs
from freetier.jobs import Invoice, Job, JobState, RefundState, Step
from freetier.memory import MemoryRepository
from freetier.pricing import Rates
from freetier.testing import Clock

RATES = Rates(Decimal(1), Decimal(2), Decimal(10), Decimal(100_000))
POLICY = FreeTierPolicy(
    budgets={"new": 0, "trusted": 60, "elite": 90}, seed_sats=120, credit_share_bp=1250
)
INVOICE_TTL = timedelta(minutes=10)
GRACE = timedelta(minutes=5)
CALLERS = st.sampled_from([("ada", "elite"), ("bob", "trusted"), ("cyd", "new"), (None, "new")])
JOBS = st.integers(0, 2).map("job-{}".format)
CRASHES = st.sampled_from([False, False, False, True])
ENDS = (JobState.REJECTED, JobState.COMPLETE, JobState.FAILED)


@define
class Node:
    """A Lightning node: one invoice a key, each paid once; it remembers what it paid out."""

    invoices: dict[str, Invoice] = field(factory=dict)
    paid: set[str] = field(factory=set)
    sent: dict[str, int] = field(factory=dict)

    def invoice(self, key: str, sats: int, now: datetime) -> Invoice:
        made = Invoice(f"hash-{key}", f"lnbc-{key}", sats, now + INVOICE_TTL)
        return self.invoices.setdefault(key, made)

    def send(self, payment_hash: str, sats: int) -> None:
        self.sent.setdefault(payment_hash, sats)


class JobsMachine(RuleBasedStateMachine):
    def __init__(self, met: Counter[str]) -> None:
        super().__init__()
        self.met = met
        self.clock = Clock()
        self.ledger = FreeTier(POLICY, MemoryRepository(), clock=self.clock)
        self.ledger.seed()
        self.node = Node()
        self.noted: dict[str, Job] = {}
        self.quoted: dict[str, int] = {}

    @property
    def now(self) -> datetime:
        return self.clock()

    def note(self, job: Job, crash: bool) -> None:
        """A host that is killed before it has noted what it did has only done it."""
        if not crash:
            before = self.noted.get(job.id)
            assert before is None or job is before or job.version == before.version + 1
            self.noted[job.id] = job
            if before is not None and job is not before:
                self.met[f"{before.state} to {job.state}"] += before.state is not job.state
                self.met["paid late"] += before.expired and not job.expired
        self.met["crash"] += crash

    @rule(job_id=JOBS, caller=CALLERS, eval_sats=st.sampled_from([0, 0, 3]), crash=CRASHES)
    def create(
        self, job_id: str, caller: tuple[str | None, str], eval_sats: int, crash: bool
    ) -> None:
        """Created again, a job stays what it is."""
        identity, tier = caller
        if job_id not in self.noted:
            made = jobs.create(
                job_id,
                "text",
                eval_amount_sats=eval_sats,
                identity=identity,
                tier=tier,
                at=self.now,
            )
            self.note(made, crash)

    @rule(
        job_id=JOBS,
        price=st.integers(0, 50),
        actual=st.integers(0, 60),
        fails=st.sampled_from(["", "", "", "rejected", "broken"]),
        crash=CRASHES,
    )
    def step(self, job_id: str, price: int, actual: int, fails: str, crash: bool) -> None:
        """Do two steps; the price, the cost and the failure differ each time."""
        if job_id in self.noted:
            self.do(self.noted[job_id], price, actual, fails, crash=False)
            self.do(self.noted[job_id], actual, price, "", crash)

    @rule(
        job_id=JOBS,
        price=st.integers(1, 90),
        actual=st.integers(0, 90),
        caller=CALLERS,
        fails=st.sampled_from(["", "", "broken"]),
    )
    def whole(
        self, job_id: str, price: int, actual: int, caller: tuple[str | None, str], fails: str
    ) -> None:
        """A job whose caller pays at once, up to where it waits for a refund's destination."""
        self.create(job_id, caller, 3, crash=False)
        while jobs.next_step(self.noted[job_id]) not in (None, Step.DESTINATION):
            for stage in ("eval", "work"):
                self.pay(job_id, stage)
            self.do(self.noted[job_id], price, actual, fails, crash=False)

    def do(self, job: Job, price: int, actual: int, fails: str, crash: bool) -> None:
        self.met[str(jobs.next_step(job))] += 1
        match jobs.next_step(job):
            case Step.INVOICE:
                stage = "eval" if job.state is JobState.AWAITING_EVAL_PAYMENT else "work"
                invoice = self.node.invoice(f"{job.id}-{stage}", job.asked_sats, self.now)
                self.note(jobs.invoiced(job, invoice, at=self.now), crash)
            case Step.PAYMENT:
                assert job.invoice is not None
                if job.invoice.id in self.node.paid:
                    self.note(jobs.paid(job, job.invoice, at=self.now), crash)
                elif self.now >= job.invoice.expires_at:
                    self.note(jobs.expired(job, at=self.now), crash)
            case Step.REFUND:
                mark, to = f"refund-{job.id}", job.refund.destination
                assert to is not None
                self.note(jobs.refund_begun(job, to, f"lnbc-{mark}", mark, at=self.now), crash)
            case Step.REFUND_PAYMENT:
                assert job.refund.payment_hash is not None
                self.node.send(job.refund.payment_hash, job.refund.sats)
                self.note(jobs.refund_paid(job, job.refund.payment_hash, at=self.now), crash)
            case Step.EVALUATION | Step.WORK:
                self.work(job, price, actual, fails, crash)
            case Step.GRANT | Step.SETTLEMENT | Step.RELEASE:
                self.ask_the_ledger(job, crash)

    def work(self, job: Job, price: int, actual: int, fails: str, crash: bool) -> None:
        match jobs.next_step(job):
            case Step.EVALUATION if fails == "rejected":
                self.note(jobs.rejected(job, "not our kind of work", at=self.now), crash)
            case Step.EVALUATION | Step.WORK if fails == "broken":
                self.note(jobs.work_failed(job, "out of order", at=self.now), crash)
            case Step.EVALUATION:
                cost = Decimal(price) / 1000
                self.note(
                    jobs.priced(job, price, estimated_cost_usd=cost, rates=RATES, at=self.now),
                    crash,
                )
            case Step.WORK:
                self.note(
                    jobs.worked(
                        job,
                        "done",
                        actual_sats=actual,
                        input_tokens=1,
                        output_tokens=2,
                        actual_cost_usd=Decimal(actual) / 1000,
                        at=self.now,
                    ),
                    crash,
                )

    def ask_the_ledger(self, job: Job, crash: bool) -> None:
        match jobs.next_step(job):
            case Step.GRANT:
                grant = self.ledger.reserve(jobs.request_of(job), ttl=INVOICE_TTL + GRACE)
                self.note(jobs.granted(job, grant, at=self.now), crash)
            case Step.SETTLEMENT:
                settlement = jobs.settlement_without_grant(job) or self.ledger.settle(
                    job.ledger_id, job.actual_sats
                )
                if settlement.charged_sats:
                    assert job.work_invoice is not None
                    self.ledger.credit(job.work_invoice.id, settlement.charged_sats)
                self.note(jobs.completed(job, settlement, at=self.now), crash)
            case Step.RELEASE:
                if job.free_tier:
                    self.release(job)
                self.note(jobs.failed(job, at=self.now), crash)

    def release(self, job: Job) -> None:
        try:
            self.ledger.release(job.ledger_id)
        except Conflict:
            assert self.ledger.grant(job.ledger_id).state == "expired"

    @rule(job_id=JOBS, stage=st.sampled_from(["eval", "work"]))
    def pay(self, job_id: str, stage: str) -> None:
        """In time or late: a node may take what comes late."""
        if invoice := self.node.invoices.get(f"{job_id}-{stage}"):
            self.node.paid.add(invoice.id)

    @precondition(lambda self: self.node.paid)
    @rule(data=st.data(), crash=CRASHES)
    def notice(self, data: st.DataObject, crash: bool) -> None:
        """The node tells of a payment, again and again, also before its invoice was noted."""
        invoices = sorted(self.node.invoices.items())
        key, invoice = data.draw(
            st.sampled_from([pair for pair in invoices if pair[1].id in self.node.paid])
        )
        job = self.noted[key.rpartition("-")[0]]
        self.note(jobs.paid(job, invoice, at=self.now), crash)

    @precondition(lambda self: self.any_expired())
    @rule(crash=CRASHES)
    def pay_late(self, crash: bool) -> None:
        """A caller pays, and the host hears of it, after the job has failed for want of that."""
        job = next(job for job in self.noted.values() if job.expired)
        assert job.invoice is not None
        self.node.paid.add(job.invoice.id)
        self.note(jobs.paid(job, job.invoice, at=self.now), crash)

    @rule(job_id=JOBS)
    def address(self, job_id: str) -> None:
        """The caller says where a refund goes, in time or once it is owed."""
        job = self.noted.get(job_id)
        if job and job.refund.payment_hash is None:
            self.noted[job_id] = jobs.refund_to(job, "caller@example.org", at=self.now)

    @rule(minutes=st.sampled_from([1, 1, 4, 11]))
    def wait(self, minutes: int) -> None:
        self.clock.advance(minutes=minutes)

    @invariant()
    def nobody_pays_more_than_quoted(self) -> None:
        for job in self.noted.values():
            if job.work_amount_sats is not None:
                quoted = self.quoted.setdefault(job.id, job.work_amount_sats)
                assert job.work_amount_sats == quoted, "a quote stands"
                assert job.price_sats is not None
                assert job.work_amount_sats + job.absorbed_sats <= job.price_sats
            assert job.paid_sats <= job.eval_amount_sats + (job.work_amount_sats or 0)

    @invariant()
    def nobody_is_refunded_more_than_paid(self) -> None:
        for job in self.noted.values():
            sent = self.node.sent.get(f"refund-{job.id}", 0)
            assert sent in (0, job.refund.sats)
            assert job.refund.sats <= job.paid_sats
            assert (job.refund.state is RefundState.PAID) <= (sent == job.refund.sats)

    @invariant()
    def no_stage_has_two_invoices(self) -> None:
        for job in self.noted.values():
            for made, stage in ((job.eval_invoice, "eval"), (job.work_invoice, "work")):
                if made:
                    known = self.node.invoices[f"{job.id}-{stage}"]
                    assert evolve(made, paid_at=None) == known

    @invariant()
    def the_pool_is_conserved(self) -> None:
        assert self.ledger.verify().ok
        pool = self.ledger.pool_status()
        moved = Counter[Kind](pool.totals)
        assert pool.balance_sats == moved[Kind.SEED] + moved[Kind.CREDIT] - (
            moved[Kind.SETTLE] + moved[Kind.LATE]
        )

    def teardown(self) -> None:
        """Left alone, every job comes to an end, and the books of pool, jobs and node agree."""
        self.end()
        if self.any_expired():  # one of them pays after all
            self.pay_late(crash=False)
            self.end()
        ended = list(self.noted.values())
        assert all(job.state in ENDS for job in ended)
        complete = [job for job in ended if job.state is JobState.COMPLETE]
        entries = list(self.ledger.journal())
        in_the_end = {
            job.work_invoice.id: job.work_amount_sats - job.refund.sats
            for job in complete
            if job.work_amount_sats and job.work_invoice
        }
        credited = {e.key: e.paid_sats for e in entries if e.kind is Kind.CREDIT}
        assert credited == {key: sats for key, sats in in_the_end.items() if sats}
        drawn = Counter[str]()
        for entry in entries:
            if entry.kind in (Kind.SETTLE, Kind.LATE):
                drawn[entry.key] += entry.absorb_sats or 0
        assert {job.ledger_id: job.absorbed_sats for job in complete if job.free_tier} == +drawn
        for job in ended:
            kept = job.paid_sats - self.node.sent.get(f"refund-{job.id}", 0)
            assert (job.state is not JobState.COMPLETE) <= (kept <= job.eval_amount_sats)
        # Only an unpaid job leaves its grant to expire; every other grant has its end.
        held = {grant.request_id for grant in self.ledger.open_grants()}
        assert held <= {job.ledger_id for job in ended if job.expired}

    def end(self) -> None:
        for job_id in self.noted:
            self.address(job_id)
            while jobs.next_step(self.noted[job_id]):
                self.clock.advance(minutes=1)
                self.do(self.noted[job_id], 20, 10, "", crash=False)

    def any_expired(self) -> bool:
        return any(job.expired for job in self.noted.values())


def test_jobs_in_every_order() -> None:
    """Whatever happens in whatever order, nobody loses a sat, and every job ends."""
    met = Counter[str]()
    run_state_machine_as_test(
        partial(JobsMachine, met),  # type: ignore[arg-type]  # it makes them, as the class does
        settings=settings(max_examples=300, stateful_step_count=60, deadline=None),
    )
    assert {*Step, "paid late", "crash"} <= {what for what, times in met.items() if times}

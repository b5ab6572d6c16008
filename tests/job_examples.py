"""A job in each situation that it can be in, made by the events themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from freetier import FreeTier, FreeTierPolicy, Request, jobs
from freetier.entries import Grant
from freetier.jobs import Invoice, Job
from freetier.memory import MemoryRepository
from freetier.pricing import Rates
from freetier.testing import Clock
from freetier.values import Settlement

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RATES = Rates(Decimal(1), Decimal(2), Decimal(10), Decimal(100_000))
EVAL = Invoice("hash-eval", "lnbc-eval", 3, NOW + timedelta(minutes=10))
WORK = Invoice("hash-work", "lnbc-work", 40, NOW + timedelta(minutes=10))
PRICE = 100  # 60 of it from the pool


def grant(price_sats: int = PRICE, *, pool_sats: int = 60) -> Grant:
    """What the ledger answers for the job at this price."""
    policy = FreeTierPolicy(budgets={"new": 0, "elite": 500}, seed_sats=pool_sats)
    ledger = FreeTier(policy, MemoryRepository(), clock=Clock(NOW))
    ledger.seed()
    return ledger.reserve(Request("job:job", "ada", "elite", price_sats))


def settlement(actual_sats: int) -> Settlement:
    return grant().decision.settle(actual_sats)


def created(eval_amount_sats: int = 3) -> Job:
    return jobs.create(
        "job", "a text", eval_amount_sats=eval_amount_sats, identity="ada", tier="elite", at=NOW
    )


def priced(job: Job) -> Job:
    return jobs.priced(job, PRICE, estimated_cost_usd=Decimal("0.09"), rates=RATES, at=NOW)


def worked(job: Job, actual_sats: int = 80) -> Job:
    return jobs.worked(
        job,
        "a result",
        actual_sats=actual_sats,
        input_tokens=10,
        output_tokens=20,
        actual_cost_usd=Decimal("0.07"),
        at=NOW,
    )


def situations() -> dict[str, Job]:
    """By a name for each; a job of 100 sats, 60 of them from the pool, that cost 80."""
    new = created()
    eval_asked = jobs.invoiced(new, EVAL, at=NOW)
    evaluating = jobs.paid(eval_asked, EVAL, at=NOW)
    quoted = priced(evaluating)
    granted = jobs.granted(quoted, grant(), at=NOW)
    asked = jobs.invoiced(granted, WORK, at=NOW)
    executing = jobs.paid(asked, WORK, at=NOW)
    done = worked(executing)
    broken = jobs.work_failed(executing, "out of order", at=NOW)
    complete = jobs.completed(done, settlement(80), at=NOW)
    addressed = jobs.refund_to(complete, "ada@example.org", at=NOW)
    begun = jobs.refund_begun(addressed, "ada@example.org", "lnbc-refund", "hash-refund", at=NOW)
    return {
        "new": new,
        "eval asked": eval_asked,
        "eval expired": jobs.expired(eval_asked, at=LATER),
        "evaluating": evaluating,
        "rejected": jobs.rejected(evaluating, "not our kind of work", at=NOW),
        "evaluation broken": jobs.work_failed(evaluating, "out of order", at=NOW),
        "priced": quoted,
        "granted": granted,
        "work asked": asked,
        "work expired": jobs.expired(asked, at=LATER),
        "never asked": jobs.expired(granted, at=LATER),
        "executing": executing,
        "worked": done,
        "broken": broken,
        "failed": jobs.failed(broken, at=NOW),
        "complete": complete,
        "addressed": addressed,
        "refund begun": begun,
        "refunded": jobs.refund_paid(begun, "hash-refund", at=NOW),
    }

"""The events of jobs and sessions, and what else is public there: each with a good call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import freetier
from freetier import FreeTier, FreeTierPolicy, Request, Snapshot, jobs, sessions
from freetier.invoices import Invoice

from .job_examples import EVAL, LATER, NOW, PRICE, RATES, grant, settlement, situations

Function = tuple[Callable[..., object], dict[str, Any]]

AT = datetime(2026, 1, 5, tzinfo=UTC)
POLICY = FreeTierPolicy(budgets={"new": 0, "elite": 500})
REQUEST = Request("job", "ab", "trusted", 9)
DECISION = FreeTierPolicy().decide(REQUEST, Snapshot(AT, 100))


def ledger() -> FreeTier:
    """A ledger with a seed."""
    return freetier.open("memory:", POLICY)


WHO = {"identity": "ab", "tier": "new"}
JOB = situations()
DEPOSIT = Invoice("hash-deposit", "lnbc-deposit", 100, NOW + timedelta(minutes=10))
NEW = sessions.create("session", deposit_sats=100, identity="ada", tier="elite", at=NOW)
ASKED = sessions.invoiced(NEW, DEPOSIT, at=NOW)
ACTIVE = sessions.paid(ASKED, DEPOSIT, at=NOW)
HOLDING, ADMITTED = sessions.admitted(ACTIVE, "request", "a text", estimate=DECISION, at=NOW)
FIGURES = {"actual_sats": 80, "input_tokens": 1, "output_tokens": 2, "actual_cost_usd": Decimal(1)}
COMPUTED = sessions.computed(ADMITTED, "a result", **FIGURES, at=NOW)  # type: ignore[arg-type]
GRANT = ledger().record_grant(sessions.request_of(HOLDING, COMPUTED))
CLOSED = sessions.closed(ACTIVE, at=NOW)
ADDRESSED = sessions.refund_to(CLOSED, "ada@example.org", at=NOW)
BEGUN = sessions.refund_begun(ADDRESSED, "ada@example.org", "lnbc-refund", "hash-refund", at=NOW)
SITUATIONS: dict[type, list[Any]] = {
    jobs.Job: [*JOB.values()],
    sessions.Session: [
        NEW, ASKED, ACTIVE, HOLDING, CLOSED, ADDRESSED, BEGUN,
        sessions.expired(ASKED, at=LATER),
        sessions.refund_paid(BEGUN, "hash-refund", at=NOW),
    ],
    sessions.SessionRequest: [
        ADMITTED, COMPUTED,
        sessions.debited(HOLDING, COMPUTED, GRANT, at=NOW)[1],
        sessions.request_failed(HOLDING, ADMITTED, "!", at=NOW)[1],
    ],
}  # fmt: skip
"""A record in each situation that it can be in."""
JOBS: dict[str, Function] = {
    "jobs.create": (
        jobs.create,
        {"job_id": "job", "request": "sums", "eval_amount_sats": 1, "at": AT, **WHO},
    ),
    "jobs.invoiced": (jobs.invoiced, {"job": JOB["new"], "invoice": EVAL, "at": NOW}),
    "jobs.paid": (jobs.paid, {"job": JOB["eval asked"], "invoice": EVAL, "at": NOW}),
    "jobs.expired": (jobs.expired, {"job": JOB["work asked"], "at": LATER}),
    "jobs.rejected": (jobs.rejected, {"job": JOB["evaluating"], "reason": "no", "at": NOW}),
    "jobs.priced": (
        jobs.priced,
        {"job": JOB["evaluating"], "price_sats": PRICE, "estimated_cost_usd": Decimal(1)}
        | {"rates": RATES, "at": NOW},
    ),
    "jobs.granted": (jobs.granted, {"job": JOB["priced"], "grant": grant(), "at": NOW}),
    "jobs.worked": (jobs.worked, {"job": JOB["executing"], "result": "4", "at": NOW, **FIGURES}),
    "jobs.completed": (
        jobs.completed,
        {"job": JOB["worked"], "settlement": settlement(80), "at": NOW},
    ),
    "jobs.work_failed": (jobs.work_failed, {"job": JOB["executing"], "message": "!", "at": NOW}),
    "jobs.failed": (jobs.failed, {"job": JOB["broken"], "at": NOW}),
    "jobs.next_step": (jobs.next_step, {"job": JOB["new"]}),
    "jobs.request_of": (jobs.request_of, {"job": JOB["priced"]}),
    "jobs.settlement_without_grant": (jobs.settlement_without_grant, {"job": JOB["new"]}),
    "jobs.refund_to": (
        jobs.refund_to,
        {"record": JOB["complete"], "destination": "ada@example.org", "at": NOW},
    ),
    "jobs.refund_begun": (
        jobs.refund_begun,
        {"record": JOB["addressed"], "destination": "ada@example.org", "bolt11": "lnbc"}
        | {"payment_hash": "hash", "at": NOW},
    ),
    "jobs.refund_paid": (
        jobs.refund_paid,
        {"record": JOB["refund begun"], "payment_hash": "hash-refund", "at": NOW},
    ),
    "jobs.refund_broken": (
        jobs.refund_broken,
        {"record": JOB["refund begun"], "payment_hash": "hash-refund", "at": NOW},
    ),
}
SESSIONS: dict[str, Function] = {
    "sessions.create": (
        sessions.create,
        {"session_id": "session", "deposit_sats": 10, "at": AT, **WHO},
    ),
    "sessions.invoiced": (sessions.invoiced, {"session": NEW, "invoice": DEPOSIT, "at": NOW}),
    "sessions.paid": (sessions.paid, {"session": ASKED, "invoice": DEPOSIT, "at": NOW}),
    "sessions.expired": (sessions.expired, {"session": ASKED, "at": LATER}),
    "sessions.admitted": (
        sessions.admitted,
        {"session": ACTIVE, "request_id": "request", "request": "a text", "estimate": DECISION}
        | {"at": NOW, "promised_elsewhere_sats": 0},
    ),
    "sessions.repeated": (
        sessions.repeated,
        {"known": ADMITTED, "session_id": "session", "request": "a text"},
    ),
    "sessions.computed": (
        sessions.computed,
        {"request": ADMITTED, "result": "4", "at": NOW, **FIGURES},
    ),
    "sessions.debited": (
        sessions.debited,
        {"session": HOLDING, "request": COMPUTED, "grant": GRANT, "at": NOW},
    ),
    "sessions.request_failed": (
        sessions.request_failed,
        {"session": HOLDING, "request": ADMITTED, "message": "!", "at": NOW},
    ),
    "sessions.closed": (sessions.closed, {"session": ACTIVE, "at": NOW}),
    "sessions.next_step": (sessions.next_step, {"session": NEW}),
    "sessions.next_step_of_request": (sessions.next_step_of_request, {"request": ADMITTED}),
    "sessions.request_of": (sessions.request_of, {"session": HOLDING, "request": COMPUTED}),
    "sessions.refund_to": (
        sessions.refund_to,
        {"record": CLOSED, "destination": "ada@example.org", "at": NOW},
    ),
    "sessions.refund_begun": (
        sessions.refund_begun,
        {"record": ADDRESSED, "destination": "ada@example.org", "bolt11": "lnbc"}
        | {"payment_hash": "hash", "at": NOW},
    ),
    "sessions.refund_paid": (
        sessions.refund_paid,
        {"record": BEGUN, "payment_hash": "hash-refund", "at": NOW},
    ),
    "sessions.refund_broken": (
        sessions.refund_broken,
        {"record": BEGUN, "payment_hash": "hash-refund", "at": NOW},
    ),
}

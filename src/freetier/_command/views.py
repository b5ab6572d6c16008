"""What people read of the library's values. Pure: values in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from freetier._command.output import Column, facts, table, table_line, time_text
from freetier.audit import INVARIANTS, SEALED, Report
from freetier.entries import Entry, Kind, PoolStatus
from freetier.values import Decision

ENTRY_COLUMNS = (
    Column("seq", 6, right=True),
    Column("time (UTC)", 19),
    Column("kind", 10),
    Column("key", 20),
    Column("identity", 10),
    Column("balance by", 10, right=True),
    Column("reserved by", 11, right=True),
    Column("used by", 7, right=True),
    Column("balance", 8, right=True),
    Column("reserved", 8, right=True),
)


def entry_line(entry: Entry) -> str:
    """An entry of the journal: what it moved, and the pool after it."""
    return table_line(
        ENTRY_COLUMNS,
        (
            entry.seq,
            time_text(entry.at),
            entry.kind,
            entry.key,
            entry.identity,
            f"{entry.balance_change:+}",
            f"{entry.reserved_change:+}",
            f"{entry.used_change:+}",
            entry.balance_sats,
            entry.reserved_sats,
        ),
    )


def absorbed_sats(totals: Mapping[Kind, int]) -> int:
    """What the pool has paid since the first entry, in sats."""
    return totals[Kind.GRANT] + totals[Kind.SETTLE] + totals[Kind.LATE]


def balance_line(pool: PoolStatus) -> str:
    """The sum by which the pool's balance follows from its totals, to be done again by hand."""
    totals = pool.totals
    adjusted = totals[Kind.ADJUSTMENT]
    return (
        f"{totals[Kind.SEED]} seed + {totals[Kind.CREDIT]} credits "
        f"+ {totals[Kind.DONATION]} donations "
        f"{'-' if adjusted < 0 else '+'} {abs(adjusted)} adjustments "
        f"- {absorbed_sats(totals)} absorbed (grants + settled + late) "
        f"= {pool.balance_sats} balance"
    )


def pool_record(pool: PoolStatus) -> dict[str, object]:
    """The pool for programs: every figure of `PoolStatus`, and what is available."""
    return {
        "as_of": pool.as_of,
        "balance_sats": pool.balance_sats,
        "reserved_sats": pool.reserved_sats,
        "available_sats": pool.available_sats,
        "open_grants": pool.open_grants,
        "absorbed_today_sats": pool.absorbed_today_sats,
        "gated_today": pool.gated_today,
        "gated_today_sats": pool.gated_today_sats,
        "totals": pool.totals,
        "budgets": pool.budgets,
    }


def pool_lines(pool: PoolStatus) -> list[str]:
    """The pool for people."""
    budgets = ", ".join(f"{tier} {sats}" for tier, sats in pool.budgets.items())
    return facts(
        (
            ("as of", _utc(pool.as_of)),
            ("balance", f"{pool.balance_sats} sats"),
            ("reserved", f"{pool.reserved_sats} sats in {pool.open_grants} open grants"),
            ("available", f"{pool.available_sats} sats"),
            ("drawn today", f"{pool.absorbed_today_sats} sats"),
            ("gated today", f"{pool.gated_today} requests for {pool.gated_today_sats} sats"),
            ("budgets", f"{budgets} (sats per identity per UTC day)"),
            ("since the start", balance_line(pool)),
        )
    )


def report_record(report: Report) -> dict[str, object]:
    """A proof for programs: `ok`, and for each broken invariant its first broken entry."""
    return {
        "ok": report.ok,
        "entries": report.entries,
        "balance_sats": report.balance_sats,
        "reserved_sats": report.reserved_sats,
        "problems": report.problems,
        "head": str(report.head),
        "trusted": report.trusted,
    }


def report_line(report: Report) -> str:
    """A proof's result in one line."""
    checked = len(list(_checked(report)))
    if report.ok:
        trusted = f", the first {report.trusted} as the checkpoint says" if report.trusted else ""
        return f"verified: all {checked} invariants hold over {report.entries} entries{trusted}"
    return f"broken: {len(report.problems)} of {checked} invariants (see `freetier verify`)"


def report_lines(report: Report) -> Iterator[str]:
    """A proof for people: each invariant, and the first entry that breaks it."""
    broken = {problem.invariant: problem for problem in report.problems}
    for number in _checked(report):
        problem = broken.get(number)
        since = f", after entry {report.trusted}" if number == SEALED and report.trusted else ""
        yield f"{number:>2}  {'broken' if problem else 'ok':<6}  {INVARIANTS[number]}{since}"
        if problem:
            where = "the totals" if problem.seq is None else f"entry {problem.seq}"
            yield f"            {where}: {problem.detail}"
    yield report_line(report)


def _checked(report: Report) -> Iterator[int]:
    """The invariants that the proof says something of: of the seal only when a head was given."""
    found = {problem.invariant for problem in report.problems}
    for number in INVARIANTS:
        if number != SEALED or report.against is not None or number in found:
            yield number


def decision_lines(decision: Decision) -> list[str]:
    """A decision for people: who pays, why, and the room that each limit left."""
    answer = (
        f"{decision.serve}: of {decision.price_sats} sats the pool pays {decision.absorb_sats}, "
        f"the caller {decision.charge_sats}"
    )
    return [answer, *_reason(decision), "", *table(("limit", "room (sats)", ""), _rooms(decision))]


def _reason(decision: Decision) -> list[str]:
    if decision.bound_by is None:
        return []
    if decision.resets_at is None:
        return [f"bound by {decision.bound_by}, and time alone gives it no more room"]
    return [f"bound by {decision.bound_by}, which has more room from {_utc(decision.resets_at)} on"]


def _utc(at: datetime) -> str:
    return f"{time_text(at)} UTC"


def _rooms(decision: Decision) -> Sequence[tuple[str, int, str]]:
    return [
        (name, room, "<- binds" if name == decision.bound_by else "")
        for name, room in decision.rooms.items()
    ]

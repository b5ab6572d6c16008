"""What became of each row of a run, and what they add up to. Pure: values in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from attrs import define, field, frozen

from freetier._command.output import Column, facts, table_line
from freetier._command.rows import Row
from freetier._command.views import balance_line, pool_record, report_line, report_record
from freetier.audit import Report
from freetier.entries import PoolStatus
from freetier.values import Decision, Serve, Settlement

OUTCOME_COLUMNS = (
    Column("row", 6, right=True),
    Column("request", 24),
    Column("identity", 10),
    Column("tier", 11),
    Column("price", 7, right=True),
    Column("answer", 7),
    Column("pool pays", 9, right=True),
    Column("caller", 7, right=True),
    Column("bound by", 13),
    Column("credit", 6, right=True),
)


@frozen
class Outcome:
    """A row, the decision on it, how it ended, and what its payment put into the pool.

    `moved`: the row's time was before the ledger's, so the ledger's counted (rule 10).
    """

    row: Row
    decision: Decision
    settlement: Settlement
    credited_sats: int
    moved: bool


def outcome_line(outcome: Outcome) -> str:
    """A row for people: what was asked, the answer, and who paid what in the end."""
    request, settlement = outcome.row.request, outcome.settlement
    return table_line(
        OUTCOME_COLUMNS,
        (
            outcome.row.number,
            request.request_id,
            request.identity or "anonymous",
            request.tier,
            request.price_sats,
            outcome.decision.serve,
            settlement.absorbed_sats,
            settlement.charged_sats,
            outcome.decision.bound_by,
            outcome.credited_sats,
        ),
    )


def outcome_record(outcome: Outcome) -> dict[str, object]:
    """A row for programs. All of it is the first answer's, so a second run gives the same."""
    row, decision, settlement = outcome.row, outcome.decision, outcome.settlement
    return {
        "row": row.number,
        "request_id": row.request.request_id,
        "identity": row.request.identity,
        "tier": row.request.tier,
        "time": row.at,
        "serve": decision.serve,
        "price_sats": decision.price_sats,
        "absorb_sats": decision.absorb_sats,
        "charge_sats": decision.charge_sats,
        "bound_by": decision.bound_by,
        "resets_at": decision.resets_at,
        "settlement": settlement,
        "credited_sats": outcome.credited_sats,
    }


@define
class Tally:
    """The sums over a run's rows, in sats where they do not count."""

    rows: int = 0
    moved: int = 0
    serves: Counter[str] = field(factory=lambda: Counter(dict.fromkeys(Serve, 0)))
    bound_by: Counter[str] = field(factory=Counter)
    price_sats: int = 0
    absorbed_sats: int = 0
    charged_sats: int = 0
    credited_sats: int = 0

    def take(self, outcome: Outcome) -> None:
        """Add a row."""
        self.rows += 1
        self.moved += outcome.moved
        self.serves[outcome.decision.serve] += 1
        if outcome.decision.bound_by is not None:
            self.bound_by[outcome.decision.bound_by] += 1
        self.price_sats += outcome.decision.price_sats
        self.absorbed_sats += outcome.settlement.absorbed_sats
        self.charged_sats += outcome.settlement.charged_sats
        self.credited_sats += outcome.credited_sats


def totals_record(tally: Tally, pool: PoolStatus, report: Report) -> dict[str, object]:
    """A run's last line for programs."""
    totals = {"run": tally, "pool": pool_record(pool), "verify": report_record(report)}
    return {"totals": totals}


def totals_lines(tally: Tally, pool: PoolStatus, report: Report) -> Iterator[str]:
    """A run's last lines for people: the rows, then the whole ledger, and its proof."""
    yield ""
    yield from facts(
        (
            ("rows", f"{tally.rows}: {_counts(tally.serves)}"),
            ("bound by", _counts(tally.bound_by) or "nothing"),
            ("price", f"{tally.price_sats} sats"),
            ("absorbed", f"{tally.absorbed_sats} sats, paid by the pool"),
            ("charged", f"{tally.charged_sats} sats, paid by the callers"),
            ("credited", f"{tally.credited_sats} sats of that, back into the pool"),
            ("ledger", balance_line(pool)),
        )
    )
    if tally.moved:
        yield f"{tally.moved} rows are older than the ledger: they count as of the ledger's time"
    yield report_line(report)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())

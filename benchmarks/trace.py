"""Real requests as the workload: each row of a trace is reserved, and settled on its real cost.

The trace is one of the Azure LLM inference traces, as CSV with the columns TIMESTAMP,
ContextTokens and GeneratedTokens. What was generated is known only afterwards: a reserve is for
the context and the most that may be generated. The trace names nobody, so callers take turns.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path

from attrs import frozen

from benchmarks.ledgers import POLICY, postgres_ledger, sqlite_ledger
from benchmarks.measure import Call, LeftOut, Line, Subjects, left_out, timed
from benchmarks.postgres import one_update
from benchmarks.run import Run
from benchmarks.sqlite import blind, connection_of
from freetier import FreeTier, Request

TITLE = "A real trace: reserve and settle each request"
COLUMNS = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
TOKENS_A_SAT = 100
MOST_GENERATED = 1_000
CALLERS = 500
CALLS = 100


@frozen
class Work:
    """A request of the trace, in sats."""

    price_sats: int
    actual_sats: int


def lines(run: Run) -> Iterator[Line]:
    """Both in their order, a hundred rows a round, against twice the floor of one reserve."""
    if run.trace is None:
        raise LeftOut("no --trace was given")
    works = read(run.trace)
    name = "reserve and settle / twice"
    with sqlite_ledger(run.folder / "trace.db") as ledger:
        one = _each(ledger, works)
        one()
        floor = blind(connection_of(ledger))
        subjects = Subjects()
        subjects.add("both", timed(one, CALLS))
        subjects.add("floor", timed(_twice(floor), CALLS))
        rounds = subjects.measured(run.rounds)
    note = f"{len(works):,} requests in the trace"
    yield rounds.compared(f"SQLite: {name} three blind writes", "both", "floor", note=note)
    name = f"Postgres: {name} one UPDATE"
    try:
        url = run.postgres()
    except LeftOut as why:
        yield left_out(name, str(why))
        return
    with postgres_ledger(url, "trace") as repository:
        subjects = Subjects()
        subjects.add("both", timed(_each(FreeTier(POLICY, repository), works), CALLS))
        subjects.add("floor", timed(_twice(one_update(repository, "trace")), CALLS))
        rounds = subjects.measured(run.rounds)
    yield rounds.compared(name, "both", "floor", note=note)


def read(path: Path) -> Sequence[Work]:
    """The trace's rows. Raises `LeftOut` where the file is no such trace."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(rows.fieldnames or ()) >= COLUMNS:
            raise LeftOut(f"{path.name} lacks the columns {', '.join(sorted(COLUMNS))}")
        return [
            Work(_sats(context + MOST_GENERATED), _sats(context + int(row["GeneratedTokens"])))
            for row in rows
            if (context := int(row["ContextTokens"])) >= 0
        ]


def _sats(tokens: int) -> int:
    """Rounded up: whoever reserves too little overruns."""
    return -(-tokens // TOKENS_A_SAT)


def _each(ledger: FreeTier, works: Sequence[Work]) -> Call:
    """The next request of the trace, from its arrival to its settlement; then from the start."""
    numbers, left = count(), cycle(works)

    def serve() -> None:
        number, work = next(numbers), next(left)
        key = f"row-{number:012}"
        ledger.reserve(Request(key, f"id-{number % CALLERS}", "elite", work.price_sats))
        ledger.settle(key, work.actual_sats)

    return serve


def _twice(call: Call) -> Call:
    def both() -> None:
        call()
        call()

    return both

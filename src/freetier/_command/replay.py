"""`freetier run`: decide every request of a file, in order, on a ledger.

Each row's writes have the row's own id as their key, so a run that broke off, or that is done
again on a longer file, repeats nothing and goes on where the ledger ends.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain

from attrs import define

from freetier._command.input import lines_of, located, numbered_rows, source_name
from freetier._command.ledger import writable
from freetier._command.output import Output, table_heading
from freetier._command.rows import Row, RowReader, parse_columns, read_rows
from freetier._command.spread import Spread
from freetier._command.tally import (
    OUTCOME_COLUMNS,
    Outcome,
    Tally,
    outcome_line,
    outcome_record,
    totals_lines,
    totals_record,
)
from freetier.entries import Grant, GrantState
from freetier.errors import FreeTierError, InvalidInput
from freetier.policy import FreeTierPolicy
from freetier.pricing import Rates
from freetier.service import FreeTier
from freetier.values import Settlement

_PROGRESS_EVERY_S = 0.2


def run(arguments: Namespace, out: Output) -> int:
    """Decide every row, show each decision, then the totals; 1 if the ledger does not verify."""
    policy = FreeTierPolicy.from_env()
    reader = _row_reader(arguments, policy)
    source = source_name(arguments.file)
    with lines_of(arguments.file) as lines:
        numbered = numbered_rows(lines, arguments.file, arguments.format)
        rows = read_rows(numbered, source, reader)
        first = next(rows, None)
        if first is None:
            raise InvalidInput("FILE", arguments.file, "a file with at least one request")
        # Opening writes the seed, so the clock must stand at the first row by then.
        clock = None if first.at is None else _RowClock(first.at)
        with writable(arguments, policy, clock) as ledger:
            tally = Tally()
            out.text(table_heading(OUTCOME_COLUMNS))
            with _resumable(tally), _progress(tally) as tick:
                for row in chain([first], rows):
                    if clock is not None and row.at is not None:
                        clock.at = row.at
                    with located(source, row.number):
                        outcome = process(ledger, row, paid=not arguments.unpaid)
                    tally.take(outcome)
                    out.show(outcome_record(outcome), (outcome_line(outcome),))
                    tick()
            pool, report = ledger.pool_status(), ledger.verify()
    sys.stdout.flush()  # the rows before what they come to, where both go to one place
    out.sum_up(totals_record(tally, pool, report), totals_lines(tally, pool, report))
    return 0 if report.ok else 1


def process(ledger: FreeTier, row: Row, *, paid: bool) -> Outcome:
    """One row's way: decide, settle on the real cost, credit what the caller paid in the end.

    A cost that is known is paid at once; one that turns out otherwise is held and settled.
    """
    request = row.request
    admit = ledger.record_grant if row.actual_sats is None else ledger.reserve
    grant = admit(request)
    settlement = _settlement(ledger, grant, row.actual_sats)
    credited = 0
    if paid and settlement.charged_sats:
        credited = ledger.credit(request.request_id, settlement.charged_sats).credited_sats
    # Only what was written down has the time at which it was.
    written = request.identity is not None and request.price_sats > 0
    moved = written and row.at is not None and grant.reserved_at > row.at
    return Outcome(row, grant.decision, settlement, credited, moved)


def _settlement(ledger: FreeTier, grant: Grant, actual_sats: int | None) -> Settlement:
    if grant.state is GrantState.UNHELD:
        return grant.decision.settle(actual_sats)
    if actual_sats is None and grant.settlement is not None:
        return grant.settlement
    return ledger.settle(grant.request_id, actual_sats)


@define
class _RowClock:
    """The ledger's clock while it runs a file that has times: it stands at the row."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at


def _row_reader(arguments: Namespace, policy: FreeTierPolicy) -> RowReader:
    rates = Rates(
        input_usd_per_million=arguments.input_usd_per_million,
        output_usd_per_million=arguments.output_usd_per_million,
        margin_pct=arguments.margin_pct,
        btc_usd=arguments.btc_usd,
    )
    spread = None
    if arguments.identities is not None:
        spread = Spread(arguments.identities, arguments.seed, tuple(policy.budgets))
    return RowReader(parse_columns(arguments.columns), rates, policy, spread)


@contextmanager
def _resumable(tally: Tally) -> Iterator[None]:
    """Say how far it got, and that this is not lost, when a row stops the run."""
    try:
        yield
    except FreeTierError:
        if tally.rows:
            print(
                f"freetier: done up to row {tally.rows}, and that stays; run it again to go on",
                file=sys.stderr,
            )
        raise


@contextmanager
def _progress(tally: Tally) -> Iterator[Callable[[], None]]:
    """What to call after each row. It counts on a terminal that the rows do not fill already."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    began = shown = time.monotonic()

    def tick() -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PROGRESS_EVERY_S:
            shown = now
            rate = tally.rows / (now - began)
            print(f"\r{tally.rows} rows, {rate:.0f} a second", end="", file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)

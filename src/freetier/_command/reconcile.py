"""`freetier reconcile`: a list of paid invoices, from a file, against the journal's credits."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator

from freetier._command.input import Cells, lines_of, located, numbered_rows, source_name
from freetier._command.ledger import read_only
from freetier._command.output import Output, facts, table
from freetier.reconciling import Reconciliation
from freetier.values import check_id, check_sats

_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)


def reconcile(arguments: Namespace, out: Output) -> int:
    """Name the payments that lack their credit; 1 if there are any."""
    with lines_of(arguments.file) as lines:
        columns = (arguments.hash_column, arguments.sats_column)
        numbered = numbered_rows(lines, arguments.file, arguments.format, columns)
        paid = list(_payments(numbered, source_name(arguments.file), arguments))
    with read_only(arguments) as ledger:
        found = ledger.reconcile(paid)
    out.show(_record(found), _lines(found))
    return 0 if found.ok else 1


def _payments(
    numbered: Iterator[tuple[int, Cells]], source: str, arguments: Namespace
) -> Iterator[tuple[str, int]]:
    for number, cells in numbered:
        with located(source, number):
            yield _hash(cells, arguments.hash_column), _sats(cells, arguments.sats_column)


def _hash(cells: Cells, column: str) -> str:
    return check_id(column, cells.get(column))


def _sats(cells: Cells, column: str) -> int:
    value = cells.get(column)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    return check_sats(column, value, least=1)


def _record(found: Reconciliation) -> dict[str, object]:
    return {
        "ok": found.ok,
        "credited": found.credited,
        "missing": found.missing,
        "differing": found.differing,
        "unlisted": found.unlisted,
    }


def _lines(found: Reconciliation) -> list[str]:
    wrong = [("missing", payment) for payment in found.missing]
    wrong += [("other amount", payment) for payment in found.differing]
    cells = [(word, payment.payment_hash, str(payment.paid_sats)) for word, payment in wrong]
    named = list(table(("credit", "payment hash", "paid"), cells)) if cells else []
    counts = (
        ("credited", f"{found.credited} payments"),
        ("missing", f"{len(found.missing)} payments"),
        ("other amount", f"{len(found.differing)} payments"),
        ("not in the list", f"{found.unlisted} credits"),
    )
    return [*named, *facts(counts)]

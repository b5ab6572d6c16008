"""The commands by which an operator writes: donate, adjust, sweep."""

from __future__ import annotations

from argparse import Namespace

from freetier._command.ledger import existing, writable
from freetier._command.output import Output, table_heading
from freetier._command.views import ENTRY_COLUMNS, entry_line
from freetier.entries import Entry


def donate(arguments: Namespace, out: Output) -> int:
    """Put a sponsor's sats into the pool, once a key."""
    with writable(arguments) as ledger:
        entry = ledger.donate(
            arguments.key, arguments.sats, sponsor=arguments.sponsor, note=arguments.note
        )
    _show(entry, out)
    return 0


def adjust(arguments: Namespace, out: Output) -> int:
    """Correct the pool, up or down, once a key."""
    with existing(arguments) as ledger:
        entry = ledger.adjust(arguments.key, arguments.sats, note=arguments.note)
    _show(entry, out)
    return 0


def sweep(arguments: Namespace, out: Output) -> int:
    """Expire every grant that is due, a call at a time, so that no writer waits for all."""
    expired = 0
    with existing(arguments) as ledger:
        while swept := ledger.sweep():
            expired += swept
    out.show({"expired": expired}, [f"{expired} grants expired"])
    return 0


def _show(entry: Entry, out: Output) -> None:
    out.show(entry, (*table_heading(ENTRY_COLUMNS), entry_line(entry)))

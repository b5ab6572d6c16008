"""`verify` of what is no entry, or no counter, any more: an error that names it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from attrs import fields

from freetier import IntegrityError
from freetier.entries import Entry

from .tampering import GRANT, OPEN, Tampered, changed, loosen, on_sqlite

COLUMNS = [field for field in fields(Entry) if field.name != "seq"]
ALWAYS = [field.name for field in COLUMNS if "None" not in str(field.type)]


@pytest.mark.parametrize(
    "change",
    [
        changed(GRANT, "kind = 'zzz'"),
        changed(GRANT, "rooms = 'none'"),
        changed(GRANT, "rooms = '[1]'"),
        changed(GRANT, 'rooms = \'{"pool": "1"}\''),
        changed(GRANT, r"""rooms = '{"\ud800": 1}'"""),
        changed(GRANT, f"rooms = '{'[' * 100_000}'"),
        changed(GRANT, "at_us = 4611686018427387904"),
        changed(GRANT, "day = 4611686018427387904"),
        changed(OPEN, "expires_at_us = 4611686018427387904"),
    ],
)
def test_what_cannot_be_read_is_said(tampered: Tampered, change: str) -> None:
    """An entry that makes no sense at all is an error that names it."""
    assert tampered.connection.execute(change).rowcount == 1
    with pytest.raises(IntegrityError, match=r"entry 1[01] cannot be read"):
        tampered.ledger.verify()


@pytest.mark.parametrize("column", [field.name for field in COLUMNS])
def test_what_has_no_such_type_is_said(tampered: Tampered, column: str) -> None:
    """A figure that is missing, or of a type that the schema does not have, names its entry."""
    stored = f"{column}_us" if column.endswith("at") else column
    if isinstance(tampered.connection, sqlite3.Connection):
        loosen(tampered.connection)
    else:
        tampered.connection.execute(
            f"ALTER TABLE freetier_journal ALTER {stored} TYPE BYTEA"
            f" USING convert_to({stored}::TEXT, 'UTF8')"
        )
    value = "x'00'" if isinstance(tampered.connection, sqlite3.Connection) else "''"
    tampered.connection.execute(changed(GRANT, f"{stored} = {value}"))
    with pytest.raises(IntegrityError, match=rf"entry \d+ cannot be read: {column}"):
        tampered.ledger.verify()


@pytest.mark.parametrize(
    "column",
    [
        field.name
        for field in fields(Entry)
        if "None" not in str(field.type) and field.name != "seq"
    ],
)
def test_what_has_to_be_there_is_missed(tampered: Tampered, column: str) -> None:
    """A figure that every entry has, and this one has not, names the entry."""
    stored = f"{column}_us" if column == "at" else column
    if isinstance(tampered.connection, sqlite3.Connection):
        loosen(tampered.connection)
    else:
        tampered.connection.execute(f"ALTER TABLE freetier_journal ALTER {stored} DROP NOT NULL")
    assert tampered.connection.execute(changed(GRANT, f"{stored} = NULL")).rowcount == 1
    with pytest.raises(IntegrityError, match=rf"entry {GRANT} cannot be read: {column}"):
        tampered.ledger.verify()


@pytest.mark.parametrize("change", ["day = 'soon'", "name = x'00'", "used_sats = NULL"])
def test_books_that_cannot_be_read_are_said(tmp_path: Path, change: str) -> None:
    """A counter that is none, or is nobody's, is an error that names it."""
    with on_sqlite(tmp_path / "ledger.db") as tampered:
        assert isinstance(tampered.connection, sqlite3.Connection)
        loosen(tampered.connection)
        tampered.connection.execute(f"UPDATE freetier_usage SET {change} WHERE name = 'ada'")
        with pytest.raises(IntegrityError, match=r"the books of 'identity', .* cannot be read"):
            tampered.ledger.verify()

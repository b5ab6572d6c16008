"""`verify` of what is no entry, or no counter, any more: an error that names it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import fields

from freetier import IntegrityError, Request
from freetier.entries import Entry

from .tampering import GRANT, OPEN, Tampered, changed, loosen, on_postgres, on_sqlite

BOTH = pytest.mark.parametrize("tampered", ["in memory", "on Postgres"], indirect=True)
FIELDS = [field for field in fields(Entry) if field.name != "seq"]
COLUMNS = {
    field.name: f"{field.name}_us" if field.name.endswith("at") else field.name for field in FIELDS
}
ALWAYS = [field.name for field in FIELDS if "None" not in str(field.type)]


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


@BOTH
def test_what_has_no_such_type_is_said(tampered: Tampered) -> None:
    """A figure of a type that the schema does not have is an error that names it."""
    value = "x'00'" if isinstance(tampered.connection, sqlite3.Connection) else "''"
    for column, stored in COLUMNS.items():
        with loosened(tampered, f"{stored} TYPE BYTEA USING convert_to({stored}::TEXT, 'UTF8')"):
            tampered.connection.execute(changed(GRANT, f"{stored} = {value}"))
            with pytest.raises(IntegrityError, match=rf"entry \d+ cannot be read: {column}"):
                tampered.ledger.verify()
    assert tampered.ledger.verify().ok


@BOTH
def test_what_has_to_be_there_is_missed(tampered: Tampered) -> None:
    """A figure that every entry has, and this one has not, names the entry."""
    for column in ALWAYS:
        stored = COLUMNS[column]
        with loosened(tampered, f"{stored} DROP NOT NULL"):
            assert tampered.connection.execute(changed(GRANT, f"{stored} = NULL")).rowcount == 1
            with pytest.raises(IntegrityError, match=rf"entry {GRANT} cannot be read: {column}"):
                tampered.ledger.verify()
    assert tampered.ledger.verify().ok


@contextmanager
def loosened(tampered: Tampered, postgres: str) -> Iterator[None]:
    """Inside, a column takes what it would not have taken; afterwards all is as it was."""
    if isinstance(tampered.connection, sqlite3.Connection):
        loosen(tampered.connection)
    tampered.connection.execute("BEGIN")
    if not isinstance(tampered.connection, sqlite3.Connection):
        tampered.connection.execute(f"ALTER TABLE freetier_journal ALTER {postgres}")
    yield
    tampered.connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    "change", ["day = 'soon'", "name = x'00'", "used_sats = NULL", "scope = x'00'", "scope = 'zzz'"]
)
def test_books_that_cannot_be_read_are_said(tmp_path: Path, change: str) -> None:
    """A counter that is none, or is nobody's, is an error that names it."""
    with on_sqlite(tmp_path / "ledger.db") as tampered:
        assert isinstance(tampered.connection, sqlite3.Connection)
        loosen(tampered.connection)
        tampered.connection.execute(f"UPDATE freetier_usage SET {change} WHERE name = 'ada'")
        with pytest.raises(IntegrityError, match=r"the books of .*, cannot be read"):
            tampered.ledger.verify()


def test_a_counter_that_is_there_twice(postgres_dsn: str) -> None:
    """A second row of a counter, or one that is nobody's, is an error that names it."""
    with on_postgres(postgres_dsn) as tampered:
        tampered.connection.execute(
            "ALTER TABLE freetier_usage DROP CONSTRAINT freetier_usage_pkey,"
            " ALTER name DROP NOT NULL"
        )
        again = "INSERT INTO freetier_usage SELECT * FROM freetier_usage WHERE name = 'ada'"
        tampered.connection.execute(again)
        with pytest.raises(IntegrityError, match="the books of 'identity' have 'ada' twice"):
            tampered.ledger.verify()
        tampered.connection.execute("UPDATE freetier_usage SET name = NULL WHERE name = 'ada'")
        with pytest.raises(IntegrityError, match="the books of 'identity', None, cannot be read"):
            tampered.ledger.verify()


@BOTH
@pytest.mark.parametrize(
    ("change", "asking"),
    [
        (changed(OPEN, "rooms = 'zzz'"), ("grant", "repeat", "open_grants")),
        (changed(OPEN, "expires_at_us = 4611686018427387904"), ("grant", "repeat", "open_grants")),
        ("UPDATE freetier_open SET expires_at_us = expires_at_us + 1", ("open_grants",)),
        ("UPDATE freetier_pool SET at_us = 4611686018427387904", ("status", "grant")),
    ],
)
def test_what_others_ask_for_is_an_error_too(
    tampered: Tampered, change: str, asking: tuple[str, ...]
) -> None:
    """Whoever asks for what cannot be read is told so, by an error of the library's; it ends."""
    tampered.connection.execute(change)
    ledger = tampered.ledger
    ways: dict[str, Callable[[], object]] = {
        "grant": lambda: ledger.grant("open"),
        "repeat": lambda: ledger.reserve(Request("open", "eve", "elite", 60)),
        "open_grants": lambda: list(ledger.open_grants()),
        "status": ledger.pool_status,
    }
    for way in asking:
        with pytest.raises(IntegrityError, match="cannot be read"):
            ways[way]()

"""The guard on Postgres: entries written by hand, on a plain connection, one rule broken each."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .hand_written import MINUTE_US, NOON_US, VALID, Row, proposal
from .postgres_by_hand import (
    KEYS,
    WRONG_ENTRIES,
    Connection,
    OnTheBusyLedger,
    dicts,
    dump,
    fill,
    insert,
    migrated,
    proved,
    written,
)
from .test_guard import AT_THE_LIMIT, FIGURES

OF_EF: Row = {"identity": "ef", "price_sats": 10, "reserved_change": -10, "refund_sats": 0}
TOO_LATE: list[tuple[str, Row]] = [
    ("reserve", {"key": "held"}),
    ("grant", {"key": "held"}),
    ("reserve", {"key": "gated"}),
    ("reserve", {"budget_sats": 179}),
    ("reserve", {"budget_sats": 59, "identity": "gh"}),
    ("grant", {"tier_ceiling_sats": 256}),
    ("grant", {"release_sats": 256}),
    ("grant", {"pool_share_bp": 687}),
    ("grant", {"floor_sats": 814}),
    ("grant", {"at_us": NOON_US + 1440 * MINUTE_US}),
    ("reserve", {"at_us": NOON_US + 60 * MINUTE_US}),
    ("settle", {"at_us": NOON_US + 15 * MINUTE_US}),
    (
        "settle",
        OF_EF | {"key": "settled", "absorb_sats": 7, "balance_change": -7} | {"used_change": -3},
    ),
    (
        "release",
        {"key": "released", "identity": "ef", "price_sats": 10, "reserved_change": -10}
        | {"used_change": -10},
    ),
    ("expire", {"key": "late"}),
    ("late", {"key": "covered", "identity": "cd"}),
    ("late", {"floor_sats": 824}),
    ("credit", {"key": "paid"}),
    ("donation", {"key": "gift"}),
    ("adjustment", {"balance_change": -874}),
    ("seed", {"key": "seed", "balance_change": 1}),
]


class TestGuard(OnTheBusyLedger):
    """What the guard takes, and what it refuses."""

    def test_the_same_journal_gives_the_same_books(
        self, books: Connection, source: sqlite3.Connection
    ) -> None:
        """From the entries alone, Postgres comes to the same rows in every table as SQLite."""
        for table in KEYS:
            rows = dicts(source, table)
            names = rows[0]
            found = books.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {KEYS[table]}")
            assert found.fetchall() == [tuple(row.values()) for row in rows]
        assert proved(books).entries == 14

    @pytest.mark.parametrize("kind", VALID)
    def test_a_right_entry_by_hand_is_as_good(
        self, books: Connection, source: sqlite3.Connection, kind: str
    ) -> None:
        """The next entry, right in every figure, is taken from anyone, and the balances follow."""
        before = proved(books)
        assert insert(books, proposal(source, kind))
        after = proved(books)
        assert after.entries == before.entries + 1
        moved = after.balance_sats - before.balance_sats
        assert moved == VALID[kind].get("balance_change", 0)

    def test_a_wrong_entry_is_refused(self, books: Connection, source: sqlite3.Connection) -> None:
        """An entry with one figure wrong gives no row or an error, and leaves nothing behind."""
        before = dump(books)
        taken = [
            f"{kind}, {wrong}"
            for kind, wrong, changes in WRONG_ENTRIES
            if insert(books, proposal(source, kind, changes))
        ]
        assert taken == []
        assert dump(books) == before

    @pytest.mark.parametrize(("kind", "changes"), AT_THE_LIMIT)
    def test_a_limit_is_exact(
        self, books: Connection, source: sqlite3.Connection, kind: str, changes: Row
    ) -> None:
        """To the sat and to the microsecond, what just fits is taken."""
        assert insert(books, proposal(source, kind, changes))
        proved(books)

    @settings(max_examples=300)
    @given(st.sampled_from(list(VALID)), st.data())
    def test_whatever_is_taken_adds_up(
        self, filled: Connection, source: sqlite3.Connection, kind: str, data: st.DataObject
    ) -> None:
        """A right entry with figures changed is refused without a trace, or taken and provable."""
        columns = [row[1] for row in source.execute("PRAGMA table_info(freetier_journal)")]
        changes = data.draw(st.dictionaries(st.sampled_from(columns), FIGURES, max_size=3))
        with filled.transaction(force_rollback=True):
            before = dump(filled)
            if insert(filled, proposal(source, kind, changes)):
                proved(filled)
            else:
                assert dump(filled) == before

    @pytest.mark.parametrize(("kind", "changes"), TOO_LATE)
    def test_what_comes_too_late_is_no_error(
        self, books: Connection, source: sqlite3.Connection, kind: str, changes: Row
    ) -> None:
        """An entry that was right once gives no row and no error: the transaction goes on."""
        before = dump(books)
        assert written(books, proposal(source, kind, changes)) is None
        assert dump(books) == before

    def test_each_entry_of_a_statement_sees_the_ones_before(
        self, books: Connection, source: sqlite3.Connection
    ) -> None:
        """Of many entries in one INSERT, those are taken that still fit when it is their turn."""
        asked = proposal(source, "reserve", {"identity": "gh", "budget_sats": 130})
        rows = [asked | {"key": key} for key in ("one", "one", "two", "three", "held")]
        rows.append(asked | {"key": "four", "identity": "ij"})
        marks = ", ".join(f"({', '.join(['%s'] * len(asked))})" for _ in rows)
        statement = (
            f"INSERT INTO freetier_journal ({', '.join(asked)}) VALUES {marks} RETURNING key"
        )
        taken = books.execute(
            statement, [value for row in rows for value in row.values()]
        ).fetchall()
        assert taken == [("one",), ("two",), ("four",)]
        proved(books)

    def test_no_plan_of_a_short_journal_outlives_it(
        self, postgres_dsn: str, source: sqlite3.Connection
    ) -> None:
        """Planned when each table had a page, and was known to, the guard still scans none."""
        scans = "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE relname ~ '^freetier_'"
        with closing(migrated(postgres_dsn)) as connection:
            fill(connection)
            connection.execute("ANALYZE")
            with connection.transaction():
                before = connection.execute(scans).fetchone()
                for number in range(10):
                    assert insert(connection, proposal(source, "donation", {"key": f"{number}"}))
                    drawn = {"key": f"{number}", "identity": f"{number}"}
                    assert insert(connection, proposal(source, "reserve", drawn))
                for kind in ("settle", "late"):
                    assert insert(connection, proposal(source, kind))
                assert connection.execute(scans).fetchone() == before

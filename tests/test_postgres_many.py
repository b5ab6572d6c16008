"""Many looks or endings on Postgres as one statement: the rows of one after the other."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from freetier import _sql
from freetier.entries import Kind
from freetier.repository import Ending
from freetier.values import Settlement

from .hand_written import NOON
from .postgres_by_hand import Connection, OnTheBusyLedger, as_one, dump, one_by_one, proved

KEYS = ["held", "late", "covered", "settled", "released", "granted", "gated", "paid", "unknown"]
"""Of the busy ledger: open, expired, settled late, ended, gated, no request's, nobody's."""
BEFORE, AT, AFTER = (NOON + timedelta(minutes=minutes) for minutes in (-60, 0, 15))
"""What 'held' expires at is `AFTER`; time does not go back to `BEFORE`."""
TIMES = pytest.mark.parametrize("at", [BEFORE, AT, AFTER, AT + timedelta(days=1)], ids=str)


def settlement(key: str, absorbed: int) -> Settlement:
    """At so many sats of the 60 that the pool pays of 100, or at all of the 10 that it pays."""
    if key in ("settled", "released", "granted"):
        return Settlement(min(absorbed, 10), min(absorbed, 10), 0, 0, 0, 0)
    return Settlement(absorbed, absorbed, 0, 40, 0, 0)


ENDINGS = [
    (Kind.RELEASE, None),
    (Kind.EXPIRE, None),
    *((kind, sats) for kind in (Kind.SETTLE, Kind.LATE) for sats in (0, 50, 60)),
]


TWICE = [(Kind.LATE, 0), (Kind.EXPIRE, None), (Kind.LATE, 0)]
"""The same asked twice, at first too early."""


def ending(key: str, how: tuple[Kind, int | None], at: datetime) -> Ending:
    kind, sats = how
    return Ending(kind, key, at, None if sats is None else settlement(key, sats), 0)


class TestMany(OnTheBusyLedger):
    @TIMES
    def test_looks(self, books: Connection, at: datetime) -> None:
        """Each look is shown what it would be shown alone, whatever is known of the request."""
        looks = [
            _sql.look(key, at, identity=identity, tier=tier)
            for key in [*KEYS, *KEYS[:2]]
            for identity, tier in (("ab", "trusted"), ("nobody", "elite"), (None, None))
        ]
        alone = one_by_one(books, looks)
        assert as_one(books, looks) == alone
        assert len({tuple(rows[0]) for rows in alone}) > 6

    def test_looks_at_no_pool(self, books: Connection) -> None:
        """Where there is no pool, none of them is shown any."""
        books.execute("SET LOCAL session_replication_role = replica")
        books.execute("DELETE FROM freetier_pool")
        assert as_one(books, [_sql.look("held", AT), _sql.look("unknown", AT)]) == [[], []]

    @settings(max_examples=150)
    @given(
        st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(ENDINGS)), min_size=1),
        st.sampled_from([BEFORE, AT, AFTER]),
    )
    @example([("held", (kind, sats)) for kind, sats in TWICE], AFTER)
    def test_endings(
        self, filled: Connection, asked: list[tuple[str, tuple[Kind, int | None]]], at: datetime
    ) -> None:
        """Endings as one statement write the entries, and get the answers, of one by one."""
        queries = [_sql.end(ending(key, how, at)) for key, how in asked]
        found: list[Any] = []
        for ask in (one_by_one, as_one):
            with filled.transaction(force_rollback=True):
                found.append((ask(filled, queries), dump(filled)))
                proved(filled)
        assert found[0] == found[1]

    def test_an_ending_that_could_never_be_right(self, books: Connection) -> None:
        """It is an error, by itself and among right ones, and nothing of them is written."""
        before = dump(books)
        wrong = Ending(Kind.SETTLE, "held", AT, settlement("held", 61))
        for endings in ([wrong], [Ending(Kind.EXPIRE, "unknown", AT), wrong]):
            queries = [_sql.end(each) for each in endings]
            with pytest.raises(psycopg.errors.CheckViolation), books.transaction():
                as_one(books, queries)
        assert dump(books) == before

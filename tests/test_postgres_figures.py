"""The figures of an entry on Postgres: which ones a kind has, and who fills them in."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest

from .hand_written import MINUTE_US, NOON_US, TODAY, VALID, Row, proposal
from .postgres_by_hand import (
    Connection,
    OnTheBusyLedger,
    dump,
    insert,
    proved,
    written,
)

FORGED: list[Row] = [
    {"seq": 99},
    {"seq": 1},
    {"seq": None},
    {"balance_sats": 10**6},
    {"reserved_sats": 0},
    {"once": "another"},
]

LATER = NOON_US + 60 * MINUTE_US
PLAUSIBLE: Row = {
    **dict.fromkeys(("charge_sats", "refund_sats", "overrun_sats", "uncovered_sats"), 0),
    **dict.fromkeys(("absorb_sats", "credit_carry", "floor_sats"), 0),
    **dict.fromkeys(("price_sats", "paid_sats", "budget_sats", "tier_ceiling_sats"), 1000),
    **dict.fromkeys(("release_sats", "pool_share_bp", "credit_share_bp"), 1000),
    **dict.fromkeys(("resets_at_us", "expires_at_us"), LATER),
    **dict.fromkeys(("identity", "tier", "bound_by", "sponsor", "note"), "ab"),
    "day": TODAY,
    "rooms": "{}",
}
"""Every figure that some kind has and another has not."""
OF_A_DRAW = {"tier_ceiling_sats", "release_sats", "pool_share_bp", "bound_by", "resets_at_us"}
OF_A_GIFT = {"sponsor", "note"}
OPTIONAL = {
    "reserve": OF_A_DRAW,
    "grant": OF_A_DRAW,
    "donation": OF_A_GIFT,
    "adjustment": OF_A_GIFT,
    "credit": {"credit_carry"},  # the guard fills it in
}

NOTHING: Row = {"absorb_sats": 0, "reserved_change": 0, "used_change": 0, "balance_change": 0}
WRONG: list[tuple[str, Row]] = [
    *((kind, NOTHING | {"price_sats": 40}) for kind in ("reserve", "grant")),
    *(("grant", {name: text}) for name in ("identity", "tier") for text in ("", "x" * 257)),
    *(("grant", {"rooms": text}) for text in ("{", "}", "{1", "1}", "")),
    *((kind, {"balance_change": -40}) for kind in ("reserve", "settle", "late", "release")),
    *((kind, {"reserved_change": 60}) for kind in ("grant", "settle", "release", "late")),
    *((kind, {"used_change": 5}) for kind in VALID),
    ("settle", {"absorb_sats": -1, "balance_change": 1, "used_change": -61, "refund_sats": 40}),
]


class TestFigures(OnTheBusyLedger):
    """What an entry must say to be one, and what it need not say."""

    @pytest.mark.parametrize("kind", VALID)
    def test_what_follows_is_not_for_the_writer_to_say(
        self, books: Connection, source: sqlite3.Connection, kind: str
    ) -> None:
        """Seq, totals, a time that does not run back: the guard fills them in."""
        honest = proposal(source, kind)
        forged = [*FORGED]
        if kind != "expire":
            forged.append({"at_us": NOON_US - 60 * MINUTE_US})
        if kind == "credit":
            forged += [{"balance_change": 75}, {"credit_carry": 9999}, {"balance_change": None}]
        rows = []
        for changes in ({}, *forged):
            with books.transaction(force_rollback=True):
                rows.append(written(books, honest | changes))
                proved(books)
        assert rows[0] is not None
        assert rows == [rows[0]] * (1 + len(forged))

    @pytest.mark.parametrize("kind", VALID)
    def test_a_kind_has_its_figures_and_no_others(
        self, books: Connection, source: sqlite3.Connection, kind: str
    ) -> None:
        """A figure that is missing, or that the kind does not have, is an error."""
        right = proposal(source, kind)
        for column in PLAUSIBLE.keys() - OPTIONAL.get(kind, set()):
            wrong = right | {column: None if column in right else PLAUSIBLE[column]}
            assert not insert(books, wrong), column
        for column in OPTIONAL.get(kind, set()):
            with books.transaction(force_rollback=True):
                assert insert(books, right | {column: PLAUSIBLE[column]}), column

    @pytest.mark.parametrize(("kind", "changes"), WRONG)
    def test_what_could_never_have_been_right(
        self, books: Connection, source: sqlite3.Connection, kind: str, changes: Row
    ) -> None:
        """Figures that contradict each other are an error, not a silent refusal."""
        before = dump(books)
        with pytest.raises(psycopg.IntegrityError):
            written(books, proposal(source, kind, changes))
        assert dump(books) == before

"""Journal entries as somebody writes them who has a plain connection and no library."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from freetier import FreeTier, FreeTierPolicy, Request
from freetier.migrations import migrate
from freetier.sqlite import SQLiteRepository

Row = dict[str, Any]

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000
MINUTE_US = 60 * 1_000_000
TODAY = NOON_US // (24 * 60 * MINUTE_US)
POLICY = FreeTierPolicy(seed_sats=1000, per_request_sats=60)
VERBS = [
    "INSERT",
    "INSERT OR ABORT",
    "INSERT OR FAIL",
    "INSERT OR IGNORE",
    "INSERT OR REPLACE",
    "INSERT OR ROLLBACK",
    "REPLACE",
]

_ASKED: Row = {"identity": "ab", "tier": "trusted", "day": TODAY, "price_sats": 100}
_DRAW = _ASKED | {
    "absorb_sats": 60,
    "charge_sats": 40,
    "budget_sats": 200,
    "floor_sats": 0,
    "bound_by": "per_request",
    "rooms": '{"per_request": 60}',
    "used_change": 60,
}
_SETTLED = {"absorb_sats": 50, "charge_sats": 0, "refund_sats": 40, "overrun_sats": 0}
_HELD = _ASKED | {"key": "held", "reserved_change": -60}
VALID: dict[str, Row] = {
    "credit": {"paid_sats": 75, "credit_share_bp": 1000, "credit_carry": 0, "balance_change": 8},
    "donation": {"balance_change": 5},
    "adjustment": {"balance_change": -5},
    "reserve": _DRAW | {"reserved_change": 60, "expires_at_us": NOON_US + 60 * MINUTE_US},
    "grant": _DRAW | {"balance_change": -60},
    "settle": _HELD | _SETTLED | {"balance_change": -50, "used_change": -10},
    "release": _HELD | {"absorb_sats": 0, "used_change": -60},
    "expire": _HELD | {"absorb_sats": 0, "at_us": NOON_US + 15 * MINUTE_US},
    "late": _ASKED
    | _SETTLED
    | {"key": "late", "balance_change": -50, "used_change": -10}
    | {"uncovered_sats": 0, "floor_sats": 0},
}
"""The next entry of each kind, as it would be right in a `busy_ledger`; the key is 'new'."""


def busy_ledger() -> tuple[sqlite3.Connection, FreeTier]:
    """A ledger in memory, at noon, with one of everything: 1,000 seeded, 5 credited, 5 given.

    Identity 'ab' used 120 of 200 today: 60 'held' until a quarter past, 60 that expired as 'late'.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    now = NOON - timedelta(minutes=20)
    ledger = FreeTier(POLICY, SQLiteRepository(connection), clock=lambda: now)
    ledger.seed()
    ledger.credit("paid", 55)
    ledger.donate("gift", 5)
    for key, identity in (("late", "ab"), ("covered", "cd")):
        ledger.reserve(Request(key, identity, "trusted", 100))
    now = NOON
    ledger.sweep()
    ledger.settle("covered")
    ledger.reserve(Request("held", "ab", "trusted", 100))
    for key in ("settled", "released"):
        ledger.reserve(Request(key, "ef", "trusted", 10))
    ledger.settle("settled", 7)
    ledger.release("released")
    ledger.record_grant(Request("granted", "ef", "trusted", 10))
    ledger.reserve(Request("gated", "ab", "new", 10))
    return connection, ledger


def proposal(connection: sqlite3.Connection, kind: str, changes: Row | None = None) -> Row:
    """The next entry, valid but for `changes`; its totals follow from its changes unless given."""
    seq, at_us, balance, reserved = connection.execute(
        "SELECT seq, at_us, balance_sats, reserved_sats FROM freetier_pool"
    ).fetchone()
    row: Row = {"pool": "main", "seq": seq + 1, "kind": kind, "key": "new", "at_us": at_us}
    row |= {"balance_change": 0, "reserved_change": 0, "used_change": 0}
    row |= VALID.get(kind, {}) | (changes or {})
    for total, before, change in (
        ("balance_sats", balance, row["balance_change"]),
        ("reserved_sats", reserved, row["reserved_change"]),
    ):
        row.setdefault(total, before + change if type(change) is int else before)
    return row


def insert(connection: sqlite3.Connection, row: Row, verb: str = "INSERT") -> bool:
    """Whether the database took the entry; `IntegrityError` is a no as well."""
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    statement = f"{verb} INTO freetier_journal ({names}) VALUES ({marks}) RETURNING seq"
    try:
        return bool(connection.execute(statement, row).fetchall())
    except sqlite3.IntegrityError:
        return False


def dump(connection: sqlite3.Connection) -> list[str]:
    """Every row of every table, and the schema."""
    return list(connection.iterdump())

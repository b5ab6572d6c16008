"""The statements, and values ↔ rows. No I/O: a driver runs a `Query` and hands back its rows.

Every write is one INSERT of one entry (a sweep: of several), every read one SELECT, the same text
for each database. What is typed here is what runs; `docs/reference/statements.md` lists it.

Each statement reads the pool's row to place the entry: next `seq`, a time that does not run back,
the totals after it. The guard in the schema checks that against the pool's row once more, so a
refused entry gives no row. CAST tells databases that infer types what a parameter is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from attrs import frozen

from freetier import _rows
from freetier import _sql_parts as parts
from freetier.entries import Entry, Grant, Kind, PoolStatus
from freetier.repository import PAGE, SWEEP_LIMIT, Books, Deposit, Draw, Ending, View
from freetier.values import MAX_STORED, Decision, Request, to_us

T = TypeVar("T")
Params = Mapping[str, int | str | None]

POOL: Final = "main"
"""The pool's name in every table; one pool for now."""

LOOK: Final = f"""
SELECT p.now_us, p.balance_sats, p.reserved_sats, {parts.DUE_SATS}, {parts.DUE},
  {parts.USED.format(scope="'identity'", name="CAST(:identity AS TEXT)")},
  {parts.USED.format(scope="'tier'", name="CAST(:tier AS TEXT)")},
  {parts.USED.format(scope="'pool'", name="''")},
  n.key, n.identity, n.tier, n.price_sats, n.bound_by, n.rooms, n.resets_at_us, n.at_us,
  {parts.DRAW_COLUMNS}, {parts.ENDING_COLUMNS}
FROM {parts.POOL_NOW}
LEFT JOIN freetier_gate AS n ON n.pool = p.pool AND n.key = :key
LEFT JOIN freetier_journal AS g ON g.pool = p.pool AND g.key = :key AND g.once = 'draw'
LEFT JOIN freetier_journal AS e ON e.pool = g.pool AND e.key = g.key AND e.once = 'ending'
LEFT JOIN freetier_journal AS l ON l.pool = g.pool AND l.key = g.key AND l.once = 'late'
"""

# A reserve holds sats until it ends; a grant pays them at once. Only the time comes back: to read
# a whole entry costs more than anything else on the way.
DRAW: Final = f"""
INSERT INTO freetier_journal (
  pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats,
  budget_sats, tier_ceiling_sats, release_sats, floor_sats, pool_share_bp,
  bound_by, rooms, resets_at_us, expires_at_us,
  balance_change, reserved_change, used_change, balance_sats, reserved_sats)
SELECT p.pool, p.seq + 1, :kind, :key, p.now_us, :identity, :tier, CAST(:day AS BIGINT),
  CAST(:price_sats AS BIGINT), CAST(:absorb_sats AS BIGINT), CAST(:charge_sats AS BIGINT),
  CAST(:budget_sats AS BIGINT), CAST(:tier_ceiling_sats AS BIGINT), CAST(:release_sats AS BIGINT),
  CAST(:floor_sats AS BIGINT), CAST(:pool_share_bp AS BIGINT),
  CAST(:bound_by AS TEXT), CAST(:rooms AS TEXT), CAST(:resets_at_us AS BIGINT),
  CAST(:expires_at_us AS BIGINT),
  -CAST(:paid_now AS BIGINT), CAST(:held AS BIGINT), CAST(:absorb_sats AS BIGINT),
  p.balance_sats - CAST(:paid_now AS BIGINT), p.reserved_sats + CAST(:held AS BIGINT)
FROM {parts.POOL_NOW} WHERE TRUE
RETURNING at_us
"""

# A settle, release, expire or late, in the figures of the grant it ends.
END: Final = f"""
INSERT INTO freetier_journal (
  pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats,
  refund_sats, overrun_sats, uncovered_sats, floor_sats,
  balance_change, reserved_change, used_change, balance_sats, reserved_sats)
SELECT p.pool, p.seq + 1, :kind, g.key, p.now_us, g.identity, g.tier, g.day, g.price_sats,
  CAST(:absorb_sats AS BIGINT), CAST(:charge_sats AS BIGINT), CAST(:refund_sats AS BIGINT),
  CAST(:overrun_sats AS BIGINT), CAST(:uncovered_sats AS BIGINT), CAST(:floor_sats AS BIGINT),
  -CAST(:absorb_sats AS BIGINT),
  -CAST(:ends_hold AS BIGINT) * g.absorb_sats,
  CAST(:frees_allowance AS BIGINT) * (CAST(:absorb_sats AS BIGINT) - g.absorb_sats),
  p.balance_sats - CAST(:absorb_sats AS BIGINT),
  p.reserved_sats - CAST(:ends_hold AS BIGINT) * g.absorb_sats
FROM {parts.POOL_NOW}
JOIN freetier_journal AS g ON g.pool = p.pool AND g.key = :key AND g.once = 'draw'
  AND g.kind = 'reserve'
WHERE TRUE
RETURNING at_us
"""

# The grants that are due, oldest first, as one run of entries.
SWEEP: Final = f"""
INSERT INTO freetier_journal (
  pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats,
  balance_change, reserved_change, used_change, balance_sats, reserved_sats)
SELECT p.pool, p.seq + row_number() OVER due, 'expire', g.key, p.now_us, g.identity, g.tier, g.day,
  g.price_sats, 0, 0, -g.absorb_sats, 0,
  p.balance_sats, p.reserved_sats - CAST(sum(g.absorb_sats) OVER due AS BIGINT)
FROM {parts.POOL_NOW}
JOIN (SELECT pool, key, expires_at_us FROM freetier_open
      WHERE pool = :pool AND expires_at_us <= (SELECT now_us FROM {parts.POOL_NOW})
      ORDER BY expires_at_us, key LIMIT :limit) AS o ON o.pool = p.pool
JOIN freetier_journal AS g ON g.pool = p.pool AND g.key = o.key AND g.once = 'draw'
WHERE TRUE
WINDOW due AS (ORDER BY o.expires_at_us, o.key ROWS UNBOUNDED PRECEDING)
ORDER BY o.expires_at_us, o.key
RETURNING seq
"""

# A seed, a donation, an adjustment.
DEPOSIT: Final = f"""
INSERT INTO freetier_journal (
  pool, seq, kind, key, at_us, sponsor, note,
  balance_change, reserved_change, used_change, balance_sats, reserved_sats)
SELECT p.pool, p.seq + 1, :kind, :key, p.now_us, CAST(:sponsor AS TEXT), CAST(:note AS TEXT),
  CAST(:sats AS BIGINT), 0, 0, p.balance_sats + CAST(:sats AS BIGINT), p.reserved_sats
FROM {parts.POOL_NOW} WHERE TRUE
RETURNING{parts.ENTRY_COLUMNS}
"""

# A share of a paid invoice. The remainder below a sat is carried to the next credit; paid x share
# is split at 10,000 so that it fits 64 bits.
CREDIT: Final = f"""
INSERT INTO freetier_journal (
  pool, seq, kind, key, at_us, paid_sats, credit_share_bp, credit_carry,
  balance_change, reserved_change, used_change, balance_sats, reserved_sats)
SELECT p.pool, p.seq + 1, 'credit', :key, p.now_us, p.paid, p.share, p.rest % 10000,
  p.paid / 10000 * p.share + p.rest / 10000, 0, 0,
  p.balance_sats + p.paid / 10000 * p.share + p.rest / 10000, p.reserved_sats
FROM (
  SELECT p.*, CAST(:paid_sats AS BIGINT) AS paid, CAST(:credit_share_bp AS BIGINT) AS share,
    CAST(:paid_sats AS BIGINT) % 10000 * CAST(:credit_share_bp AS BIGINT) + p.credit_carry AS rest
  FROM {parts.POOL_NOW}
) AS p WHERE TRUE
RETURNING{parts.ENTRY_COLUMNS}
"""

# A gate moves no sats: a note outside the journal. The guard refuses it for a request that was
# noted or drawn for meanwhile.
NOTE_GATE: Final = """
INSERT INTO freetier_gate (
  pool, key, at_us, day, identity, tier, price_sats, bound_by, rooms, resets_at_us)
SELECT p.pool, :key, CAST(:now_us AS BIGINT), CAST(:now_us AS BIGINT) / 86400000000, :identity,
  :tier, CAST(:price_sats AS BIGINT), :bound_by, :rooms, CAST(:resets_at_us AS BIGINT)
FROM freetier_pool AS p
WHERE p.pool = :pool
ON CONFLICT (pool, key) DO NOTHING
RETURNING key
"""

# By its kind, not as what it is filed: an audit asks, of a journal that somebody may have changed.
# And the first, should somebody have taken the index away that keeps it the only one. What is said
# of `once`, and the plus, keep SQLite from going through all entries in their order for that.
FIND: Final = f"""
SELECT{parts.ENTRY_COLUMNS}, once
FROM freetier_journal
WHERE pool = :pool AND key = :key AND once >= '' AND kind = :kind
ORDER BY +seq LIMIT 1
"""

ENTRIES: Final = f"""
SELECT{parts.ENTRY_COLUMNS}, once
FROM freetier_journal WHERE pool = :pool AND seq >= :first
ORDER BY seq LIMIT :limit
"""

STATUS: Final = f"""
SELECT p.now_us, p.balance_sats, p.reserved_sats, {parts.DUE_SATS},
  (SELECT count(*) FROM freetier_open AS o
    WHERE o.pool = p.pool AND o.expires_at_us > p.now_us),
  {parts.USED.format(scope="'pool'", name="''")},
  (SELECT count(*) FROM freetier_gate AS n
    WHERE n.pool = p.pool AND n.day = p.now_us / 86400000000),
  (SELECT CAST(coalesce(sum(n.price_sats), 0) AS BIGINT) FROM freetier_gate AS n
    WHERE n.pool = p.pool AND n.day = p.now_us / 86400000000),
{parts.TOTALS}
FROM {parts.POOL_NOW}
"""

OPEN_GRANTS: Final = f"""
SELECT {parts.DRAW_COLUMNS}, o.expires_at_us
FROM {parts.POOL_NOW}
JOIN freetier_open AS o ON o.pool = p.pool AND o.expires_at_us > p.now_us
  AND (o.expires_at_us > :after_us OR (o.expires_at_us = :after_us AND o.key > :after_key))
JOIN freetier_journal AS g ON g.pool = p.pool AND g.key = o.key AND g.once = 'draw'
ORDER BY o.expires_at_us, o.key LIMIT :limit
"""

_NO_TOTALS: Final = ", ".join("0" for _ in Kind)

# The derived tables in one statement, so that they are of one instant.
BOOKS: Final = f"""
SELECT 'balances' AS part, seq, balance_sats, reserved_sats, credit_carry, NULL AS name, at_us,
{parts.TOTALS}
FROM freetier_pool WHERE pool = :pool
UNION ALL
SELECT scope, day, used_sats, 0, 0, name, 0, {_NO_TOTALS}
FROM freetier_usage WHERE pool = :pool
UNION ALL
SELECT 'open', expires_at_us, absorb_sats, 0, 0, key, 0, {_NO_TOTALS}
FROM freetier_open WHERE pool = :pool
"""


@frozen
class Query(Generic[T]):
    """One statement, its parameters, and how its rows read."""

    text: str
    params: Params
    parse: Callable[[Sequence[Sequence[Any]]], T]
    writes: bool = False


def look(
    request_id: str, now: datetime | None, *, identity: str | None = None, tier: str | None = None
) -> Query[View]:
    params: Params = {"key": request_id, "identity": identity, "tier": tier}
    return Query(LOOK, {**_at(now), **params}, lambda rows: _rows.view(_rows.one(rows)))


def draw(draw: Draw) -> Query[datetime | None]:
    held = draw.kind is Kind.RESERVE
    absorb = draw.decision.absorb_sats
    params = _asked(draw.request, draw.decision, draw.at)
    params |= {
        "kind": draw.kind.value,
        "absorb_sats": absorb,
        "charge_sats": draw.decision.charge_sats,
        "budget_sats": draw.caps.budget_sats,
        "tier_ceiling_sats": draw.caps.tier_ceiling_sats,
        "release_sats": draw.caps.release_sats,
        "floor_sats": draw.caps.floor_sats,
        "pool_share_bp": draw.caps.pool_share_bp,
        "day": _rows.day_number(draw.at),
        "expires_at_us": to_us(draw.expires_at) if draw.expires_at else None,
        "paid_now": 0 if held else absorb,
        "held": absorb if held else 0,
    }
    return Query(DRAW, params, _rows.written, writes=True)


def note_gate(request: Request, decision: Decision, at: datetime) -> Query[bool]:
    return Query(NOTE_GATE, _asked(request, decision, at), bool, writes=True)


def end(ending: Ending) -> Query[datetime | None]:
    settlement = ending.settlement
    late = ending.kind is Kind.LATE
    params: Params = {
        "kind": ending.kind.value,
        "key": ending.request_id,
        "absorb_sats": settlement.absorbed_sats if settlement else 0,
        "charge_sats": settlement.charged_sats if settlement else None,
        "refund_sats": settlement.refund_sats if settlement else None,
        "overrun_sats": settlement.overrun_sats if settlement else None,
        "uncovered_sats": settlement.uncovered_sats if settlement and late else None,
        "floor_sats": ending.floor_sats if late else None,
        "ends_hold": 0 if late else 1,
        "frees_allowance": 0 if ending.kind is Kind.EXPIRE else 1,
    }
    return Query(END, {**_at(ending.at), **params}, _rows.written, writes=True)


def sweep(now: datetime | None, limit: int = SWEEP_LIMIT) -> Query[int]:
    return Query(SWEEP, _at(now) | {"limit": limit}, len, writes=True)


def deposit(deposit: Deposit, now: datetime | None) -> Query[Entry | None]:
    if deposit.kind is Kind.CREDIT:
        paid: Params = {"paid_sats": deposit.sats, "credit_share_bp": deposit.credit_share_bp}
        paid = {**_at(now), **paid, "key": deposit.key}
        return Query(CREDIT, paid, _rows.entry_or_none, writes=True)
    params = _at(now) | {
        "kind": deposit.kind.value,
        "key": deposit.key,
        "sats": deposit.sats,
        "sponsor": deposit.sponsor,
        "note": deposit.note,
    }
    return Query(DEPOSIT, params, _rows.entry_or_none, writes=True)


def find(kind: Kind, key: str) -> Query[Entry | None]:
    params: Params = {"pool": POOL, "key": key, "kind": kind.value}
    return Query(FIND, params, _rows.filed_or_none)


def entries(after: int = 0, limit: int = PAGE) -> Query[list[Entry]]:
    # After the last number that a database can hold there is nothing, and it cannot be asked.
    params: Params = {
        "pool": POOL,
        "first": min(after + 1, MAX_STORED),
        "limit": limit if after < MAX_STORED else 0,
    }
    return Query(ENTRIES, params, _rows.entries)


def status(now: datetime | None) -> Query[PoolStatus]:
    return Query(STATUS, _at(now), lambda rows: _rows.status(_rows.one(rows)))


def open_grants(now: datetime | None, after: Grant | None = None) -> Query[list[Grant]]:
    expires_at = after.expires_at if after else None
    params: Params = {
        "after_us": to_us(expires_at) if expires_at else -1,
        "after_key": after.request_id if after else "",
        "limit": PAGE,
    }
    return Query(OPEN_GRANTS, {**_at(now), **params}, _rows.open_grants)


def books() -> Query[Books]:
    return Query(BOOKS, {"pool": POOL}, _rows.books)


def _at(now: datetime | None) -> dict[str, int | str | None]:
    return {"pool": POOL, "now_us": None if now is None else to_us(now)}


def _asked(request: Request, decision: Decision, at: datetime) -> dict[str, int | str | None]:
    return {
        "pool": POOL,
        "now_us": to_us(at),
        "key": request.request_id,
        "identity": request.identity,
        "tier": request.tier,
        "price_sats": request.price_sats,
        "bound_by": None if decision.bound_by is None else str(decision.bound_by),
        "rooms": _rows.rooms_to_text(decision.rooms),
        "resets_at_us": to_us(decision.resets_at) if decision.resets_at else None,
    }

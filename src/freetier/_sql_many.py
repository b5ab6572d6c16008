"""Several callers' statements as one, for a database that takes arrays. No I/O.

Each caller's rows are those that its own statement would have given, after those of the callers
before it. A statement that fails as one may be asked one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from freetier import _sql_parts as parts
from freetier._sql import DRAW, END, LOOK, Params, Query

Rows = Sequence[Sequence[Any]]
ManyParams = Mapping[str, int | str | Sequence[int | str | None] | None]

# No row is joined but by its key, whatever the plan: a batch is planned once, for any size.
LOOK_MANY: Final = f"""
SELECT p.now_us, p.balance_sats, p.reserved_sats, p.due_sats, p.due,
  {parts.USED.format(scope="'identity'", name="d.identity")},
  {parts.USED.format(scope="'tier'", name="d.tier")},
  p.used_sats,
  n.key, n.identity, n.tier, n.price_sats, n.bound_by, n.rooms, n.resets_at_us, n.at_us,
  {parts.DRAW_COLUMNS}, {parts.ENDING_COLUMNS}
FROM (
  SELECT p.*, {parts.DUE_SATS} AS due_sats, {parts.DUE} AS due,
  {parts.USED.format(scope="'pool'", name="''")} AS used_sats
  FROM {parts.POOL_NOW} LIMIT 1
) AS p
CROSS JOIN unnest(CAST(:keys AS TEXT[]), CAST(:identities AS TEXT[]), CAST(:tiers AS TEXT[]))
  WITH ORDINALITY AS d (key, identity, tier, place)
LEFT JOIN LATERAL (SELECT * FROM freetier_gate AS n
  WHERE n.pool = p.pool AND n.key = d.key LIMIT 1) AS n ON TRUE
LEFT JOIN LATERAL (SELECT * FROM freetier_journal AS g
  WHERE g.pool = p.pool AND g.key = d.key AND g.once = 'draw' LIMIT 1) AS g ON TRUE
LEFT JOIN LATERAL (SELECT * FROM freetier_journal AS e
  WHERE e.pool = g.pool AND e.key = g.key AND e.once = 'ending' LIMIT 1) AS e ON TRUE
LEFT JOIN LATERAL (SELECT * FROM freetier_journal AS l
  WHERE l.pool = g.pool AND l.key = g.key AND l.once = 'late' LIMIT 1) AS l ON TRUE
ORDER BY d.place
"""

# What the guard of sets takes, by the parameter of a single draw.
_DRAWN: Final = {
    "kinds": "kind",
    "keys": "key",
    "identities": "identity",
    "tiers": "tier",
    "days": "day",
    "prices_sats": "price_sats",
    "absorbs_sats": "absorb_sats",
    "charges_sats": "charge_sats",
    "budgets_sats": "budget_sats",
    "tier_ceilings_sats": "tier_ceiling_sats",
    "releases_sats": "release_sats",
    "floors_sats": "floor_sats",
    "pool_shares_bp": "pool_share_bp",
    "bounds_by": "bound_by",
    "rooms": "rooms",
    "resets_at_us": "resets_at_us",
    "expires_at_us": "expires_at_us",
}
_TEXTS: Final = {"kinds", "keys", "identities", "tiers", "bounds_by", "rooms"}


def _arrays(names: Mapping[str, str]) -> str:
    return ",\n  ".join(
        f"CAST(:{name} AS {'TEXT' if name in _TEXTS else 'BIGINT'}[])" for name in names
    )


DRAW_MANY: Final = f"""
INSERT INTO freetier_draws (pool, at_us, {", ".join(_DRAWN)})
VALUES (:pool, CAST(:now_us AS BIGINT),
  {_arrays(_DRAWN)})
RETURNING at_us, seqs
"""

_ENDED: Final = {
    "kinds": "kind",
    "keys": "key",
    "at_us": "now_us",
    "absorbs_sats": "absorb_sats",
    "charges_sats": "charge_sats",
    "refunds_sats": "refund_sats",
    "overruns_sats": "overrun_sats",
    "uncovered_sats": "uncovered_sats",
    "floors_sats": "floor_sats",
    "end_holds": "ends_hold",
    "free_allowances": "frees_allowance",
}

# By what an ending is told from the others.
_TOLD_APART: Final = (
    "kind",
    "key",
    "absorb_sats",
    "charge_sats",
    "refund_sats",
    "overrun_sats",
    "uncovered_sats",
)

# Each meets the journal's guard, which sees those before it, and works out seq, time and totals.
END_MANY: Final = f"""
INSERT INTO freetier_journal (
  pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats,
  refund_sats, overrun_sats, uncovered_sats, floor_sats,
  balance_change, reserved_change, used_change, balance_sats, reserved_sats)
SELECT p.pool, p.seq + d.place, d.kind, g.key, d.at_us, g.identity, g.tier, g.day, g.price_sats,
  d.absorb_sats, d.charge_sats, d.refund_sats, d.overrun_sats, d.uncovered_sats, d.floor_sats,
  -d.absorb_sats, -d.ends_hold * g.absorb_sats,
  d.frees_allowance * (d.absorb_sats - g.absorb_sats), p.balance_sats, p.reserved_sats
FROM freetier_pool AS p
CROSS JOIN unnest(
  {_arrays(_ENDED)}
) WITH ORDINALITY AS d (
  kind, key, at_us, absorb_sats, charge_sats, refund_sats, overrun_sats, uncovered_sats,
  floor_sats, ends_hold, frees_allowance, place)
CROSS JOIN LATERAL (SELECT * FROM freetier_journal AS g
  WHERE g.pool = p.pool AND g.key = d.key AND g.once = 'draw' AND g.kind = 'reserve' LIMIT 1) AS g
WHERE p.pool = :pool
ORDER BY d.place
RETURNING at_us, {", ".join(_TOLD_APART)}
"""


@frozen
class _Many:
    """How statements of one text are asked as one, and what of the rows is whose."""

    text: str
    arrays: Mapping[str, str]
    parted: Callable[[Sequence[Params], Rows], Sequence[Rows]]


LANES: Final = (LOOK, DRAW, END)
"""The texts of which several queries can be asked as one."""


def lane(query: Query[Any]) -> str | None:
    """The lane in which a query can be asked along with others; None if it is asked alone."""
    if query.text not in _MANY or (query.text == LOOK and query.params["now_us"] is not None):
        return None  # a look at another time sees another pool
    return query.text


def asked(queries: Sequence[Query[Any]]) -> tuple[str, ManyParams]:
    """One statement for queries of one lane, and its parameters; in their order."""
    many, each = _MANY[queries[0].text], [query.params for query in queries]
    arrays = {array: [params[name] for params in each] for array, name in many.arrays.items()}
    # Time does not run back: of several, the latest is the time of all.
    times = [now_us for params in each if isinstance(now_us := params["now_us"], int)]
    return many.text, {"pool": each[0]["pool"], "now_us": max(times, default=None), **arrays}


def parted(queries: Sequence[Query[Any]], rows: Rows) -> Sequence[Rows]:
    """The rows of each of the queries, of those that came for all of them."""
    return _MANY[queries[0].text].parted([query.params for query in queries], rows)


def _looked(each: Sequence[Params], rows: Rows) -> Sequence[Rows]:
    return [[row] for row in rows] if rows else [[]] * len(each)


def _drawn(each: Sequence[Params], rows: Rows) -> Sequence[Rows]:
    if not rows:  # all were refused
        return [[]] * len(each)
    ((at_us, seqs),) = rows
    return [[] if seq is None else [(at_us,)] for seq in seqs]


def _ended(each: Sequence[Params], rows: Rows) -> Sequence[Rows]:
    # The rows are in the callers' order. Of two who ask the same with nothing written in between,
    # the first is the one who was not refused.
    written = deque(rows)
    found: list[Rows] = []
    for params in each:
        figures = tuple(params[name] for name in _TOLD_APART)
        mine = bool(written) and figures == tuple(written[0][1:])
        found.append([written.popleft()[:1]] if mine else [])
    return found


_MANY: Final[Mapping[str, _Many]] = {
    LOOK: _Many(LOOK_MANY, {"keys": "key", "identities": "identity", "tiers": "tier"}, _looked),
    DRAW: _Many(DRAW_MANY, _DRAWN, _drawn),
    END: _Many(END_MANY, _ENDED, _ended),
}

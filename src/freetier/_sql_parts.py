"""Parts that statements have in common: columns, the pool with its time, what is due and used."""

from __future__ import annotations

from typing import Final

ENTRY_COLUMNS: Final = """
  seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats, paid_sats,
  refund_sats, overrun_sats, uncovered_sats, budget_sats, tier_ceiling_sats, release_sats,
  floor_sats, pool_share_bp, bound_by, rooms, resets_at_us, expires_at_us, credit_share_bp,
  credit_carry, sponsor, note, balance_change, reserved_change, used_change, balance_sats,
  reserved_sats"""

# The pool with the store's time: the later of the clock and the last entry. There is one such row;
# the LIMIT has the time worked out once, where it would else be copied to wherever it is used.
POOL_NOW: Final = """(
  SELECT pool.*, CASE WHEN :now_us > at_us THEN :now_us ELSE at_us END AS now_us
  FROM freetier_pool AS pool WHERE pool = :pool LIMIT 1
) AS p"""

# What is due, summed only where the first to expire is: Postgres would take a third of the open
# grants to be due, and read them all.
_ANY_DUE: Final = """(SELECT o.expires_at_us FROM freetier_open AS o WHERE o.pool = p.pool
    ORDER BY o.expires_at_us LIMIT 1) <= p.now_us"""
DUE_SATS: Final = f"""
  CASE WHEN {_ANY_DUE} THEN (
    SELECT CAST(coalesce(sum(o.absorb_sats), 0) AS BIGINT) FROM freetier_open AS o
    WHERE o.pool = p.pool AND o.expires_at_us <= p.now_us) ELSE 0 END"""
DUE: Final = f"""
  CASE WHEN {_ANY_DUE} THEN (
    SELECT count(*) FROM freetier_open AS o
    WHERE o.pool = p.pool AND o.expires_at_us <= p.now_us) ELSE 0 END"""

# A total for each kind of entry, in the order of `Kind`.
TOTALS: Final = """
  seed_sats, credit_sats, donation_sats, adjustment_sats, reserve_sats, grant_sats, settle_sats,
  release_sats, expire_sats, late_sats"""

# What rows tell of a grant: its draw (g); its ending (e) and late settlement (l).
DRAW_COLUMNS: Final = """
  g.kind, g.key, g.identity, g.tier, g.price_sats, g.absorb_sats, g.charge_sats, g.bound_by,
  g.rooms, g.resets_at_us, g.at_us, g.expires_at_us"""
ENDING_COLUMNS: Final = """
  e.kind, e.absorb_sats, e.charge_sats, e.refund_sats, e.overrun_sats,
  l.kind, l.absorb_sats, l.charge_sats, l.refund_sats, l.overrun_sats, l.uncovered_sats"""

# What was used today, by scope and name. A subquery each, not a join: where nothing is prepared,
# planning costs more than reading, and it grows with every table that is joined.
USED: Final = """coalesce((SELECT u.used_sats FROM freetier_usage AS u WHERE u.pool = p.pool
    AND u.day = p.now_us / 86400000000 AND u.scope = {scope} AND u.name = {name}), 0)"""

"""What the kinds of entry mean, for everyone who reads a journal: stores, model, `verify`."""

from __future__ import annotations

from typing import Final

from freetier.entries import Entry, GrantState, Kind
from freetier.values import Decision, Settlement

DEPOSITS: Final = (Kind.SEED, Kind.CREDIT, Kind.DONATION, Kind.ADJUSTMENT)
DRAWS: Final = (Kind.RESERVE, Kind.GRANT)
ENDINGS: Final = (Kind.SETTLE, Kind.RELEASE, Kind.EXPIRE)
_ENDED: Final = {
    Kind.SETTLE: GrantState.SETTLED,
    Kind.RELEASE: GrantState.RELEASED,
    Kind.EXPIRE: GrantState.EXPIRED,
}


def once(kind: Kind) -> str:
    """What there is only one of under a key: one draw, one ending, one of each other kind."""
    if kind in DRAWS:
        return "draw"
    return "ending" if kind in ENDINGS else kind


def amount(entry: Entry) -> int:
    """What an entry adds to the total of its kind, in sats; below 0 only for an adjustment."""
    if entry.kind in DEPOSITS:
        return entry.balance_change
    if entry.kind in (Kind.RESERVE, Kind.RELEASE, Kind.EXPIRE):
        return abs(entry.reserved_change)
    return -entry.balance_change


def state(draw: Kind, ending: Kind | None, *, due: bool) -> GrantState:
    """The state of a grant that was drawn as `draw` and ended as `ending`, if it was yet.

    A grant that is due, past its expiry, is expired whether or not somebody swept it.
    """
    if draw is Kind.GRANT:
        return GrantState.SETTLED
    if ending is not None:
        return _ENDED[ending]
    return GrantState.EXPIRED if due else GrantState.OPEN


def settlement(
    decision: Decision,
    absorbed: int,
    charged: int,
    refund: int,
    overrun: int,
    uncovered: int | None = None,
) -> Settlement:
    """What a settle entry (or, with `uncovered`, a late one) says, with what follows from it."""
    missing = uncovered or 0
    return Settlement(
        actual_sats=absorbed + missing + charged + overrun,
        absorbed_sats=absorbed,
        charged_sats=charged,
        refund_sats=refund,
        returned_sats=decision.absorb_sats - absorbed - missing,
        overrun_sats=overrun,
        late=uncovered is not None,
        uncovered_sats=missing,
    )

"""What is written down: the journal's entries, and the grants and the pool that follow from them.

Loaded by who keeps a ledger; a policy decides without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from attrs import field, frozen

from freetier.values import Decision, Settlement, Word


class GrantState(Word):
    """`open`, then exactly one of `settled`, `released`, `expired`. `unheld`: nothing was held."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"
    UNHELD = "unheld"
    """A gate, or a price of 0: no sats moved, so there is nothing to end."""


class Kind(Word):
    """The kinds of journal entry; `docs/explanation/design.md` has the sats each one moves."""

    SEED = "seed"
    CREDIT = "credit"
    DONATION = "donation"
    ADJUSTMENT = "adjustment"
    RESERVE = "reserve"
    GRANT = "grant"
    SETTLE = "settle"
    RELEASE = "release"
    EXPIRE = "expire"
    LATE = "late"


@frozen
class Grant:
    """A decision written down for a request, and what became of it.

    `expires_at` is None where nothing is held. `settlement` is there once it was settled, in time
    or late (then `state` stays `EXPIRED`).
    """

    request_id: str
    identity: str | None
    tier: str
    decision: Decision
    state: GrantState
    reserved_at: datetime
    expires_at: datetime | None = None
    settlement: Settlement | None = None

    @property
    def absorb_sats(self) -> int:
        """What the pool promised."""
        return self.decision.absorb_sats

    @property
    def charge_sats(self) -> int:
        """What the caller is asked to pay."""
        return self.decision.charge_sats


@frozen
class Credit:
    """A paid invoice, and the part of it that went into the pool."""

    payment_hash: str
    paid_sats: int
    credited_sats: int


@frozen
class Entry:
    """One fact of the journal, in the words of the schema; None where a figure does not apply.

    `balance_change`, `reserved_change` and `used_change` are what it moved; `balance_sats` and
    `reserved_sats` are the pool's totals right after it.
    """

    seq: int
    kind: Kind
    key: str
    at: datetime
    identity: str | None
    tier: str | None
    day: date | None
    price_sats: int | None
    absorb_sats: int | None
    charge_sats: int | None
    paid_sats: int | None
    refund_sats: int | None
    overrun_sats: int | None
    uncovered_sats: int | None
    budget_sats: int | None
    tier_ceiling_sats: int | None
    release_sats: int | None
    floor_sats: int | None
    pool_share_bp: int | None
    bound_by: str | None
    rooms: Mapping[str, int] | None = field(hash=False)
    resets_at: datetime | None
    expires_at: datetime | None
    credit_share_bp: int | None
    credit_carry: int | None
    sponsor: str | None
    note: str | None
    balance_change: int
    reserved_change: int
    used_change: int
    balance_sats: int
    reserved_sats: int


@frozen
class MisfiledEntry(Entry):
    """An entry that a store would not find by its key: somebody changed what it is filed under.

    No schema lets that happen. `verify` reads such an entry to say so.
    """


@frozen
class PoolStatus:
    """The pool as of `as_of`. All in sats but `open_grants`, which counts.

    `absorbed_today_sats` is what was drawn this UTC day: settled, held, or spent by a grant that
    expired (its allowance does not come back). `totals` has a sum for each kind of entry, since
    the first. `gated_today` and `gated_today_sats` are the unmet demand of known identities.
    """

    as_of: datetime
    balance_sats: int
    reserved_sats: int
    open_grants: int
    absorbed_today_sats: int
    gated_today: int
    gated_today_sats: int
    totals: Mapping[Kind, int] = field(hash=False)
    budgets: Mapping[str, int] = field(hash=False, factory=dict)

    @property
    def available_sats(self) -> int:
        """Balance less reserved."""
        return self.balance_sats - self.reserved_sats

"""The nouns. Frozen values, checked once, where they enter; no I/O, no clock, no rule.

Sats are whole numbers (`type(x) is int`) from 0 to `MAX_SATS`, all the bitcoin there can be.
Shares are basis points: 10,000 is the whole. Every time is an aware `datetime`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from attrs import field, frozen

from freetier.errors import InvalidInput

MAX_SATS = 2_100_000_000_000_000
"""All the bitcoin there will ever be, in sats: the upper bound of every amount."""
MAX_STORED = 2**63 - 1
"""The largest whole number that every database holds."""
MAX_TTL_S = 366 * 24 * 3600
"""The longest that a grant may be held, in seconds."""
WHOLE_BP = 10_000
"""The whole, in basis points."""
MAX_ID_LENGTH = 256
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What Unicode lets a font leave out, of what `str.isprintable` lets pass; and the blank of Braille.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0").union(
    map(chr, range(0x180B, 0x1810)),
    map(chr, range(0xFE00, 0xFE10)),
    map(chr, range(0xE0100, 0xE01F0)),
)
_LAST = datetime(9000, 1, 1, tzinfo=UTC)  # leaves room for any time to live
_MICROSECOND = timedelta(microseconds=1)


class Word(StrEnum):
    """An enumeration that prints as the word that it is, also inside other values."""

    __repr__ = str.__repr__


class Serve(Word):
    """Who pays: `FREE` the pool, `PARTIAL` both, `GATE` the caller."""

    FREE = "free"
    PARTIAL = "partial"
    GATE = "gate"


class Limit(Word):
    """Why the pool does not absorb more. In the order of precedence: the earlier wins a tie."""

    ANONYMOUS = "anonymous"
    """Nobody is known to ask."""
    BUDGET = "budget"
    """The identity's allowance: its tier's budget less what it used today."""
    TIER_CEILING = "tier_ceiling"
    """What a whole tier may draw a day, so that many cheap identities cannot empty the pool."""
    DAILY_RELEASE = "daily_release"
    """What the whole pool gives a day, if paced a 24th more each hour."""
    POOL = "pool"
    """What is available above the floor."""
    POOL_SHARE = "pool_share"
    """A share of what is available, per request."""
    PER_REQUEST = "per_request"
    """A fixed most, per request."""
    UNAVAILABLE = "unavailable"
    """The store did not answer and the host chose `on_unavailable="gate"`."""


@frozen
class Request:
    """What is asked: `identity` (None is anonymous), of `tier`, wants work for `price_sats`.

    `request_id` is the host's (a job id, an event id) and unique for ever: the same id again is
    the same request, and gets the same answer. Raises `InvalidInput`.
    """

    request_id: str
    identity: str | None
    tier: str
    price_sats: int

    def __attrs_post_init__(self) -> None:
        check_id("request_id", self.request_id)
        if self.identity is not None:
            check_id("identity", self.identity)
        check_id("tier", self.tier)
        check_sats("price_sats", self.price_sats)


@frozen
class Snapshot:
    """What the repository shows a policy: the time, the pool, what was drawn this UTC day.

    `reserved_sats` leaves out grants past their expiry. The three `…_used_sats` are what this
    identity, its tier, and everybody drew today. Raises `InvalidInput`.
    """

    at: datetime
    balance_sats: int
    reserved_sats: int = 0
    identity_used_sats: int = 0
    tier_used_sats: int = 0
    pool_used_sats: int = 0

    def __attrs_post_init__(self) -> None:
        check_time("at", self.at)
        for name in _SNAPSHOT_SATS:
            check_sats(name, getattr(self, name), most=MAX_STORED)
        if self.reserved_sats > self.balance_sats:
            raise InvalidInput("reserved_sats", self.reserved_sats, "at most the balance")

    @property
    def available_sats(self) -> int:
        """Balance less reserved."""
        return self.balance_sats - self.reserved_sats


_SNAPSHOT_SATS = (
    "balance_sats",
    "reserved_sats",
    "identity_used_sats",
    "tier_used_sats",
    "pool_used_sats",
)


@frozen
class Settlement:
    """How a grant ended, on the real cost (rule 6). All in sats.

    `absorbed_sats` the pool paid; `charged_sats` the caller paid in the end, after `refund_sats`
    came back; `returned_sats` of the grant was not needed; `overrun_sats` of the cost exceeded
    the price and is nobody's promise. A grant settled after it expired is `late`: what the pool
    could no longer pay is `uncovered_sats`.
    """

    actual_sats: int
    absorbed_sats: int
    charged_sats: int
    refund_sats: int
    returned_sats: int
    overrun_sats: int
    late: bool = False
    uncovered_sats: int = 0


@frozen
class Decision:
    """The answer: the pool absorbs `absorb_sats`, the caller is charged `charge_sats`.

    absorb + charge = price, always. `bound_by` is the limit that kept absorb below the price
    (None when free): a `Limit`, or the name of a host's own limit. `rooms` has the sats that each
    limit in force left, in the order of precedence. `resets_at` is when the binding limit next
    grows by itself; None when time alone does not help.
    """

    serve: Serve
    price_sats: int
    absorb_sats: int
    charge_sats: int
    bound_by: str | None
    rooms: Mapping[str, int] = field(hash=False)
    resets_at: datetime | None = None

    def settle(self, actual_sats: int | None = None) -> Settlement:
        """What is owed once the work cost `actual_sats`, as if it had been decided on that.

        The pool pays min(actual, absorb); the caller the rest, at most the charge. An unknown
        cost (None) settles at the grant. Raises `InvalidInput`.
        """
        price = self.price_sats
        actual = price if actual_sats is None else check_sats("actual_sats", actual_sats)
        absorbed = min(actual, self.absorb_sats)
        charged = min(actual - absorbed, self.charge_sats)
        return Settlement(
            actual_sats=actual,
            absorbed_sats=absorbed,
            charged_sats=charged,
            refund_sats=self.charge_sats - charged,
            returned_sats=self.absorb_sats - absorbed,
            overrun_sats=max(0, actual - price),
        )


@frozen
class Caps:
    """The limits that a grant was decided under and that the store checks again as it writes it."""

    budget_sats: int
    tier_ceiling_sats: int | None
    release_sats: int | None
    floor_sats: int
    pool_share_bp: int | None


def check_type(argument: str, value: object, *kinds: type) -> None:
    """Raises `InvalidInput` unless `value` is an instance of one of these."""
    if not isinstance(value, kinds):
        raise InvalidInput(argument, value, " or ".join(_a(kind.__name__) for kind in kinds))


def check_sats(argument: str, value: object, *, least: int = 0, most: int = MAX_SATS) -> int:
    """`value` if it is an int (not a bool) from `least` to `most`, else raises `InvalidInput`."""
    if type(value) is int and least <= value <= most:
        return value
    raise InvalidInput(argument, value, f"a whole number of sats from {least} to {most}")


def check_share(argument: str, value: object) -> int:
    """`value` if it is an int from 0 to 10,000 basis points, else raises `InvalidInput`."""
    if type(value) is int and 0 <= value <= WHOLE_BP:
        return value
    raise InvalidInput(argument, value, "a whole number of basis points from 0 to 10000")


def check_id(argument: str, value: object) -> str:
    """`value` if it is an id, else raises `InvalidInput`.

    An id is 1 to 256 printable characters without `<`, `>` or `&`, which LNbits strips from
    stored text. Spaces at the ends, characters that nobody sees, and those that Unicode counts as
    a variant of another (full-width digits, ligatures, split accents) are refused. Letters of
    different scripts that happen to look alike are different letters.
    """
    if type(value) is not str or not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidInput(argument, value, f"text of 1 to {MAX_ID_LENGTH} characters")
    if not value.isprintable() or value != value.strip():
        raise InvalidInput(argument, value, "printable characters without spaces at the ends")
    if "<" in value or ">" in value or "&" in value:
        raise InvalidInput(argument, value, "text without '<', '>' and '&'")
    if not value.isascii():
        if not unicodedata.is_normalized("NFKC", value):
            raise InvalidInput(argument, value, "text in Unicode's normal form NFKC")
        if not _UNSEEN.isdisjoint(value):
            raise InvalidInput(argument, value, "characters that can be seen")
    return value


def check_note(argument: str, value: object) -> str:
    """`value` if it is empty or fit to be an id, else raises `InvalidInput`."""
    return value if type(value) is str and not value else check_id(argument, value)


def check_time(argument: str, value: object) -> datetime:
    """`value` if it is an aware `datetime` from 1970 to 8999, else raises `InvalidInput`."""
    if isinstance(value, datetime) and value.utcoffset() is not None and EPOCH <= value < _LAST:
        return value
    raise InvalidInput(argument, value, "an aware datetime from 1970 to 8999")


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


def to_us(at: datetime) -> int:
    """Microseconds since 1970 began, UTC."""
    return (at - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The UTC time `us` microseconds after 1970 began."""
    return EPOCH + timedelta(microseconds=us)


def utc_day(at: datetime) -> date:
    """The UTC date at `at`."""
    return at.astimezone(UTC).date()

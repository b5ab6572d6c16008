"""The rule: how much of a price the pool absorbs, and which limit bound it.

Nothing here reads a clock, an environment or a database: the same arguments give the same answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from attrs import field, fields, frozen

from freetier.errors import InvalidInput
from freetier.values import (
    MAX_TTL_S,
    WHOLE_BP,
    Caps,
    Decision,
    Limit,
    Request,
    Serve,
    Snapshot,
    check_id,
    check_sats,
    check_share,
    check_type,
)

DEFAULT_BUDGETS: Final = MappingProxyType(
    {"new": 0, "established": 50, "trusted": 200, "elite": 1000}
)
HOURS_A_DAY = 24
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_MIDNIGHT: Final = time(tzinfo=UTC)
# Looked up once: to ask an enumeration for a member takes as long as to compare two limits.
_FREE, _PARTIAL, _GATE = Serve.FREE, Serve.PARTIAL, Serve.GATE
_BUDGET, _POOL = Limit.BUDGET, Limit.POOL

_BUILT_IN = frozenset(limit.value for limit in Limit)

Room = Callable[[Request, Snapshot], int | None]


@frozen
class HostLimit:
    """A limit of the host's own: `room(request, snapshot)` in sats, or None where it has no say.

    `room` is a pure, short function: on SQLite it may run while others wait for the file, and it
    cannot ask the ledger. `name` is what `bound_by` and `rooms` call it. With `resets_daily`
    a decision that it bound says that midnight UTC helps. Host limits come after the built-in
    ones, in the order given. They are not re-checked by the database: a limit that counts across
    requests belongs in a ceiling. Raises `InvalidInput`.
    """

    name: str
    room: Room
    resets_daily: bool = False

    def __attrs_post_init__(self) -> None:
        check_id("name", self.name)
        if self.name in _BUILT_IN:
            raise InvalidInput("name", self.name, "a name that no built-in limit has")
        if not callable(self.room):
            raise InvalidInput("room", self.room, "a callable")
        if type(self.resets_daily) is not bool:
            raise InvalidInput("resets_daily", self.resets_daily, "True or False")


def _read_only(value: Mapping[str, int]) -> Mapping[str, int]:
    """A copy that nobody changes later; what is not a mapping is left for the check."""
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value


def _unpickled(values: dict[str, Any]) -> FreeTierPolicy:
    return FreeTierPolicy(**values)


def _in_order(limits: Iterable[HostLimit]) -> tuple[HostLimit, ...]:
    if not isinstance(limits, Iterable):
        raise InvalidInput("limits", limits, "a tuple of HostLimit")
    return tuple(limits)


@frozen(kw_only=True)
class FreeTierPolicy:
    """Budgets, shares and limits; `decide` is the rule. Only budgets and pool bind by default.

    budgets: sats that a tier may draw per identity per UTC day; these are all the tiers there are.
    credit_share_bp: the part of each paid invoice that goes into the pool (1000: 10 %).
    seed_sats: what the pool starts with, once.
    floor_sats: what the pool never goes below for a grant.
    tier_ceilings: sats that all identities of a tier may draw per UTC day, together.
    daily_release_sats: sats that everybody may draw per UTC day, together.
    daily_release_paced: free that by the hour, a 24th more each.
    pool_share_bp: the part of what is available that one request may draw.
    per_request_sats: the most that one request may draw.
    min_charge_sats, min_absorb_sats: the least that a partial charges, and absorbs (from 1).
    grant_ttl_s: seconds that a grant is held unless `reserve` says otherwise; up to 366 days.
    limits: the host's own.

    Raises `InvalidInput` for a setting out of bounds.
    """

    budgets: Mapping[str, int] = field(default=DEFAULT_BUDGETS, converter=_read_only, hash=False)
    credit_share_bp: int = 1000
    seed_sats: int = 10_000
    floor_sats: int = 0
    tier_ceilings: Mapping[str, int] = field(factory=dict, converter=_read_only, hash=False)
    daily_release_sats: int | None = None
    daily_release_paced: bool = False
    pool_share_bp: int | None = None
    per_request_sats: int | None = None
    min_charge_sats: int = 1
    min_absorb_sats: int = 1
    grant_ttl_s: int = 900
    limits: tuple[HostLimit, ...] = field(default=(), converter=_in_order)

    def __attrs_post_init__(self) -> None:
        self._check_tiers()
        self._check_limits()
        check_share("credit_share_bp", self.credit_share_bp)
        for name in ("seed_sats", "floor_sats"):
            check_sats(name, getattr(self, name))
        for name in ("min_charge_sats", "min_absorb_sats"):
            check_sats(name, getattr(self, name), least=1)
        for name in ("daily_release_sats", "per_request_sats"):
            if getattr(self, name) is not None:
                check_sats(name, getattr(self, name))
        if self.pool_share_bp is not None:
            check_share("pool_share_bp", self.pool_share_bp)
        if type(self.daily_release_paced) is not bool:
            raise InvalidInput("daily_release_paced", self.daily_release_paced, "True or False")
        if type(self.grant_ttl_s) is not int or not 1 <= self.grant_ttl_s <= MAX_TTL_S:
            raise InvalidInput("grant_ttl_s", self.grant_ttl_s, f"seconds from 1 to {MAX_TTL_S}")

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], FreeTierPolicy], tuple[Any]]:
        """Pickles, and copies, by its settings: a read-only mapping does not."""
        values = {each.name: getattr(self, each.name) for each in fields(type(self))}
        values |= {name: dict(values[name]) for name in ("budgets", "tier_ceilings")}
        return _unpickled, (values,)

    def _check_tiers(self) -> None:
        for name in ("budgets", "tier_ceilings"):
            tiers = getattr(self, name)
            if not isinstance(tiers, Mapping):
                raise InvalidInput(name, tiers, "a mapping from tier to sats")
            for tier, sats in tiers.items():
                check_sats(f"{name}[{check_id(name, tier)!r}]", sats)
        for tier in self.tier_ceilings:
            self.check_tier("tier_ceilings", tier)

    def _check_limits(self) -> None:
        for limit in self.limits:
            check_type("limits", limit, HostLimit)
        names = [limit.name for limit in self.limits]
        if len(set(names)) < len(names):
            raise InvalidInput("limits", names, "a name of its own for each limit")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> FreeTierPolicy:
        """The policy that the `FREETIER_…` variables say; `docs/reference/settings.md` lists them.

        Raises `ConfigError` that lists every variable that is misspelled or has no usable value.
        """
        from freetier import settings  # noqa: PLC0415 - for who reads the environment, then

        values = settings.read(environ, DEFAULT_BUDGETS)
        values["budgets"] = {**DEFAULT_BUDGETS, **values.get("budgets", {})}
        return cls(**values)

    def check_tier(self, argument: str, tier: str) -> str:
        """`tier` if the policy knows it, else raises `InvalidInput`."""
        if tier in self.budgets:
            return tier
        raise _unknown(argument, tier, self.budgets)

    def decide(self, request: Request, snapshot: Snapshot) -> Decision:
        """How much of the price the pool absorbs: the least of the price and every limit's room.

        Of several limits that leave the same room, the first in the order of `Limit` is named. A
        price of 0 is free. Raises `InvalidInput`, also for a tier without a budget.
        """
        try:  # costs nothing; to ask what they are, as much as a limit
            price, _ = request.price_sats, snapshot.at
        except AttributeError:
            raise _not_to_decide_on(request, snapshot) from None
        rooms = self._rooms(request, snapshot)
        room, bound_by = price, None
        for limit, left in rooms.items():
            if left < room:
                room, bound_by = left, limit
        if bound_by is None:
            return Decision(_FREE, price, price, 0, None, rooms)
        most = price - self.min_charge_sats
        absorb = room if room < most else most
        if absorb < self.min_absorb_sats:
            absorb = 0
        return Decision(
            _PARTIAL if absorb else _GATE,
            price,
            absorb,
            price - absorb,
            bound_by,
            rooms,
            self._resets_at(bound_by, request, snapshot.at),
        )

    def caps(self, request: Request, at: datetime) -> Caps:
        """What the database re-checks when the grant is written, from the same settings."""
        return Caps(
            budget_sats=self.budgets[request.tier],
            tier_ceiling_sats=self.tier_ceilings.get(request.tier),
            release_sats=self._released(at),
            floor_sats=self.floor_sats,
            pool_share_bp=self.pool_share_bp,
        )

    def pool_room(self, snapshot: Snapshot) -> int:
        """What a grant may draw from the pool: what is available above the floor."""
        left = snapshot.balance_sats - snapshot.reserved_sats - self.floor_sats
        return left if left > 0 else 0

    def _rooms(self, request: Request, snapshot: Snapshot) -> dict[str, int]:
        """The room of each limit in force, in the order of precedence."""
        tier = request.tier
        budget = self.budgets.get(tier)
        if budget is None:
            raise _unknown("tier", tier, self.budgets)
        rooms: dict[str, int] = {}
        if request.identity is None:
            rooms[Limit.ANONYMOUS] = 0
        left = budget - snapshot.identity_used_sats
        rooms[_BUDGET] = left if left > 0 else 0
        if tier in self.tier_ceilings:
            ceiling = self.tier_ceilings[tier]
            rooms[Limit.TIER_CEILING] = max(0, ceiling - snapshot.tier_used_sats)
        if self.daily_release_sats is not None:
            released = self._released(snapshot.at) or 0
            rooms[Limit.DAILY_RELEASE] = max(0, released - snapshot.pool_used_sats)
        rooms[_POOL] = self.pool_room(snapshot)
        if self.pool_share_bp is not None:
            available = max(0, snapshot.available_sats)
            rooms[Limit.POOL_SHARE] = available * self.pool_share_bp // WHOLE_BP
        if self.per_request_sats is not None:
            rooms[Limit.PER_REQUEST] = self.per_request_sats
        for limit in self.limits:
            room = limit.room(request, snapshot)
            if room is not None:
                rooms[limit.name] = check_sats(f"room of {limit.name!r}", room)
        return rooms

    def _released(self, at: datetime) -> int | None:
        """What of the day's release is free at `at`."""
        if self.daily_release_sats is None or not self.daily_release_paced:
            return self.daily_release_sats
        return self.daily_release_sats * (at.astimezone(UTC).hour + 1) // HOURS_A_DAY

    def _resets_at(self, bound_by: str, request: Request, at: datetime) -> datetime | None:
        """When time alone next gives `bound_by` more room; None when it never does."""
        if bound_by is _BUDGET:
            daily = self.budgets[request.tier] > 0
        elif bound_by == Limit.TIER_CEILING:
            daily = self.tier_ceilings[request.tier] > 0
        elif bound_by == Limit.DAILY_RELEASE:
            if self.daily_release_paced:
                return self._next_release(at)
            daily = bool(self.daily_release_sats)
        else:
            daily = any(host.name == bound_by and host.resets_daily for host in self.limits)
        return _next_midnight(at) if daily else None

    def _next_release(self, at: datetime) -> datetime | None:
        """The first later hour at which more of the day's release is free."""
        if not self.daily_release_sats:
            return None
        midnight, now_free = _next_midnight(at), self._released(at) or 0
        hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
        while hour < midnight and (self._released(hour) or 0) <= now_free:
            hour += _HOUR
        return hour


def _not_to_decide_on(request: object, snapshot: object) -> InvalidInput:
    if isinstance(request, Request):
        return InvalidInput("snapshot", snapshot, "a Snapshot")
    return InvalidInput("request", request, "a Request")


def _unknown(argument: str, tier: str, tiers: Iterable[str]) -> InvalidInput:
    return InvalidInput(argument, tier, f"one of the tiers {', '.join(tiers)}")


def _next_midnight(at: datetime) -> datetime:
    return _end_of(at.date() if at.tzinfo is UTC else at.astimezone(UTC).date())


@lru_cache(maxsize=2)  # one day after the other
def _end_of(day: date) -> datetime:
    return datetime.combine(day, _MIDNIGHT) + _DAY

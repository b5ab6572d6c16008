"""The rule: its laws, for every policy and snapshot; each limit, by one example."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freetier import FreeTierPolicy, HostLimit, InvalidInput, Limit, Request, Serve
from freetier.values import MAX_SATS, MAX_TTL_S, Caps, Decision, Snapshot

NOON = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 1, 6, tzinfo=UTC)
TIERS = ["new", "trusted"]
WRONG: Any = "no"

SATS = ["seed_sats", "floor_sats", "daily_release_sats", "per_request_sats"]
SATS += ["min_charge_sats", "min_absorb_sats"]
SHARES = ["credit_share_bp", "pool_share_bp"]

few = st.integers(0, 300)
maybe = st.none() | few


@st.composite
def policies(draw: st.DrawFn) -> FreeTierPolicy:
    """Policies of every shape, over small sums, so that limits bind and meet."""
    room = draw(maybe)
    limits: Any = [HostLimit("host", lambda *_: room)]
    return FreeTierPolicy(
        budgets={"new": 0, "trusted": draw(few)},
        floor_sats=draw(few),
        tier_ceilings=draw(st.dictionaries(st.sampled_from(TIERS), few)),
        daily_release_sats=draw(maybe),
        daily_release_paced=draw(st.booleans()),
        pool_share_bp=draw(st.none() | st.integers(0, 10_000)),
        per_request_sats=draw(maybe),
        min_charge_sats=draw(st.integers(1, 20)),
        min_absorb_sats=draw(st.integers(1, 20)),
        limits=limits,
    )


names = st.sampled_from([None, "ab"])
requests = st.builds(Request, st.just("job"), names, st.sampled_from(TIERS), st.integers(1, 300))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A pool that may be empty or wholly reserved, at any hour."""
    balance, at = draw(few), NOON.replace(hour=draw(st.integers(0, 23)))
    return Snapshot(at, balance, draw(st.integers(0, balance)), draw(few), draw(few), draw(few))


cases = st.tuples(policies(), requests, snapshots())
Case = tuple[FreeTierPolicy, Request, Snapshot]


def decide(price: int = 100, identity: str | None = "ab", **settings: Any) -> Decision:
    """The decision for `price` when the pool has 1,000 sats and nothing was used."""
    policy = FreeTierPolicy(**{"budgets": {"trusted": 200}} | settings)
    return policy.decide(Request("job", identity, "trusted", price), Snapshot(NOON, 1000))


class TestLaws:
    """What holds for every policy, request and snapshot."""

    @given(cases)
    def test_every_sat_has_one_payer(self, case: Case) -> None:
        """Absorb + charge = price, neither is below 0, and the word says who pays."""
        policy, request, snapshot = case
        made = policy.decide(request, snapshot)
        assert made.absorb_sats + made.charge_sats == made.price_sats == request.price_sats
        assert min(made.absorb_sats, made.charge_sats) >= 0
        said = {Serve.FREE: (True, False), Serve.PARTIAL: (True, True), Serve.GATE: (False, True)}
        assert said[made.serve] == (made.absorb_sats > 0, made.charge_sats > 0)

    @given(cases)
    def test_no_limit_is_passed(self, case: Case) -> None:
        """Absorb is never above a limit's room, and `bound_by` has the least; free has none."""
        policy, request, snapshot = case
        made = policy.decide(request, snapshot)
        assert made.absorb_sats <= min(made.rooms.values())
        assert (made.bound_by is None) == (made.serve is Serve.FREE)
        if made.bound_by is not None:
            assert made.rooms[made.bound_by] == min(made.rooms.values())

    @given(cases)
    def test_a_partial_is_worth_it(self, case: Case) -> None:
        """A partial draws all the room, but charges and absorbs at least the policy's least."""
        policy, request, snapshot = case
        made = policy.decide(request, snapshot)
        if made.serve is Serve.PARTIAL:
            least = min(made.rooms.values())
            assert made.absorb_sats == min(least, made.price_sats - policy.min_charge_sats)
            assert made.absorb_sats >= policy.min_absorb_sats

    @given(cases, few)
    def test_more_never_absorbs_less(self, case: Case, more: int) -> None:
        """More budget or more in the pool never absorbs less."""
        policy, request, snapshot = case
        before = policy.decide(request, snapshot).absorb_sats
        budgets = {tier: sats + more for tier, sats in policy.budgets.items()}
        richer = attrs.evolve(policy, budgets=budgets)
        fuller = attrs.evolve(snapshot, balance_sats=snapshot.balance_sats + more)
        assert richer.decide(request, snapshot).absorb_sats >= before
        assert policy.decide(request, fuller).absorb_sats >= before

    @given(cases, few)
    def test_what_was_used_never_helps(self, case: Case, more: int) -> None:
        """More used, by the identity, its tier or everybody, never absorbs more."""
        policy, request, snapshot = case
        before = policy.decide(request, snapshot).absorb_sats
        for used in ("identity_used_sats", "tier_used_sats", "pool_used_sats"):
            later = attrs.evolve(snapshot, **{used: getattr(snapshot, used) + more})
            assert policy.decide(request, later).absorb_sats <= before

    @given(cases)
    def test_strangers_and_newcomers_pay(self, case: Case) -> None:
        """An anonymous caller, and a tier with budget 0, always pays the whole price."""
        policy, request, snapshot = case
        stranger = attrs.evolve(request, identity=None)
        newcomer = attrs.evolve(request, tier="new")
        assert policy.decide(stranger, snapshot).serve is Serve.GATE
        assert policy.decide(newcomer, snapshot).serve is Serve.GATE

    @given(cases)
    def test_the_same_again(self, case: Case) -> None:
        """The same arguments give the same answer."""
        policy, request, snapshot = case
        assert policy.decide(request, snapshot) == policy.decide(request, snapshot)

    @given(cases)
    def test_nothing_costs_nothing(self, case: Case) -> None:
        """A price of 0 is free, for strangers and from an empty pool too."""
        policy, request, snapshot = case
        made = policy.decide(attrs.evolve(request, price_sats=0), snapshot)
        assert (made.serve, made.absorb_sats, made.charge_sats) == (Serve.FREE, 0, 0)
        assert made.bound_by is None


ROOM_40: dict[str, dict[str, Any]] = {
    Limit.BUDGET: {"budgets": {"trusted": 40}},
    Limit.TIER_CEILING: {"tier_ceilings": {"trusted": 40}},
    Limit.DAILY_RELEASE: {"daily_release_sats": 40},
    Limit.POOL: {"floor_sats": 960},
    Limit.POOL_SHARE: {"pool_share_bp": 400},
    Limit.PER_REQUEST: {"per_request_sats": 40},
    "a": {"limits": (HostLimit("a", lambda *_: 40, resets_daily=True),)},
    "b": {"limits": (HostLimit("b", lambda *_: 40),)},
}
DAILY = {Limit.BUDGET, Limit.TIER_CEILING, Limit.DAILY_RELEASE, "a"}
PAIRS = [(first, second) for at, first in enumerate(ROOM_40) for second in list(ROOM_40)[at + 1 :]]


class TestLimits:
    """Absorb is the least of the price and every limit's room."""

    @pytest.mark.parametrize(
        ("available", "share_bp", "room"), [(1000, 333, 33), (1001, 9999, 1000), (9, 1111, 0)]
    )
    def test_a_share_is_rounded_down(self, available: int, share_bp: int, room: int) -> None:
        """A share of what is available is whole sats, and never more than the share."""
        policy = FreeTierPolicy(pool_share_bp=share_bp)
        made = policy.decide(
            Request("job", "ab", "trusted", 2000), Snapshot(NOON, available, 0, 0, 0, 0)
        )
        assert made.rooms[Limit.POOL_SHARE] == room

    @pytest.mark.parametrize("limit", ROOM_40)
    def test_each_limit_binds_alone(self, limit: str) -> None:
        """A limit with room 40 leaves 40 of 100, is named, and resets when its room comes back."""
        made = decide(**ROOM_40[limit])
        assert (made.serve, made.absorb_sats, made.charge_sats) == (Serve.PARTIAL, 40, 60)
        assert made.bound_by == limit
        assert made.rooms == {Limit.BUDGET: 200, Limit.POOL: 1000} | {limit: 40}
        assert made.resets_at == (MIDNIGHT if limit in DAILY else None)

    @pytest.mark.parametrize(("first", "second"), PAIRS)
    def test_the_earlier_wins_a_tie(self, first: str, second: str) -> None:
        """Of two limits that leave the same room, the one earlier in the order is named."""
        settings = ROOM_40[second] | ROOM_40[first]
        if "limits" in ROOM_40[first]:
            settings["limits"] = ROOM_40[first]["limits"] + ROOM_40[second]["limits"]
        made = decide(**settings)
        assert made.rooms[first] == made.rooms[second] == 40
        assert made.bound_by == first

    @pytest.mark.parametrize("limit", ROOM_40)
    def test_anonymous_comes_before_all(self, limit: str) -> None:
        """For a stranger the limit is that he is one, whatever else is short."""
        made = decide(identity=None, **ROOM_40[limit])
        assert made.bound_by == Limit.ANONYMOUS
        assert made.resets_at is None

    def test_by_default_only_budget_and_pool_bind(self) -> None:
        """Of the built-in limits only budget and pool are on until the host says so."""
        assert list(decide().rooms) == [Limit.BUDGET, Limit.POOL]

    @pytest.mark.parametrize("zone", ["UTC-5:30", "UTC+5:30"])
    @pytest.mark.parametrize("paced", [True, False])
    def test_a_reset_is_on_the_hour_of_utc(
        self, zone: str, paced: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Wherever the host is, and however time is said, a limit resets as UTC's hour strikes."""
        at = datetime(2026, 1, 5, 23, 59, 59, 999_999, tzinfo=UTC)
        policy = FreeTierPolicy(daily_release_sats=24, daily_release_paced=paced)
        try:
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            for hour, reset in ((21, 22 if paced else 24), (23, 24)):
                said = at.replace(hour=hour).astimezone(timezone(timedelta(hours=5, minutes=45)))
                made = policy.decide(Request("job", "ab", "elite", 99), Snapshot(said, 10_000))
                assert made.resets_at == MIDNIGHT + timedelta(hours=reset - 24)
                assert made.rooms[Limit.DAILY_RELEASE] == (hour + 1 if paced else 24)
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_a_limit_of_0_never_resets(self) -> None:
        """Midnight does not help a tier whose budget or ceiling, or a pool whose release, is 0."""
        none: Any = {"trusted": 0}
        nothing = [{"budgets": none}, {"tier_ceilings": none}, {"daily_release_sats": 0}]
        assert [decide(**settings).resets_at for settings in nothing] == [None] * 3

    @pytest.mark.parametrize(
        ("hour", "room"), [(0, 10), (1, 20), (11, 120), (12, 130), (22, 230), (23, 240)]
    )
    def test_a_paced_release_grows_by_the_hour(self, hour: int, room: int) -> None:
        """Of a paced release of 240 sats each hour frees 10 more, and says so."""
        policy = FreeTierPolicy(daily_release_sats=240, daily_release_paced=True)
        at = NOON.replace(hour=hour)
        made = policy.decide(Request("job", "ab", "elite", 1000), Snapshot(at, 10_000))
        assert made.rooms[Limit.DAILY_RELEASE] == made.absorb_sats == room
        assert made.resets_at == at.replace(minute=0) + timedelta(hours=1)

    @pytest.mark.parametrize(
        ("release", "hour", "room", "more_at"),
        [(12, 0, 0, 1), (12, 1, 1, 3), (12, 22, 11, 23), (12, 23, 12, 24), (1, 3, 0, 23)],
    )
    def test_a_paced_release_waits_for_a_whole_sat(
        self, release: int, hour: int, room: int, more_at: int
    ) -> None:
        """Where an hour frees less than a sat, the decision names the hour that has one more."""
        policy = FreeTierPolicy(daily_release_sats=release, daily_release_paced=True)
        at = NOON.replace(hour=hour)
        made = policy.decide(Request("job", "ab", "elite", 1000), Snapshot(at, 10_000))
        assert made.rooms[Limit.DAILY_RELEASE] == room
        assert made.resets_at == at.replace(hour=0, minute=0) + timedelta(hours=more_at)

    def test_the_database_checks_the_same(self) -> None:
        """The caps that the database re-checks are the policy's own, as of that moment."""
        policy = FreeTierPolicy(
            budgets={"new": 1, "trusted": 2},
            tier_ceilings={"trusted": 3},
            daily_release_sats=240,
            daily_release_paced=True,
            floor_sats=5,
            pool_share_bp=6,
        )
        trusted, new = (Request("job", "ab", tier, 9) for tier in ("trusted", "new"))
        assert policy.caps(trusted, NOON) == Caps(2, 3, 130, 5, 6)
        assert policy.caps(new, MIDNIGHT) == Caps(1, None, 10, 5, 6)

    def test_the_floor_is_kept_from_what_is_available(self) -> None:
        """What is reserved counts as gone: 1,000 less 500 reserved less a floor of 470 is 30."""
        policy = FreeTierPolicy(floor_sats=470)
        made = policy.decide(Request("job", "ab", "trusted", 100), Snapshot(NOON, 1000, 500))
        assert made.rooms[Limit.POOL] == made.absorb_sats == 30

    def test_what_was_used_is_gone(self) -> None:
        """Each daily limit counts its own: the identity's use, the tier's, everybody's."""
        policy = FreeTierPolicy(tier_ceilings={"trusted": 200}, daily_release_sats=200)
        made = policy.decide(Request("job", "ab", "trusted", 9), Snapshot(NOON, 1000, 0, 1, 2, 3))
        assert list(made.rooms.values()) == [199, 198, 197, 1000]

    def test_a_lowered_budget_leaves_no_debt(self) -> None:
        """The allowance is budget - used, and 0 once a lowered budget is overdrawn."""
        policy = FreeTierPolicy(budgets={"trusted": 50})
        used_80 = Snapshot(NOON, 1000, identity_used_sats=80)
        made = policy.decide(Request("job", "ab", "trusted", 10), used_80)
        assert made.rooms[Limit.BUDGET] == made.absorb_sats == 0

    def test_what_is_used_up_leaves_nothing(self) -> None:
        """A ceiling that was lowered below what was used, and all of an empty pool, are room 0."""
        policy = FreeTierPolicy(tier_ceilings={"trusted": 5}, pool_share_bp=10_000)
        empty = Snapshot(NOON, 0, tier_used_sats=9)
        rooms = policy.decide(Request("job", "ab", "trusted", 10), empty).rooms
        assert (rooms[Limit.TIER_CEILING], rooms[Limit.POOL_SHARE]) == (0, 0)

    def test_a_last_sat_is_given(self) -> None:
        """One sat of a budget, of a ceiling or of the pool is room for one sat."""
        one: Any = {"trusted": 1}
        for settings, reset in [({"budgets": one}, MIDNIGHT), ({"tier_ceilings": one}, MIDNIGHT)]:
            made = decide(**settings)
            assert (made.absorb_sats, made.resets_at) == (1, reset)
        made = FreeTierPolicy().decide(Request("job", "ab", "trusted", 9), Snapshot(NOON, 1))
        assert (made.absorb_sats, made.bound_by) == (1, Limit.POOL)

    @pytest.mark.parametrize(("least", "absorbed"), [(1, 40), (60, 40), (61, 39), (100, 0)])
    def test_a_partial_charges_its_least(self, least: int, absorbed: int) -> None:
        """The pool absorbs less, so that a partial charges `min_charge_sats`."""
        assert decide(per_request_sats=40, min_charge_sats=least).absorb_sats == absorbed

    @pytest.mark.parametrize(("least", "absorbed"), [(1, 40), (40, 40), (41, 0)])
    def test_a_partial_absorbs_its_least(self, least: int, absorbed: int) -> None:
        """What would absorb less than `min_absorb_sats` is a gate."""
        assert decide(per_request_sats=40, min_absorb_sats=least).absorb_sats == absorbed


class TestHostLimits:
    """A host's own limit counts as the built-in ones do."""

    def test_a_host_limit_without_a_say_is_left_out(self) -> None:
        """A host limit that gives None has no room in the decision."""
        assert "mine" not in decide(limits=(HostLimit("mine", lambda *_: None),)).rooms

    @pytest.mark.parametrize("room", [-1, MAX_SATS + 1, 1.0, True, "1"])
    def test_a_host_limit_gives_sats(self, room: Any) -> None:
        """A room that is no number of sats is an error that names the limit."""
        with pytest.raises(InvalidInput, match="mine"):
            decide(limits=(HostLimit("mine", lambda *_: room),))

    @pytest.mark.parametrize("name", [*(limit.value for limit in Limit), "", "a\nb"])
    def test_a_host_limit_has_a_name_of_its_own(self, name: str) -> None:
        """No host limit is called as a built-in one is, nor by what is no id."""
        with pytest.raises(InvalidInput) as caught:
            HostLimit(name, lambda *_: 1)
        assert (caught.value.argument, caught.value.value) == ("name", name)
        assert (caught.value.expected == "a name that no built-in limit has") is (
            name in list(Limit)
        )

    def test_two_host_limits_have_two_names(self) -> None:
        """Two host limits of one name would hide each other."""
        twins: Any = [HostLimit("x", lambda *_: 1), HostLimit("x", lambda *_: 2)]
        with pytest.raises(InvalidInput) as caught:
            FreeTierPolicy(limits=twins)
        assert caught.value.argument == "limits"


class TestSettings:
    """A policy that cannot be is never made."""

    def test_it_travels(self) -> None:
        """A policy pickles and copies, to reach worker processes, and is equal there."""
        policy = FreeTierPolicy(budgets={"a": 5}, tier_ceilings={"a": 9}, pool_share_bp=7)
        assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy

    def test_an_unknown_tier_is_an_error(self) -> None:
        """A tier without a budget is an error, also for a stranger and for a price of 0."""
        with pytest.raises(InvalidInput) as caught:
            FreeTierPolicy().decide(Request("job", None, "gold", 0), Snapshot(NOON, 1000))
        assert (caught.value.argument, caught.value.value) == ("tier", "gold")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((name, bad) for name in SATS for bad in (-1, MAX_SATS + 1, True, 1.0, "1")),
            *((name, None) for name in ("seed_sats", "min_charge_sats", "credit_share_bp")),
            *((name, 0) for name in ("min_charge_sats", "min_absorb_sats", "grant_ttl_s")),
            *((name, bad) for name in SHARES for bad in (-1, 10_001, 0.5, True)),
            *(("budgets", bad) for bad in (None, 5, {"a": -1}, {"a": 1.0}, {"": 1}, {1: 1})),
            *(("tier_ceilings", bad) for bad in (None, {"new": -1}, {"gold": 1})),
            ("daily_release_paced", 1),
            ("grant_ttl_s", 366 * 86_400 + 1),
            *(("limits", bad) for bad in (None, 5, ["x"])),
        ],
    )
    def test_a_bad_setting_is_named(self, name: str, value: Any) -> None:
        """A setting out of bounds, or of the wrong type, is refused and named."""
        with pytest.raises(InvalidInput) as caught:
            FreeTierPolicy(**{name: value})
        assert caught.value.argument.partition("[")[0] == name

    @pytest.mark.parametrize(
        ("settings", "argument", "value", "expected"),
        [
            ({"limits": 5}, "limits", 5, "a tuple of HostLimit"),
            ({"limits": ["x"]}, "limits", "x", "a HostLimit"),
            (
                {"limits": [HostLimit("x", lambda *_: 1)] * 2},
                "limits",
                ["x", "x"],
                "a name of its own for each limit",
            ),
            ({"budgets": 5}, "budgets", 5, "a mapping from tier to sats"),
            ({"tier_ceilings": 5}, "tier_ceilings", 5, "a mapping from tier to sats"),
            (
                {"budgets": {"a": -1}},
                "budgets['a']",
                -1,
                f"a whole number of sats from 0 to {MAX_SATS}",
            ),
            (
                {"budgets": {"a": 1, "b": 2}, "tier_ceilings": {"c": 1}},
                "tier_ceilings",
                "c",
                "one of the tiers a, b",
            ),
            ({"daily_release_paced": 1}, "daily_release_paced", 1, "True or False"),
            ({"grant_ttl_s": 0}, "grant_ttl_s", 0, f"seconds from 1 to {MAX_TTL_S}"),
            (
                {"pool_share_bp": -1},
                "pool_share_bp",
                -1,
                "a whole number of basis points from 0 to 10000",
            ),
        ],
    )
    def test_a_bad_setting_is_explained(
        self, settings: dict[str, Any], argument: str, value: object, expected: str
    ) -> None:
        """The error says which setting it is, what it was set to, and what it has to be."""
        with pytest.raises(InvalidInput) as caught:
            FreeTierPolicy(**settings)
        error = caught.value
        assert (error.argument, error.value, error.expected) == (argument, value, expected)

    @pytest.mark.parametrize("name", [*SATS, *SHARES])
    def test_a_setting_may_be_the_most(self, name: str) -> None:
        """All the bitcoin there is, and the whole of a share, are settings like others."""
        most = 10_000 if name in SHARES else MAX_SATS
        assert getattr(FreeTierPolicy(**{name: most}), name) == most  # type: ignore[arg-type]

    def test_a_ttl_may_be_the_longest(self) -> None:
        """A grant may be held from a second to 366 days."""
        assert [FreeTierPolicy(grant_ttl_s=s).grant_ttl_s for s in (1, MAX_TTL_S)] == [1, MAX_TTL_S]

    def test_a_policy_keeps_what_it_was_given(self) -> None:
        """A mapping that the host changes afterwards changes no policy."""
        policy = FreeTierPolicy(budgets=(budgets := {"new": 5}))
        budgets["new"] = 50
        assert policy.budgets == {"new": 5}

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            (lambda: HostLimit("mine", WRONG), "room: expected a callable, got 'no'"),
            (
                lambda: HostLimit("mine", lambda *_: 1, resets_daily=WRONG),
                "resets_daily: expected True or False, got 'no'",
            ),
            (lambda: FreeTierPolicy(limits=(WRONG,)), "limits: expected a HostLimit, got 'no'"),
            (
                lambda: FreeTierPolicy().decide(WRONG, Snapshot(NOON, 100)),
                "request: expected a Request, got 'no'",
            ),
            (
                lambda: FreeTierPolicy().decide(Request("job", "ab", "new", 9), WRONG),
                "snapshot: expected a Snapshot, got 'no'",
            ),
        ],
    )
    def test_what_is_expected_is_said(self, ask: Callable[[], object], message: str) -> None:
        """A value of no such type is refused by what was expected, and what came."""
        with pytest.raises(InvalidInput) as caught:
            ask()
        assert str(caught.value) == message

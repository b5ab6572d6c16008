"""Time: grants that expire, settle late, or cross midnight; a clock that does not behave."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

import freetier
from freetier import Conflict, FreeTier, FreeTierPolicy, GrantState, Kind, Limit, Request
from freetier.testing import Clock

JOB = Request("job", "ab", "trusted", 120)
POLICY = FreeTierPolicy(budgets={"trusted": 200}, seed_sats=100, floor_sats=10)


@pytest.fixture
def small(tmp_path: Path, clock: Clock) -> Iterator[FreeTier]:
    """A pool of 100 sats with a floor of 10."""
    with freetier.open(tmp_path / "small.db", policy=POLICY, clock=clock) as opened:
        yield opened


def allowance(ledger: FreeTier, identity: str = "ab") -> int:
    """What the identity may still draw today."""
    return ledger.decide(Request("probe", identity, "trusted", 1)).rooms[Limit.BUDGET]


def pool(ledger: FreeTier) -> tuple[int, int]:
    """Balance and reserved, once the books are proved."""
    assert ledger.verify().ok
    status = ledger.pool_status()
    return status.balance_sats, status.reserved_sats


def kinds(ledger: FreeTier) -> list[Kind]:
    return [entry.kind for entry in ledger.journal(after=1)]


class TestExpiry:
    """Rule 8: expiry needs no timer."""

    def test_expiry_gives_back_to_the_pool_alone(self, ledger: FreeTier, clock: Clock) -> None:
        """The pool gets back what was held; the allowance stays spent. Nobody had to sweep."""
        ledger.reserve(JOB)
        clock.advance(minutes=15)
        assert pool(ledger) == (10_000, 0)
        assert allowance(ledger) == 80
        assert ledger.grant("job").state is GrantState.EXPIRED
        assert list(ledger.open_grants()) == []
        assert kinds(ledger) == [Kind.RESERVE]

    def test_a_sweep_changes_nothing_but_the_journal(self, ledger: FreeTier, clock: Clock) -> None:
        """A sweep writes what is so already; a second one has nothing to do."""
        ledger.reserve(JOB)
        assert ledger.sweep() == 0
        clock.advance(minutes=15)
        before = ledger.pool_status()
        assert ledger.sweep() == 1
        assert ledger.sweep() == 0
        after = ledger.pool_status()
        assert (after.available_sats, after.open_grants) == (before.available_sats, 0)
        assert allowance(ledger) == 80
        assert kinds(ledger) == [Kind.RESERVE, Kind.EXPIRE]

    @pytest.mark.parametrize("swept", [False, True])
    def test_what_expired_is_not_released(
        self, ledger: FreeTier, clock: Clock, swept: bool
    ) -> None:
        """A release after expiry is a Conflict: holding without paying is not free."""
        ledger.reserve(JOB)
        clock.advance(minutes=15)
        if swept:
            ledger.sweep()
        with pytest.raises(Conflict):
            ledger.release("job")
        assert allowance(ledger) == 80

    @pytest.mark.parametrize("swept", [False, True])
    def test_a_replay_after_expiry_is_the_expired_grant(
        self, ledger: FreeTier, clock: Clock, swept: bool
    ) -> None:
        """The same request again, after expiry, gets its grant, expired; nothing is held anew."""
        first = ledger.reserve(JOB)
        clock.advance(minutes=15)
        if swept:
            ledger.sweep()
        again = ledger.reserve(JOB)
        assert (again.state, again.decision) == (GrantState.EXPIRED, first.decision)
        assert pool(ledger) == (10_000, 0)

    def test_a_sweep_takes_64_the_oldest_first(self, ledger: FreeTier, clock: Clock) -> None:
        """A call expires at most 64 grants, in the order in which they fell due."""
        for number in range(70):
            held = timedelta(seconds=100 - number)
            ledger.reserve(Request(f"job-{number}", f"id-{number}", "trusted", 1), ttl=held)
        clock.advance(seconds=100)
        assert [ledger.sweep(), ledger.sweep(), ledger.sweep()] == [64, 6, 0]
        expired = [entry.key for entry in ledger.journal() if entry.kind is Kind.EXPIRE]
        assert expired == [f"job-{number}" for number in reversed(range(70))]
        assert pool(ledger) == (10_000, 0)

    def test_a_reserve_gets_the_sats_of_all_that_is_due(
        self, small: FreeTier, clock: Clock
    ) -> None:
        """A reserve that needs the sats of more than 64 due grants gets them, in one call."""
        for number in range(90):
            small.reserve(Request(f"job-{number}", f"id-{number}", "trusted", 1))
        assert small.reserve(Request("early", "cd", "trusted", 90)).absorb_sats == 0
        clock.advance(minutes=15)
        assert small.reserve(Request("late", "cd", "trusted", 90)).absorb_sats == 90
        assert pool(small) == (100, 90)

    def test_an_adjustment_gets_them_too(self, small: FreeTier, clock: Clock) -> None:
        """What is due does not stand in an operator's way."""
        small.reserve(Request("job", "ab", "trusted", 90))
        clock.advance(minutes=15)
        small.adjust("fix", -100, note="moved to another pool")
        assert pool(small) == (0, 0)


class TestLate:
    """Rule 7: a grant settled after it expired draws again, as far as the pool allows."""

    @pytest.mark.parametrize("swept", [False, True])
    def test_late_and_covered(self, ledger: FreeTier, clock: Clock, swept: bool) -> None:
        """A late settlement draws its cost from the pool; the allowance gets back the rest."""
        ledger.reserve(JOB)
        clock.advance(minutes=15)
        if swept:
            ledger.sweep()
        settled = ledger.settle("job", 50)
        assert settled.late
        assert (settled.absorbed_sats, settled.uncovered_sats, settled.returned_sats) == (50, 0, 70)
        assert pool(ledger) == (9_950, 0)
        assert allowance(ledger) == 150
        assert ledger.grant("job").settlement == settled
        assert ledger.grant("job").state is GrantState.EXPIRED
        assert kinds(ledger) == [Kind.RESERVE, Kind.EXPIRE, Kind.LATE]

    @pytest.mark.parametrize(("taken", "covered"), [(0, 60), (40, 50), (90, 0)])
    def test_late_and_uncovered(
        self, small: FreeTier, clock: Clock, taken: int, covered: int
    ) -> None:
        """What the pool, down to its floor, no longer pays is uncovered, and written down."""
        small.reserve(Request("job", "ab", "trusted", 60))
        clock.advance(minutes=15)
        if taken:
            assert small.reserve(Request("next", "cd", "trusted", taken)).absorb_sats == taken
        settled = small.settle("job")
        assert (settled.absorbed_sats, settled.uncovered_sats) == (covered, 60 - covered)
        assert settled.actual_sats == 60
        assert pool(small) == (100 - covered, taken)
        assert small.settle("job") == small.settle("job", 60) == settled

    def test_late_once(self, ledger: FreeTier, clock: Clock) -> None:
        """A second late settlement with other figures is a Conflict."""
        ledger.reserve(JOB)
        clock.advance(minutes=15)
        ledger.settle("job", 50)
        for actual in (49, 120, None):
            with pytest.raises(Conflict):
                ledger.settle("job", actual)
        with pytest.raises(Conflict):
            ledger.release("job")

    def test_more_than_64_that_are_due(self, small: FreeTier, clock: Clock) -> None:
        """A late settlement gets the sats of more than 64 other due grants."""
        small.reserve(Request("job", "ab", "trusted", 70))
        clock.advance(hours=1)
        assert small.sweep() == 1
        for number in range(90):
            small.reserve(Request(f"job-{number}", "cd", "trusted", 1))
        clock.advance(hours=1)
        assert small.settle("job").uncovered_sats == 0
        assert pool(small) == (30, 0)


class TestTheDay:
    """Rule 10: the day and the clock are the repository's."""

    def test_settling_after_midnight(self, ledger: FreeTier, clock: Clock) -> None:
        """A settlement gives back to its grant's day; the new day's allowance is whole."""
        clock.now = datetime(2026, 1, 5, 23, 59, tzinfo=UTC)
        ledger.reserve(JOB)
        clock.advance(minutes=2)
        ledger.settle("job", 50)
        assert [entry.day for entry in ledger.journal(after=1)] == [date(2026, 1, 5)] * 2
        assert allowance(ledger) == 200
        clock.advance(minutes=-2)
        assert ledger.pool_status().absorbed_today_sats == 0

    def test_midnight_gives_a_new_allowance(self, ledger: FreeTier, clock: Clock) -> None:
        """The allowance is whole again at midnight UTC, as `resets_at` said, and not before."""
        gate = [ledger.reserve(Request(f"job-{n}", "ab", "trusted", 200)) for n in range(2)][1]
        assert gate.decision.resets_at == datetime(2026, 1, 6, tzinfo=UTC)
        clock.now = gate.decision.resets_at - timedelta(microseconds=1)
        assert allowance(ledger) == 0
        clock.now = gate.decision.resets_at
        assert allowance(ledger) == 200

    def test_the_hosts_time_zone_is_not_asked(self, ledger: FreeTier, clock: Clock) -> None:
        """A clock in another zone has the same UTC day."""
        clock.now = datetime(2026, 1, 6, 8, 59, tzinfo=timezone(timedelta(hours=9)))
        ledger.reserve(JOB)
        assert next(ledger.journal(after=1)).day == date(2026, 1, 5)

    @pytest.mark.parametrize("back", [timedelta(minutes=1), timedelta(days=2)])
    def test_a_clock_that_runs_back(self, ledger: FreeTier, clock: Clock, back: timedelta) -> None:
        """Time in the journal stands still until the clock catches up; no second allowance."""
        ledger.reserve(JOB)
        started = clock.now
        clock.now -= back
        assert ledger.reserve(Request("two", "ab", "trusted", 100)).absorb_sats == 80
        ledger.settle("job")
        ledger.donate("gift", 5)
        assert [entry.at for entry in ledger.journal()] == [started] * 5
        assert pool(ledger) == (9_885, 80)

    def test_a_clock_that_jumps_ahead_and_back(self, ledger: FreeTier, clock: Clock) -> None:
        """What expired during a jump ahead stays expired when the clock comes back."""
        ledger.reserve(JOB)
        clock.advance(days=1)
        ledger.sweep()
        clock.advance(days=-1)
        assert ledger.grant("job").state is GrantState.EXPIRED
        assert ledger.settle("job", 0).late
        assert ledger.verify().ok


def test_a_lowered_budget_leaves_no_debt(tmp_path: Path, clock: Clock) -> None:
    """Lowered during the day, a budget allows max(0, budget - used); old entries keep their cap."""
    path = tmp_path / "ledger.db"
    for budget, absorbed in ((200, 120), (100, 0), (150, 30)):
        policy = FreeTierPolicy(budgets={"trusted": budget})
        with freetier.open(path, policy=policy, clock=clock) as ledger:
            grant = ledger.reserve(Request(f"job-{budget}", "ab", "trusted", 120))
            assert grant.absorb_sats == absorbed
            assert ledger.verify().ok
            assert next(ledger.journal(after=1)).budget_sats == 200


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_thousands_who_never_pay(
    store: str, clock: Clock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """However many new identities hold and never settle, a day's ceiling is all that they hold."""
    sqlite = store == "sqlite"
    url = str(tmp_path / "ledger.db") if sqlite else request.getfixturevalue("postgres_dsn")
    policy = FreeTierPolicy(budgets={"trusted": 7}, tier_ceilings={"trusted": 100})
    with freetier.open(url, policy, clock=clock) as ledger:
        for day in range(4):
            held = []
            for number in range(500):
                one = Request(f"job-{day}-{number}", f"id-{day}-{number}", "trusted", 7)
                held.append(ledger.reserve(one).absorb_sats)
                assert ledger.pool_status().reserved_sats <= 100
                clock.advance(minutes=1)  # of the 15 minutes that a grant holds
            assert sum(held) == 100
            clock.advance(days=1, seconds=-30_000)
        assert pool(ledger) == (10_000, 0)

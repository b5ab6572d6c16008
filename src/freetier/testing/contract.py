"""The port's promises as tests: what a store must do to be a ledger.

A store's own test file is three lines: subclass `RepositoryContract`, and give a `repository`
fixture that opens an empty one. Each test is one promise of `freetier.repository`, by number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from types import MappingProxyType

import pytest
from attrs import evolve

from freetier.entries import Grant, GrantState, Kind
from freetier.errors import IntegrityError
from freetier.policy import FreeTierPolicy
from freetier.repository import Deposit, Draw, Ending, Repository
from freetier.service import FreeTier
from freetier.testing.clock import Clock
from freetier.values import Caps, Decision, Request, Serve, Snapshot

POLICY = FreeTierPolicy(
    budgets={"new": 0, "trusted": 50, "elite": 1000},
    credit_share_bp=1000,
    seed_sats=120,
    floor_sats=20,
)
WIDE = Caps(
    budget_sats=10**6,
    tier_ceiling_sats=None,
    release_sats=None,
    floor_sats=0,
    pool_share_bp=None,
)


class RepositoryContract:
    """Every promise of the port; the docstring of each test begins with the promise's number."""

    def __init_subclass__(cls) -> None:
        """Refuse a subclass that overrides a promise without a `reason` on the function."""
        for name, promise in vars(RepositoryContract).items():
            kept = getattr(cls, name)
            overrides = name.startswith("test_") and kept is not promise
            if overrides and not getattr(kept, "reason", None):
                raise TypeError(f"{cls.__name__}.{name} overrides a promise without a reason")

    @pytest.fixture
    def repository(self) -> Iterator[Repository]:
        """An empty store, migrated and not seeded; closed afterwards."""
        raise NotImplementedError("give a fixture `repository` that opens an empty store")

    def test_gapless(self, repository: Repository) -> None:
        """1. The journal is append-only, and `seq` runs 1 … n without a gap."""
        ledger, _ = self._seeded(repository)
        _busy_day(ledger)
        entries = repository.entries()
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        ledger.donate("more", 1)
        assert repository.entries()[: len(entries)] == entries
        assert repository.entries(after=3, limit=2) == entries[3:5]

    def test_running_totals(self, repository: Repository) -> None:
        """2. An entry has the totals after it, which follow on; a write gives what it wrote."""
        ledger, clock = self._seeded(repository)
        _busy_day(ledger)
        balance = reserved = 0
        for entry in repository.entries():
            balance += entry.balance_change
            reserved += entry.reserved_change
            assert (entry.balance_sats, entry.reserved_sats) == (balance, reserved)
        assert _pool(repository, clock) == (balance, reserved)
        assert ledger.verify().ok
        written = repository.deposit(_credit("other", 15), clock.now)
        assert written is not None
        assert [written] == repository.entries(after=written.seq - 1)
        clock.advance(seconds=1)
        assert repository.draw(_draw("free", 7, clock.now)) == clock.now
        clock.advance(seconds=1)
        assert repository.end(Ending(Kind.RELEASE, "free", clock.now)) == clock.now

    def test_drawn_once(self, repository: Repository) -> None:
        """3. A request is drawn for once, under one id, for ever; a second draw is refused."""
        _, clock = self._seeded(repository)
        assert repository.draw(_draw("job", 10, clock.now)) is not None
        assert repository.draw(_draw("job", 10, clock.now)) is None
        assert repository.draw(_draw("job", 10, clock.now, kind=Kind.GRANT)) is None
        assert repository.end(Ending(Kind.RELEASE, "job", clock.now)) is not None
        assert repository.draw(_draw("job", 10, clock.now)) is None
        assert repository.draw(_draw("paid", 10, clock.now, kind=Kind.GRANT)) is not None
        assert repository.draw(_draw("paid", 10, clock.now)) is None

    def test_floor(self, repository: Repository) -> None:
        """4. A draw that the pool cannot pay above its floor is refused."""
        _, clock = self._seeded(repository)
        assert repository.draw(_draw("over", 101, clock.now, caps={"floor_sats": 20})) is None
        assert repository.draw(_draw("all", 100, clock.now, caps={"floor_sats": 20})) is not None
        assert repository.draw(_draw("more", 1, clock.now, caps={"floor_sats": 20})) is None
        assert (
            repository.draw(_draw("paid", 1, clock.now, kind=Kind.GRANT, caps={"floor_sats": 20}))
            is None
        )

    @pytest.mark.parametrize("cap", ["budget_sats", "tier_ceiling_sats", "release_sats"])
    def test_caps(self, repository: Repository, cap: str) -> None:
        """5. A draw over the budget, the tier's ceiling or the day's release is refused."""
        _, clock = self._seeded(repository)
        for number, (sats, accepted) in enumerate(
            [(31, False), (20, True), (11, False), (10, True)]
        ):
            for kind in (Kind.GRANT, Kind.RESERVE):
                if kind is Kind.GRANT and accepted:
                    continue
                draw = _draw(f"{number}-{kind}", sats, clock.now, kind=kind, caps={cap: 30})
                assert (repository.draw(draw) is not None) == accepted, (sats, kind)
        clock.advance(days=1)
        assert repository.draw(_draw("tomorrow", 30, clock.now, caps={cap: 30})) is not None

    def test_share(self, repository: Repository) -> None:
        """6. A draw over its share of what is available is refused."""
        _, clock = self._seeded(repository)
        assert repository.draw(_draw("a", 61, clock.now, caps={"pool_share_bp": 5000})) is None
        assert repository.draw(_draw("b", 60, clock.now, caps={"pool_share_bp": 5000})) is not None
        assert repository.draw(_draw("c", 31, clock.now, caps={"pool_share_bp": 5000})) is None
        assert repository.draw(_draw("d", 30, clock.now, caps={"pool_share_bp": 5000})) is not None

    @pytest.mark.parametrize("first", ["settle", "release"])
    def test_one_ending(self, repository: Repository, first: str) -> None:
        """7. A grant has one ending; a second one is refused."""
        ledger, clock = self._seeded(repository)
        grant = ledger.reserve(Request("job", "ada", "elite", 30))
        settlement = grant.decision.settle(10)
        endings = {
            "settle": Ending(Kind.SETTLE, "job", clock.now, settlement),
            "release": Ending(Kind.RELEASE, "job", clock.now),
        }
        assert repository.end(endings[first]) is not None
        for ending in endings.values():
            assert repository.end(ending) is None
        clock.advance(hours=1)
        assert repository.end(Ending(Kind.EXPIRE, "job", clock.now)) is None
        assert repository.sweep(clock.now) == 0
        assert repository.end(Ending(Kind.SETTLE, "no such job", clock.now, settlement)) is None

    def test_expiry_ends(self, repository: Repository) -> None:
        """8. A grant past its expiry can only expire, and then settle late, once."""
        ledger, clock = self._seeded(repository)
        grant = ledger.reserve(Request("job", "ada", "elite", 30), ttl=timedelta(minutes=1))
        settlement = grant.decision.settle()
        assert repository.end(Ending(Kind.EXPIRE, "job", clock.now)) is None
        assert repository.end(Ending(Kind.LATE, "job", clock.now, settlement)) is None
        clock.advance(minutes=1)
        assert repository.end(Ending(Kind.SETTLE, "job", clock.now, settlement)) is None
        assert repository.end(Ending(Kind.RELEASE, "job", clock.now)) is None
        assert repository.end(Ending(Kind.LATE, "job", clock.now, settlement)) is None
        assert repository.end(Ending(Kind.EXPIRE, "job", clock.now)) is not None
        assert repository.end(Ending(Kind.LATE, "job", clock.now, settlement)) is not None
        assert repository.end(Ending(Kind.LATE, "job", clock.now, settlement)) is None

    def test_what_comes_back(self, repository: Repository) -> None:
        """9. Settling gives back what was not needed, releasing all, expiring to the pool alone."""
        ledger, clock = self._seeded(repository)
        for job in ("settled", "released", "expired"):
            ledger.reserve(Request(job, job, "elite", 30))
        assert _pool(repository, clock) == (120, 90)
        ledger.settle("settled", 10)
        ledger.release("released")
        assert _pool(repository, clock) == (110, 30)
        clock.advance(minutes=15)
        assert repository.sweep(clock.now) == 1
        assert _pool(repository, clock) == (110, 0)
        used = {job: _used(repository, clock, job) for job in ("settled", "released", "expired")}
        assert used == {"settled": 10, "released": 0, "expired": 30}

    def test_late_within_pool(self, repository: Repository) -> None:
        """10. A late settlement draws at most what the pool has above its floor."""
        ledger, clock = self._seeded(repository)
        grant = ledger.reserve(Request("job", "ada", "elite", 80))
        clock.advance(hours=1)
        assert repository.sweep(clock.now) == 1
        ledger.record_grant(Request("other", "bob", "elite", 60))
        whole = grant.decision.settle()
        assert repository.end(Ending(Kind.LATE, "job", clock.now, whole, floor_sats=20)) is None
        part = evolve(whole, absorbed_sats=40, uncovered_sats=40, late=True)
        assert repository.end(Ending(Kind.LATE, "job", clock.now, part, floor_sats=20)) is not None
        entry = repository.find(Kind.LATE, "job")
        assert entry is not None
        assert (entry.balance_sats, entry.uncovered_sats, entry.used_change) == (20, 40, -40)

    def test_expired_on_sight(self, repository: Repository) -> None:
        """11. A grant past its expiry shows as expired and is not reserved, swept or not."""
        ledger, clock = self._seeded(repository)
        ledger.reserve(Request("job", "ada", "elite", 30), ttl=timedelta(minutes=1))
        clock.advance(seconds=59)
        assert [grant.request_id for grant in repository.open_grants(clock.now)] == ["job"]
        clock.advance(seconds=1)
        for due in (1, 0):
            view = repository.look("job", clock.now)
            assert view.grant is not None
            assert view.grant.state is GrantState.EXPIRED
            assert (view.snapshot.reserved_sats, view.due) == (0, due)
            status = repository.status(clock.now)
            assert (status.reserved_sats, status.open_grants) == (0, 0)
            assert repository.open_grants(clock.now) == []
            repository.sweep(clock.now)

    def test_sweep(self, repository: Repository) -> None:
        """12. `sweep` expires what is due, the oldest first, at most as many as it was told."""
        ledger, clock = self._seeded(repository)
        for minute in (3, 1, 2, 9):
            request = Request(f"job-{minute}", "ada", "elite", 10)
            ledger.reserve(request, ttl=timedelta(minutes=minute))
        clock.advance(minutes=5)
        assert repository.sweep(clock.now, limit=2) == 2
        assert [entry.key for entry in repository.entries()[-2:]] == ["job-1", "job-2"]
        assert repository.sweep(clock.now) == 1
        assert repository.sweep(clock.now) == 0
        assert [grant.request_id for grant in repository.open_grants(clock.now)] == ["job-9"]

    def test_credits(self, repository: Repository) -> None:
        """13. A payment is credited once; credits are exact over time, the rest carried."""
        _, clock = self._seeded(repository)
        for number, credited in enumerate([0, 1, 1, 1, 1, 1, 1, 1, 1, 1]):
            entry = repository.deposit(_credit(f"invoice-{number}", 9), clock.now)
            assert entry is not None
            assert entry.balance_change == credited
        assert repository.deposit(_credit("invoice-3", 9), clock.now) is None
        assert repository.find(Kind.CREDIT, "invoice-3") is not None
        assert repository.status(clock.now).totals[Kind.CREDIT] == 9
        huge = repository.deposit(_credit("huge", 2_000_000_000_000_007), clock.now)
        assert huge is not None
        assert (huge.balance_change, huge.credit_carry) == (200_000_000_000_000, 7000)

    def test_deposits_once(self, repository: Repository) -> None:
        """14. There is one seed; a donation's and an adjustment's key is used once."""
        _, clock = self._seeded(repository)
        assert repository.deposit(Deposit(Kind.SEED, "seed", 5), clock.now) is None
        for kind in (Kind.DONATION, Kind.ADJUSTMENT):
            assert repository.deposit(Deposit(kind, "key", 5), clock.now) is not None
            assert repository.deposit(Deposit(kind, "key", 5), clock.now) is None
            assert repository.deposit(Deposit(kind, "key", 6), clock.now) is None
        assert repository.status(clock.now).balance_sats == 130

    def test_never_overdrawn(self, repository: Repository) -> None:
        """15. The pool never goes below what is reserved, whoever adjusts it."""
        ledger, clock = self._seeded(repository)
        ledger.reserve(Request("job", "ada", "elite", 30))
        assert repository.deposit(Deposit(Kind.ADJUSTMENT, "a", -91), clock.now) is None
        assert repository.deposit(Deposit(Kind.ADJUSTMENT, "a", -90), clock.now) is not None
        assert _pool(repository, clock) == (30, 30)
        over = Deposit(Kind.DONATION, "b", 2_100_000_000_000_000)
        assert repository.deposit(over, clock.now) is None

    def test_gates(self, repository: Repository) -> None:
        """16. A gate is noted once; a request is either noted or drawn for, never both."""
        ledger, clock = self._seeded(repository)
        gated = ledger.reserve(Request("gated", "eve", "new", 30))
        assert gated.decision.serve is Serve.GATE
        assert repository.look("gated", clock.now).grant == gated
        request = Request("gated", "eve", "new", 30)
        assert not repository.note_gate(request, gated.decision, clock.now)
        assert repository.draw(_draw("gated", 10, clock.now)) is None
        assert repository.draw(_draw("drawn", 10, clock.now)) is not None
        assert not repository.note_gate(
            Request("drawn", "eve", "new", 30), gated.decision, clock.now
        )
        status = repository.status(clock.now)
        assert (status.gated_today, status.gated_today_sats) == (1, 30)

    def test_time(self, repository: Repository) -> None:
        """17. Time in the journal never runs back, and a draw's day is the UTC date of its time."""
        ledger, clock = self._seeded(repository)
        clock.now = datetime(2026, 1, 5, 23, 59, 59, tzinfo=UTC)
        ledger.donate("late in the day", 1)
        clock.advance(minutes=-10)
        last = datetime(2026, 1, 5, 23, 59, 59, tzinfo=UTC)
        assert repository.draw(_draw("job", 10, clock.now)) == last
        before_midnight = clock.now
        clock.advance(hours=1)
        ledger.donate("tomorrow", 1)
        assert repository.draw(_draw("stale", 10, before_midnight)) is None
        assert repository.look("x", before_midnight).snapshot.at == clock.now
        west = clock.now.astimezone(tz=None)
        assert repository.draw(_draw("west", 10, west)) == clock.now
        entry = repository.entries()[-1]
        assert (entry.at, entry.day) == (clock.now, clock.now.date())

    @pytest.mark.parametrize("days", [0, 1])
    def test_day_of_the_grant(self, repository: Repository, days: int) -> None:
        """18. An ending and a late settlement count for the day of their grant."""
        ledger, clock = self._seeded(repository)
        clock.now = datetime(2026, 1, 5, 23, 55, tzinfo=UTC)
        morning = clock.now
        for job in ("settled", "released", "late"):
            ledger.reserve(Request(job, job, "elite", 30))
        clock.advance(minutes=10)
        ledger.settle("settled", 10)
        ledger.release("released")
        clock.advance(days=days, minutes=10)
        ledger.settle("late", 5)
        assert all(e.day in (None, morning.date()) for e in repository.entries())
        for job in ("settled", "released", "late"):
            assert _used(repository, clock, job) == 0
        assert ledger.verify().ok

    def test_used(self, repository: Repository) -> None:
        """19. What a look shows as used is what the journal says for that day."""
        ledger, clock = self._seeded(repository)
        for name, tier, sats in (("ada", "trusted", 5), ("ada", "elite", 7), ("bob", "elite", 11)):
            ledger.record_grant(Request(f"{name}-{sats}", name, tier, sats))
        snapshot = repository.look("x", clock.now, identity="ada", tier="elite").snapshot
        used = (snapshot.identity_used_sats, snapshot.tier_used_sats, snapshot.pool_used_sats)
        assert used == (12, 18, 23)
        assert repository.look("x", clock.now).snapshot.identity_used_sats == 0
        clock.advance(days=1)
        snapshot = repository.look("x", clock.now, identity="ada", tier="elite").snapshot
        assert snapshot == Snapshot(clock.now, balance_sats=97)

    def test_races(self, repository: Repository) -> None:
        """20. Callers that race for the last sats never get more than there are."""
        ledger, clock = self._seeded(repository)
        grants = self._race(ledger, [_greedy(number) for number in range(8)])
        assert sum(grant.absorb_sats for grant in grants) == 100
        assert _pool(repository, clock) == (120, 100)
        assert ledger.verify().ok
        for identity in ("id-0", "id-1"):
            assert _used(repository, clock, identity) <= POLICY.budgets["trusted"]

    def test_figures_of_the_grant(self, repository: Repository) -> None:
        """21. An ending whose figures exceed its grant's is not written."""
        ledger, clock = self._seeded(repository)
        grant = ledger.reserve(Request("job", "ada", "trusted", 60))
        right = grant.decision.settle(55)
        before = repository.entries()
        for wrong in (
            evolve(right, absorbed_sats=51),
            evolve(right, absorbed_sats=-1),
            evolve(right, charged_sats=6),
            evolve(right, refund_sats=6),
            evolve(right, charged_sats=-1, refund_sats=11),
        ):
            with suppress(IntegrityError):  # a store may refuse it in silence, or loudly
                assert repository.end(Ending(Kind.SETTLE, "job", clock.now, wrong)) is None
        assert repository.entries() == before
        assert repository.end(Ending(Kind.SETTLE, "job", clock.now, right)) is not None

    def _seeded(self, repository: Repository) -> tuple[FreeTier, Clock]:
        """A ledger of 120 sats, floor 20, and its clock."""
        clock = Clock()
        ledger = self._ledger(repository, clock)
        ledger.seed()
        return ledger, clock

    def _ledger(self, repository: Repository, clock: Clock) -> FreeTier:
        return FreeTier(POLICY, repository, clock=clock)

    def _race(self, ledger: FreeTier, callers: Sequence[Sequence[Request]]) -> list[Grant]:
        """Let all callers at once reserve, each one thing after the other; what they were told."""
        start = threading.Barrier(len(callers))

        def call(requests: Sequence[Request]) -> list[Grant]:
            start.wait()
            return [ledger.reserve(request) for request in requests]

        with ThreadPoolExecutor(len(callers)) as threads:
            return list(chain.from_iterable(threads.map(call, callers)))


def _busy_day(ledger: FreeTier) -> None:
    """Some of each kind of entry that needs no waiting."""
    for number in range(4):
        ledger.reserve(Request(f"job-{number}", f"id-{number}", "trusted", 15))
    ledger.settle("job-0", 10)
    ledger.release("job-1")
    ledger.record_grant(Request("session", "id-9", "elite", 12))
    ledger.credit("invoice", 95)
    ledger.donate("gift", 40, sponsor="Ada")
    ledger.adjust("count", -3, note="counted again")


def _draw(
    key: str,
    sats: int,
    at: datetime,
    *,
    kind: Kind = Kind.RESERVE,
    caps: Mapping[str, int] = MappingProxyType({}),
) -> Draw:
    """A proposal of `sats` for free, under these caps and else wide ones."""
    return Draw(
        kind,
        Request(key, "ada", "elite", sats),
        Decision(Serve.FREE, sats, sats, 0, None, {"budget": 1000, "the host's own": 7}),
        evolve(WIDE, **caps),
        at,
        at + timedelta(minutes=15) if kind is Kind.RESERVE else None,
    )


def _credit(payment_hash: str, paid_sats: int) -> Deposit:
    return Deposit(Kind.CREDIT, payment_hash, paid_sats, credit_share_bp=1000)


def _pool(repository: Repository, clock: Clock) -> tuple[int, int]:
    status = repository.status(clock.now)
    return status.balance_sats, status.reserved_sats


def _used(repository: Repository, clock: Clock, identity: str) -> int:
    return repository.look("x", clock.now, identity=identity).snapshot.identity_used_sats


def _greedy(number: int) -> list[Request]:
    """Ten requests of 7 sats: the odd numbers' for two identities, the others' for one each."""
    return [
        Request(
            f"job-{number}-{turn}",
            f"id-{turn % 2}" if number % 2 else f"id-{number}-{turn}",
            "trusted",
            7,
        )
        for turn in range(10)
    ]

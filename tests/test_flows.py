"""The service's rules on a real ledger: what each call answers, and what the pool is afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from freetier import (
    Conflict,
    FreeTier,
    FreeTierPolicy,
    GrantState,
    Kind,
    Limit,
    Request,
    Serve,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.sqlite import SQLiteRepository
from freetier.testing import Clock

JOB = Request("job", "ab", "trusted", 120)
"""Free for a trusted identity, which has 200 a day."""
PARTIAL = Request("job", "ab", "trusted", 300)
"""200 from the pool, 100 from the caller."""
GATE = Request("job", "ab", "new", 120)


def used(ledger: FreeTier, identity: str = "ab") -> int:
    """What the identity, trusted with 200 a day, can no longer draw today."""
    return 200 - ledger.decide(Request("probe", identity, "trusted", 1_000)).rooms[Limit.BUDGET]


def pool(ledger: FreeTier) -> tuple[int, int]:
    """Balance and reserved, once the books are proved."""
    assert ledger.verify().ok
    status = ledger.pool_status()
    return status.balance_sats, status.reserved_sats


def kinds(ledger: FreeTier) -> list[Kind]:
    return [entry.kind for entry in ledger.journal(after=1)]


class TestReserve:
    """Rules 4 and 5: a grant holds what it promises, and the first answer stands."""

    def test_a_grant_holds_what_it_promises(self, ledger: FreeTier, clock: Clock) -> None:
        """A reserve holds absorb for 15 minutes, in the pool and against the allowance."""
        grant = ledger.reserve(PARTIAL)
        assert (grant.state, grant.decision.serve) == (GrantState.OPEN, Serve.PARTIAL)
        assert (grant.absorb_sats, grant.charge_sats) == (200, 100)
        assert grant.expires_at == clock.now + timedelta(minutes=15)
        assert pool(ledger) == (10_000, 200)
        assert used(ledger) == 200
        assert list(ledger.open_grants()) == [grant]

    def test_the_host_says_how_long(self, ledger: FreeTier, clock: Clock) -> None:
        """A reserve with a `ttl` is held that long, to the microsecond."""
        ledger.reserve(JOB, ttl=timedelta(seconds=1))
        clock.advance(seconds=1, microseconds=-1)
        assert ledger.grant("job").state is GrantState.OPEN
        clock.advance(microseconds=1)
        assert ledger.grant("job").state is GrantState.EXPIRED

    def test_the_same_request_again_draws_nothing(self, ledger: FreeTier, clock: Clock) -> None:
        """A replay gets the equal grant, whatever was drawn since, and writes no entry."""
        first = ledger.reserve(JOB)
        ledger.reserve(Request("other", "ab", "trusted", 80))
        clock.advance(minutes=1)
        assert ledger.reserve(JOB, ttl=timedelta(days=1)) == first == ledger.grant("job")
        assert ledger.decide(JOB) == first.decision
        assert kinds(ledger) == [Kind.RESERVE] * 2

    @pytest.mark.parametrize(
        "changed", [{"identity": "cd"}, {"identity": None}, {"tier": "elite"}, {"price_sats": 119}]
    )
    @pytest.mark.parametrize("first", [JOB, GATE], ids=["reserved", "gated"])
    def test_the_same_id_for_something_else_is_a_conflict(
        self, ledger: FreeTier, first: Request, changed: dict[str, Any]
    ) -> None:
        """An id that was used for another identity, tier or price is a Conflict; nothing moves."""
        given = ledger.reserve(first)
        before = pool(ledger)
        for ask in (ledger.reserve, ledger.decide, ledger.record_grant):
            with pytest.raises(Conflict):
                ask(attrs.evolve(first, **changed))
        assert pool(ledger) == before
        assert ledger.grant("job") == given

    def test_a_gate_is_noted_for_a_known_identity(self, ledger: FreeTier) -> None:
        """A gate is no entry; it is noted, and stands even when the pool could pay later."""
        gate = ledger.reserve(GATE)
        assert (gate.decision.serve, gate.state) == (Serve.GATE, GrantState.UNHELD)
        assert ledger.reserve(GATE) == gate == ledger.grant("job")
        assert kinds(ledger) == []
        status = ledger.pool_status()
        assert (status.gated_today, status.gated_today_sats) == (1, 120)

    def test_a_gate_for_a_stranger_is_written_nowhere(self, ledger: FreeTier) -> None:
        """An anonymous gate leaves no trace: the id is as good as new."""
        assert ledger.reserve(attrs.evolve(JOB, identity=None)).charge_sats == 120
        assert ledger.pool_status().gated_today == 0
        with pytest.raises(UnknownRequest):
            ledger.grant("job")
        assert ledger.reserve(JOB).absorb_sats == 120

    def test_a_price_of_0_writes_nothing(self, ledger: FreeTier) -> None:
        """What costs nothing is free, and no entry."""
        free = ledger.reserve(attrs.evolve(JOB, price_sats=0))
        assert (free.decision.serve, free.state) == (Serve.FREE, GrantState.UNHELD)
        assert kinds(ledger) == []

    def test_decide_writes_nothing(self, ledger: FreeTier) -> None:
        """A decision that nobody reserved holds nothing and notes nothing."""
        assert ledger.decide(JOB).absorb_sats == 120
        assert ledger.decide(GATE).charge_sats == 120
        assert pool(ledger) == (10_000, 0)
        assert ledger.pool_status().gated_today == 0

    def test_record_grant_pays_at_once(self, ledger: FreeTier) -> None:
        """Record-grant is reserve and settle in one entry; it replays, and is over."""
        grant = ledger.record_grant(PARTIAL)
        assert grant.state is GrantState.SETTLED
        assert grant.settlement == grant.decision.settle()
        assert pool(ledger) == (9_800, 0)
        assert ledger.record_grant(PARTIAL) == ledger.reserve(PARTIAL) == grant
        assert ledger.settle("job") == grant.settlement
        assert kinds(ledger) == [Kind.GRANT]
        with pytest.raises(Conflict):
            ledger.release("job")


class TestEndings:
    """Rules 6 and 7: on the real cost, and once."""

    @pytest.mark.parametrize(
        ("actual", "absorbed", "charged", "refund", "overrun"),
        [
            (0, 0, 0, 100, 0),
            (150, 150, 0, 100, 0),
            (250, 200, 50, 50, 0),
            (300, 200, 100, 0, 0),
            (None, 200, 100, 0, 0),
            (350, 200, 100, 0, 50),
        ],
    )
    def test_settling_on_the_real_cost(
        self,
        ledger: FreeTier,
        actual: int | None,
        absorbed: int,
        charged: int,
        refund: int,
        overrun: int,
    ) -> None:
        """The pool pays first, the caller the rest; pool and allowance get back what is left."""
        ledger.reserve(PARTIAL)
        settled = ledger.settle("job", actual)
        assert (settled.absorbed_sats, settled.charged_sats) == (absorbed, charged)
        assert (settled.refund_sats, settled.overrun_sats) == (refund, overrun)
        assert settled.actual_sats == absorbed + charged + overrun
        assert pool(ledger) == (10_000 - absorbed, 0)
        assert used(ledger) == absorbed
        assert ledger.grant("job").settlement == settled

    def test_a_second_settle(self, ledger: FreeTier) -> None:
        """The same figures again get the first settlement; other figures are a Conflict."""
        ledger.reserve(PARTIAL)
        first = ledger.settle("job", 250)
        assert ledger.settle("job", 250) == first
        for actual in (249, 300, 301, None):
            with pytest.raises(Conflict):
                ledger.settle("job", actual)
        assert kinds(ledger) == [Kind.RESERVE, Kind.SETTLE]

    def test_release_gives_everything_back(self, ledger: FreeTier) -> None:
        """A release gives back to pool and allowance; again, it is the same answer."""
        ledger.reserve(PARTIAL)
        released = ledger.release("job")
        assert released.state is GrantState.RELEASED
        assert ledger.release("job") == released == ledger.grant("job")
        assert pool(ledger) == (10_000, 0)
        assert used(ledger) == 0
        assert kinds(ledger) == [Kind.RESERVE, Kind.RELEASE]

    def test_one_ending(self, ledger: FreeTier) -> None:
        """What was released is not settled, and what was settled is not released."""
        ledger.reserve(JOB)
        ledger.release("job")
        with pytest.raises(Conflict):
            ledger.settle("job", 5)
        ledger.reserve(Request("two", "ab", "trusted", 10))
        ledger.settle("two")
        with pytest.raises(Conflict):
            ledger.release("two")

    def test_a_gate_settles_by_arithmetic(self, ledger: FreeTier) -> None:
        """A noted gate settles at any cost, any number of times, and writes nothing."""
        ledger.reserve(GATE)
        assert ledger.settle("job", 100).charged_sats == 100
        assert ledger.settle("job", 90).refund_sats == 30
        assert ledger.release("job").state is GrantState.UNHELD
        assert kinds(ledger) == []

    def test_what_was_never_granted(self, ledger: FreeTier) -> None:
        """Settle, release and grant of an id that nobody used are UnknownRequest."""
        asks: list[Callable[[str], object]] = [ledger.settle, ledger.release, ledger.grant]
        for ask in asks:
            with pytest.raises(UnknownRequest):
                ask("nothing")


class TestOnUnavailable:
    """Rule 11: fail closed, and say so."""

    @pytest.fixture
    def locked(self, tmp_path: Path) -> Iterator[SQLiteRepository]:
        """A repository whose file somebody else holds: it gives up at once."""
        path = tmp_path / "locked.db"
        with (
            SQLiteRepository(path, timeout_s=0) as repository,
            closing(sqlite3.connect(path)) as other,
        ):
            FreeTier(FreeTierPolicy(), repository).seed()
            other.execute("BEGIN IMMEDIATE")
            yield repository

    def test_unavailable_is_an_error(self, locked: SQLiteRepository) -> None:
        """A store that cannot answer raises, unless the host says otherwise."""
        with pytest.raises(StoreUnavailable):
            FreeTier(FreeTierPolicy(), locked).reserve(JOB)

    def test_or_the_full_price(self, locked: SQLiteRepository) -> None:
        """With `on_unavailable="gate"` the caller is charged the full price instead."""
        ledger = FreeTier(FreeTierPolicy(), locked, on_unavailable="gate")
        for ask in (ledger.reserve, ledger.record_grant):
            gate = ask(JOB)
            assert (gate.decision.serve, gate.charge_sats) == (Serve.GATE, 120)
            assert gate.decision.bound_by == Limit.UNAVAILABLE
            assert gate.state is GrantState.UNHELD
        with pytest.raises(StoreUnavailable):
            ledger.donate("gift", 5)

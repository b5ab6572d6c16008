"""`verify` finds what was changed behind the schema's back, and names the first broken entry."""

from __future__ import annotations

import sqlite3
import tracemalloc
from datetime import timedelta

import psycopg
import pytest

from freetier import FreeTier, FreeTierPolicy, IntegrityError, Request, _sorting
from freetier.audit import INVARIANTS, SEALED
from freetier.entries import Entry, Kind
from freetier.memory import MemoryRepository
from freetier.migrations import migrate
from freetier.postgres import PostgresRepository
from freetier.repository import PAGE, Books, Deposit
from freetier.testing import Clock

from .tampering import (
    CREDIT,
    DRAW,
    DRAW_2,
    DRAW_3,
    EXPIRE,
    GRANT,
    LATE,
    OPEN,
    RELEASE,
    SEED,
    SETTLE,
    Tampered,
    busy,
    changed,
)


@pytest.mark.parametrize(
    ("change", "invariant", "seq"),
    [
        ("UPDATE freetier_pool SET balance_sats = balance_sats + 1", 1, None),
        ("UPDATE freetier_pool SET seed_sats = seed_sats + 1", 1, None),
        (changed(CREDIT, "balance_sats = balance_sats + 1"), 1, CREDIT),
        ("UPDATE freetier_pool SET reserved_sats = reserved_sats - 1", 2, None),
        (changed(OPEN, "reserved_sats = reserved_sats + 1"), 2, OPEN),
        ("DELETE FROM freetier_open", 2, None),
        ("UPDATE freetier_open SET absorb_sats = absorb_sats + 1", 2, None),
        ("UPDATE freetier_open SET expires_at_us = expires_at_us + 1", 2, None),
        ("INSERT INTO freetier_open VALUES ('main', 1, 'ghost', 5)", 2, None),
        (changed(DRAW_2, "reserved_change = -30"), 3, DRAW_2),
        (changed(SEED, "balance_change = -1"), 3, SEED),
        (changed(GRANT, "balance_sats = balance_sats - 1"), 4, GRANT),
        (f"DELETE FROM freetier_journal WHERE seq = {CREDIT}", 4, DRAW),
        (f"DELETE FROM freetier_journal WHERE seq = {OPEN}", 4, None),
        (changed(DRAW, "balance_change = -1"), 5, DRAW),
        (changed(SETTLE, "used_change = -1"), 5, SETTLE),
        (changed(RELEASE, "reserved_change = -1"), 5, RELEASE),
        (changed(EXPIRE, "used_change = -40"), 5, EXPIRE),
        (changed(LATE, "reserved_change = -35"), 5, LATE),
        (changed(GRANT, "used_change = 0"), 5, GRANT),
        (changed(CREDIT, "used_change = 3, day = 1"), 5, CREDIT),
        (changed(OPEN, "expires_at_us = at_us"), 5, OPEN),
        ("UPDATE freetier_usage SET used_sats = used_sats + 1 WHERE name = 'ada'", 6, None),
        ("UPDATE freetier_usage SET used_sats = 0 WHERE scope = 'tier'", 6, None),
        ("DELETE FROM freetier_usage WHERE scope = 'pool'", 6, None),
        ("INSERT INTO freetier_usage VALUES ('main', 1, 'identity', 'ghost', 1)", 6, None),
        (changed(GRANT, "budget_sats = 49"), 6, GRANT),
        (changed(GRANT, "tier_ceiling_sats = 49"), 6, GRANT),
        (changed(GRANT, "release_sats = 49"), 6, GRANT),
        (changed(GRANT, "key = 'settled'"), 7, GRANT),
        (changed(CREDIT, "kind = 'seed'"), 7, CREDIT),
        (changed(CREDIT, "balance_change = 8"), 7, CREDIT),
        (changed(CREDIT, "credit_carry = 4999"), 7, CREDIT),
        ("UPDATE freetier_pool SET credit_carry = 1", 7, None),
        (changed(RELEASE, "key = 'settled'"), 8, RELEASE),
        (changed(RELEASE, "key = 'nobody'"), 8, RELEASE),
        (changed(LATE, "key = 'released'"), 8, LATE),
        (changed(EXPIRE, "at_us = at_us - 1"), 8, EXPIRE),
        (changed(SETTLE, "identity = 'eve'"), 8, SETTLE),
        (changed(SETTLE, "price_sats = 249"), 8, SETTLE),
        (changed(GRANT, "at_us = at_us - 1000000"), 9, GRANT),
        (changed(DRAW, "day = day + 1"), 9, DRAW),
        (changed(SETTLE, "day = day + 1"), 9, SETTLE),
        (changed(DRAW, "charge_sats = 51"), 10, DRAW),
        (changed(DRAW, "price_sats = 251"), 10, DRAW),
        (changed(SETTLE, "refund_sats = 31"), 10, SETTLE),
        (changed(SETTLE, "absorb_sats = 201"), 10, SETTLE),
        (changed(LATE, "uncovered_sats = 6"), 10, LATE),
        (changed(SETTLE, "overrun_sats = 1, charge_sats = 19, refund_sats = 31"), 10, SETTLE),
        (changed(SETTLE, "overrun_sats = -1"), 10, SETTLE),
        (changed(RELEASE, "absorb_sats = 1"), 10, RELEASE),
        (changed(EXPIRE, "charge_sats = 1"), 10, EXPIRE),
        (changed(LATE, "charge_sats = -1, refund_sats = 1"), 10, LATE),
        (changed(GRANT, "floor_sats = 10000"), 6, GRANT),
        (changed(GRANT, "pool_share_bp = 1"), 6, GRANT),
        (changed(LATE, "floor_sats = 10000"), 6, LATE),
        ("UPDATE freetier_pool SET at_us = at_us - 1", 9, None),
        ("INSERT INTO freetier_usage VALUES ('main', 9223372036854775807, 'pool', '', 1)", 6, None),
        (changed(OPEN, "seq = 50"), 4, 50),
        (changed(CREDIT, "seq = 0"), 4, 0),
        (changed(CREDIT, "seq = -9223372036854775808"), 4, -(2**63)),
        ("INSERT INTO freetier_usage VALUES ('main', -99999999, 'pool', '', 1)", 6, None),
        (
            "INSERT INTO freetier_usage VALUES ('main', -9223372036854775808, 'pool', '', 1)",
            6,
            None,
        ),
        (changed(SETTLE, "at_us = at_us + 3600000000"), 8, SETTLE),
        (changed(RELEASE, "at_us = at_us + 3600000000"), 8, RELEASE),
        (changed(SETTLE, "tier = 'elite'"), 8, SETTLE),
        (changed(CREDIT, "balance_change = -1"), 5, CREDIT),
        (changed(GRANT, "absorb_sats = 0, charge_sats = 50"), 10, GRANT),
        (changed(GRANT, "absorb_sats = 51, charge_sats = -1"), 10, GRANT),
        (changed(SETTLE, "absorb_sats = 199"), 10, SETTLE),
        (changed(SETTLE, "used_change = -201"), 6, SETTLE),
        (changed(SEED, "balance_change = 2100000000000001"), 3, SEED),
        (changed(SETTLE, "absorb_sats = -1, charge_sats = 0, refund_sats = 50"), 10, SETTLE),
        (changed(SETTLE, "charge_sats = 51, refund_sats = -1"), 10, SETTLE),
        (changed(LATE, "uncovered_sats = -1"), 10, LATE),
    ],
)
def test_tampering_is_found(
    tampered: Tampered, change: str, invariant: int, seq: int | None
) -> None:
    """Each change is found, under its invariant, at the entry that it changed."""
    assert tampered.connection.execute(change).rowcount > 0
    broken = tampered.broken()
    assert invariant in broken
    assert broken[invariant] == seq
    if seq is None or seq > DRAW_2:
        assert tampered.broken(since=tampered.checkpoint).get(invariant) == seq


def test_first_of_many_is_named(tampered: Tampered) -> None:
    """Of several entries that break one invariant, the first is named."""
    tampered.connection.execute("UPDATE freetier_journal SET charge_sats = 7 WHERE seq > 2")
    assert tampered.broken()[10] == DRAW


def test_first_of_many_keys_is_named(tampered: Tampered) -> None:
    """Of several entries whose keys were used before, the first is named, whatever the keys."""
    tampered.connection.execute(changed(DRAW_3, "key = 'settled'"))
    tampered.connection.execute(changed(GRANT, "key = 'released'"))
    assert tampered.broken()[7] == DRAW_3


def test_what_is_filed_as_something_else(postgres_dsn: str) -> None:
    """An entry that nothing would find, so that its key could be used again, is said.

    So it is once it was used again, by a proof that trusts all that was there before.
    """
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        migrate(connection)
        ledger, _ = busy(PostgresRepository(connection))
        everything = ledger.verify().checkpoint
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE freetier_journal SET once = 'hidden' WHERE seq IN (2, 10)")
        connection.execute("SET session_replication_role = origin")
        (problem,) = ledger.verify().problems
        assert (problem.invariant, problem.seq) == (7, CREDIT)
        assert problem.detail == "nothing finds it by its key, 'invoice'"
        ledger.credit("invoice", 95)
        (problem,) = ledger.verify(checkpoint=everything).problems
        assert (problem.invariant, problem.seq) == (7, OPEN + 1)


def test_an_open_grant_that_is_filed_as_something_else(postgres_dsn: str) -> None:
    """A proof that trusts a grant which was open still says that nothing would find it."""
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        migrate(connection)
        ledger, _ = busy(PostgresRepository(connection))
        ledger.donate("last", 1)
        everything = ledger.verify().checkpoint
        connection.execute("SET session_replication_role = replica")
        connection.execute(f"UPDATE freetier_journal SET once = 'hidden' WHERE seq = {OPEN}")
        found = ledger.verify(checkpoint=everything).problems
        assert (SEALED, OPEN) in [(problem.invariant, problem.seq) for problem in found]


def test_a_late_settlement_that_the_floor_leaves_nothing(ledger: FreeTier, clock: Clock) -> None:
    """A late settlement that absorbs nothing is right, however little the pool has."""
    ledger.reserve(Request("late", "ada", "trusted", 40), ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    careful = FreeTier(FreeTierPolicy(floor_sats=20_000), ledger.repository, clock=clock)
    assert careful.settle("late", 35).uncovered_sats == 35
    assert ledger.verify().ok


def test_all_that_is_there_lies_before_the_first(tampered: Tampered) -> None:
    """A journal whose only entry has a seq below 0 is reported, like any other."""
    tampered.connection.execute("DELETE FROM freetier_journal WHERE seq > 1")
    tampered.connection.execute(changed(SEED, "seq = -7"))
    assert tampered.broken()[4] == -7


def test_the_entry_of_a_head_was_taken_away(tampered: Tampered) -> None:
    """A head whose own entry is not there any more does not hold, whatever stands after it."""
    head = tampered.checkpoint.head
    tampered.connection.execute(f"DELETE FROM freetier_journal WHERE seq = {DRAW_2}")
    problems = {each.invariant for each in tampered.ledger.verify(head=head).problems}
    assert {4, SEALED} <= problems


def test_a_grant_that_is_open_twice(tampered: Tampered) -> None:
    """A second row of an open grant is said: the next call would count its sats twice."""
    tampered.connection.execute(
        "INSERT INTO freetier_open (pool, expires_at_us, key, absorb_sats)"
        " SELECT pool, expires_at_us - 5, key, absorb_sats FROM freetier_open"
    )
    with pytest.raises(IntegrityError, match="the books of 'open' have 'open' twice"):
        tampered.ledger.verify()


@pytest.mark.parametrize("seq", [10**18, 2 * 10**18, 2**63 - 1])
def test_a_number_far_beyond_the_next(tampered: Tampered, seq: int) -> None:
    """An entry whose number is as large as a database can hold is found like any other."""
    tampered.connection.execute(changed(OPEN, f"seq = {seq}"))
    assert tampered.broken() == {4: seq}
    assert [entry.seq for entry in tampered.ledger.journal()][-1] == seq
    assert list(tampered.ledger.journal(after=2**63 - 1)) == []


def test_memory_does_not_grow_with_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """To verify a journal four times as long takes no more memory."""
    monkeypatch.setattr(_sorting, "PART", 500)

    def peak(grants: int) -> int:
        clock = Clock()
        ledger = FreeTier(FreeTierPolicy(), MemoryRepository(), clock=clock)
        ledger.seed()
        for number in range(grants):
            request = Request(f"request-{number}", "ada", "elite", 1)
            ledger.reserve(request, ttl=timedelta(seconds=1))
            clock.advance(seconds=1)
            if number % 2:
                ledger.settle(request.request_id)
            ledger.sweep()
        tracemalloc.start()
        try:
            assert ledger.verify().ok
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(4_000) < 1.5 * peak(1_000)


def test_every_invariant_is_tried() -> None:
    """The cases above break every invariant that the audit knows without a head at least once."""
    mark = next(m for m in test_tampering_is_found.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {invariant for _, invariant, _ in mark.args[1]} == set(INVARIANTS) - {SEALED}


def planted(tampered: Tampered, of: int, seq: int) -> None:
    """Put a copy of an entry behind the journal's end."""
    nothing = tampered.connection.execute("SELECT * FROM freetier_journal WHERE 1 = 0")
    columns = [column[0] for column in nothing.description]
    if isinstance(tampered.connection, sqlite3.Connection):
        columns.remove("once")  # there it follows from the others
    names = ", ".join(column for column in columns if column != "seq")
    tampered.connection.execute(
        f"INSERT INTO freetier_journal (seq, {names})"
        f" SELECT {seq}, {names} FROM freetier_journal WHERE seq = {of}"
    )


@pytest.mark.parametrize("seq", [OPEN + 1, OPEN + 50])
def test_a_planted_entry_is_found(tampered: Tampered, seq: int) -> None:
    """An entry that nobody's statement wrote is found, also where the next one would stand."""
    planted(tampered, CREDIT, seq)
    assert 4 in tampered.broken()


@pytest.mark.parametrize(
    ("of", "invariant"), [(CREDIT, 7), (DRAW, 7), (GRANT, 7), (SETTLE, 8), (EXPIRE, 8), (LATE, 8)]
)
def test_what_comes_twice_is_found(tampered: Tampered, of: int, invariant: int) -> None:
    """A second one is named wherever the first is: read, or before the checkpoint."""
    everything = tampered.ledger.verify().checkpoint
    tampered.connection.execute("UPDATE freetier_pool SET seq = seq + 1")
    planted(tampered, of, OPEN + 1)
    for since in (None, tampered.checkpoint, everything):
        assert tampered.broken(since)[invariant] == OPEN + 1


class Meanwhile(MemoryRepository):
    """A store in which somebody donates whenever an audit has read to an end."""

    donations = 0

    def donate(self) -> None:
        self.donations += 1
        deposit = Deposit(Kind.DONATION, f"gift-{self.donations}", 1)
        assert self.deposit(deposit, None) is not None

    def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        page = super().entries(after, limit)
        if not page:
            self.donate()
        return page

    def books(self) -> Books:
        books = super().books()
        self.donate()
        return books


def test_what_is_written_meanwhile_is_no_fault() -> None:
    """Entries that come while the journal and the books are read are held against them as well."""
    busy = Meanwhile()
    ledger = FreeTier(FreeTierPolicy(), busy)
    ledger.seed()
    report = ledger.verify()
    assert report.ok, report.problems
    assert (report.entries, busy.donations) == (2, 2)

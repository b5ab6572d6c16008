"""`verify` finds what was changed behind the schema's back, and names the first broken entry."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from attrs import frozen

from freetier import Checkpoint, FreeTier, FreeTierPolicy, IntegrityError, Request, _sorting
from freetier.audit import INVARIANTS, SEALED
from freetier.entries import Entry, Kind
from freetier.memory import MemoryRepository
from freetier.migrations import migrate
from freetier.postgres import PostgresRepository
from freetier.repository import PAGE, Books, Deposit, Repository
from freetier.sqlite import SQLiteRepository
from freetier.testing import Clock

# The entries of `tampered`, by number.
SEED, CREDIT, DRAW, SETTLE, DRAW_2, RELEASE, DRAW_3, EXPIRE, LATE, GRANT, OPEN = range(1, 12)


class Connection(Protocol):
    """A plain connection, of either database."""

    def execute(self, statement: Any, /) -> Any: ...


@frozen
class Tampered:
    """A ledger whose guard was taken away, and the connection to change it by hand."""

    ledger: FreeTier
    connection: Connection
    checkpoint: Checkpoint  # as of `DRAW_2`

    def broken(self, since: Checkpoint | None = None) -> dict[int, int | None]:
        """The first broken entry by invariant, as `verify` names it."""
        report = self.ledger.verify(checkpoint=since)
        return {problem.invariant: problem.seq for problem in report.problems}


@pytest.fixture(params=["in memory", "through a file", "on Postgres"])
def tampered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tampered]:
    if request.param == "through a file":
        monkeypatch.setattr(_sorting, "PART", 2)
    if request.param == "on Postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            ledger, checkpoint = busy(PostgresRepository(connection))
            unguard_postgres(connection)
            yield Tampered(ledger, connection, checkpoint)
    else:
        path: Path = request.getfixturevalue("tmp_path")
        with closing(sqlite3.connect(path / "ledger.db", isolation_level=None)) as file:
            migrate(file)
            ledger, checkpoint = busy(SQLiteRepository(file))
            unguard_sqlite(file)
            yield Tampered(ledger, file, checkpoint)


def busy(repository: Repository) -> tuple[FreeTier, Checkpoint]:
    clock = Clock()
    ledger = FreeTier(FreeTierPolicy(), repository, clock=clock)
    ledger.seed()
    ledger.credit("invoice", 95)
    ledger.reserve(Request("settled", "ada", "trusted", 250))
    ledger.settle("settled", 220)
    ledger.reserve(Request("released", "bob", "trusted", 30))
    checkpoint = ledger.verify().checkpoint
    assert checkpoint is not None
    ledger.release("released")
    ledger.reserve(Request("expired", "cyd", "trusted", 40), ttl=timedelta(minutes=1))
    clock.advance(minutes=1)
    ledger.settle("expired", 35)
    ledger.record_grant(Request("session", "dan", "elite", 50))
    ledger.reserve(Request("open", "eve", "elite", 60))
    assert ledger.verify().ok
    return ledger, checkpoint


def unguard_sqlite(connection: sqlite3.Connection) -> None:
    triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for (name,) in connection.execute(triggers).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DROP INDEX freetier_journal_once")
    connection.execute("PRAGMA ignore_check_constraints = ON")


def unguard_postgres(connection: psycopg.Connection) -> None:
    connection.execute("SET session_replication_role = replica")  # no trigger fires
    connection.execute("DROP INDEX freetier_journal_once")
    checks = (
        "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)"
        " FROM pg_constraint WHERE contype = 'c' AND conrelid > 0"
        " AND connamespace = current_schema()::regnamespace"
    )
    for (drop,) in connection.execute(checks).fetchall():
        connection.execute(drop)


def _journal(seq: int, change: str) -> str:
    return f"UPDATE freetier_journal SET {change} WHERE seq = {seq}"


@pytest.mark.parametrize(
    ("change", "invariant", "seq"),
    [
        ("UPDATE freetier_pool SET balance_sats = balance_sats + 1", 1, None),
        ("UPDATE freetier_pool SET seed_sats = seed_sats + 1", 1, None),
        (_journal(CREDIT, "balance_sats = balance_sats + 1"), 1, CREDIT),
        ("UPDATE freetier_pool SET reserved_sats = reserved_sats - 1", 2, None),
        (_journal(OPEN, "reserved_sats = reserved_sats + 1"), 2, OPEN),
        ("DELETE FROM freetier_open", 2, None),
        ("UPDATE freetier_open SET absorb_sats = absorb_sats + 1", 2, None),
        ("UPDATE freetier_open SET expires_at_us = expires_at_us + 1", 2, None),
        ("INSERT INTO freetier_open VALUES ('main', 1, 'ghost', 5)", 2, None),
        (_journal(DRAW_2, "reserved_change = -30"), 3, DRAW_2),
        (_journal(SEED, "balance_change = -1"), 3, SEED),
        (_journal(GRANT, "balance_sats = balance_sats - 1"), 4, GRANT),
        (f"DELETE FROM freetier_journal WHERE seq = {CREDIT}", 4, DRAW),
        (f"DELETE FROM freetier_journal WHERE seq = {OPEN}", 4, None),
        (_journal(DRAW, "balance_change = -1"), 5, DRAW),
        (_journal(SETTLE, "used_change = -1"), 5, SETTLE),
        (_journal(RELEASE, "reserved_change = -1"), 5, RELEASE),
        (_journal(EXPIRE, "used_change = -40"), 5, EXPIRE),
        (_journal(LATE, "reserved_change = -35"), 5, LATE),
        (_journal(GRANT, "used_change = 0"), 5, GRANT),
        (_journal(CREDIT, "used_change = 3, day = 1"), 5, CREDIT),
        (_journal(OPEN, "expires_at_us = at_us"), 5, OPEN),
        ("UPDATE freetier_usage SET used_sats = used_sats + 1 WHERE name = 'ada'", 6, None),
        ("UPDATE freetier_usage SET used_sats = 0 WHERE scope = 'tier'", 6, None),
        ("DELETE FROM freetier_usage WHERE scope = 'pool'", 6, None),
        ("INSERT INTO freetier_usage VALUES ('main', 1, 'identity', 'ghost', 1)", 6, None),
        (_journal(GRANT, "budget_sats = 49"), 6, GRANT),
        (_journal(GRANT, "tier_ceiling_sats = 49"), 6, GRANT),
        (_journal(GRANT, "release_sats = 49"), 6, GRANT),
        (_journal(GRANT, "key = 'settled'"), 7, GRANT),
        (_journal(CREDIT, "kind = 'seed'"), 7, CREDIT),
        (_journal(CREDIT, "balance_change = 8"), 7, CREDIT),
        (_journal(CREDIT, "credit_carry = 4999"), 7, CREDIT),
        ("UPDATE freetier_pool SET credit_carry = 1", 7, None),
        (_journal(RELEASE, "key = 'settled'"), 8, RELEASE),
        (_journal(RELEASE, "key = 'nobody'"), 8, RELEASE),
        (_journal(LATE, "key = 'released'"), 8, LATE),
        (_journal(EXPIRE, "at_us = at_us - 1"), 8, EXPIRE),
        (_journal(SETTLE, "identity = 'eve'"), 8, SETTLE),
        (_journal(SETTLE, "price_sats = 249"), 8, SETTLE),
        (_journal(GRANT, "at_us = at_us - 1000000"), 9, GRANT),
        (_journal(DRAW, "day = day + 1"), 9, DRAW),
        (_journal(SETTLE, "day = day + 1"), 9, SETTLE),
        (_journal(DRAW, "charge_sats = 51"), 10, DRAW),
        (_journal(DRAW, "price_sats = 251"), 10, DRAW),
        (_journal(SETTLE, "refund_sats = 31"), 10, SETTLE),
        (_journal(SETTLE, "absorb_sats = 201"), 10, SETTLE),
        (_journal(LATE, "uncovered_sats = 6"), 10, LATE),
        (_journal(SETTLE, "overrun_sats = 1, charge_sats = 19, refund_sats = 31"), 10, SETTLE),
        (_journal(SETTLE, "overrun_sats = -1"), 10, SETTLE),
        (_journal(RELEASE, "absorb_sats = 1"), 10, RELEASE),
        (_journal(EXPIRE, "charge_sats = 1"), 10, EXPIRE),
        (_journal(LATE, "charge_sats = -1, refund_sats = 1"), 10, LATE),
        (_journal(GRANT, "floor_sats = 10000"), 6, GRANT),
        (_journal(GRANT, "pool_share_bp = 1"), 6, GRANT),
        (_journal(LATE, "floor_sats = 10000"), 6, LATE),
        ("UPDATE freetier_pool SET at_us = at_us - 1", 9, None),
        ("INSERT INTO freetier_usage VALUES ('main', 9223372036854775807, 'pool', '', 1)", 6, None),
        (_journal(OPEN, "seq = 50"), 4, 50),
        (_journal(CREDIT, "seq = 0"), 4, 0),
        (_journal(CREDIT, "seq = -9223372036854775808"), 4, -(2**63)),
        ("INSERT INTO freetier_usage VALUES ('main', -99999999, 'pool', '', 1)", 6, None),
        (
            "INSERT INTO freetier_usage VALUES ('main', -9223372036854775808, 'pool', '', 1)",
            6,
            None,
        ),
        (_journal(SETTLE, "at_us = at_us + 3600000000"), 8, SETTLE),
        (_journal(RELEASE, "at_us = at_us + 3600000000"), 8, RELEASE),
        (_journal(SETTLE, "tier = 'elite'"), 8, SETTLE),
        (_journal(CREDIT, "balance_change = -1"), 5, CREDIT),
        (_journal(GRANT, "absorb_sats = 0, charge_sats = 50"), 10, GRANT),
        (_journal(GRANT, "absorb_sats = 51, charge_sats = -1"), 10, GRANT),
        (_journal(SETTLE, "absorb_sats = 199"), 10, SETTLE),
        (_journal(SETTLE, "used_change = -201"), 6, SETTLE),
        (_journal(SEED, "balance_change = 2100000000000001"), 3, SEED),
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
    tampered.connection.execute(_journal(DRAW_3, "key = 'settled'"))
    tampered.connection.execute(_journal(GRANT, "key = 'released'"))
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


def test_all_that_is_there_lies_before_the_first(tampered: Tampered) -> None:
    """A journal whose only entry has a seq below 0 is reported, like any other."""
    tampered.connection.execute("DELETE FROM freetier_journal WHERE seq > 1")
    tampered.connection.execute(_journal(SEED, "seq = -7"))
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
    with pytest.raises(IntegrityError, match="freetier_open has grant 'open' twice"):
        tampered.ledger.verify()


@pytest.mark.parametrize(
    "change",
    [
        _journal(GRANT, "kind = 'zzz'"),
        _journal(GRANT, "rooms = 'none'"),
        _journal(GRANT, "rooms = '[1]'"),
        _journal(GRANT, 'rooms = \'{"pool": "1"}\''),
        _journal(GRANT, r"""rooms = '{"\ud800": 1}'"""),
        _journal(GRANT, f"rooms = '{'[' * 100_000}'"),
        _journal(GRANT, "at_us = 4611686018427387904"),
        _journal(GRANT, "day = 4611686018427387904"),
        _journal(OPEN, "expires_at_us = 4611686018427387904"),
    ],
)
def test_what_cannot_be_read_is_said(tampered: Tampered, change: str) -> None:
    """An entry that makes no sense at all is an error that names it."""
    assert tampered.connection.execute(change).rowcount == 1
    with pytest.raises(IntegrityError, match=r"entry 1[01] cannot be read"):
        tampered.ledger.verify()


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

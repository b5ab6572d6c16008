"""A role on Postgres that may insert entries and read, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import psycopg
import pytest

import freetier
from freetier import FreeTier, Request
from freetier.postgres import PostgresRepository
from freetier.values import to_us

from .hand_written import MINUTE_US, NOON, NOON_US, POLICY, VALID, Row, busy_ledger, proposal
from .postgres_by_hand import (
    KEYS,
    TABLES,
    WRONG_ENTRIES,
    Connection,
    as_one,
    draw,
    dump,
    fill,
    granted_role,
    insert,
    migrated,
    proved,
)
from .postgres_server import Server, database_name


@pytest.fixture
def source() -> Iterator[sqlite3.Connection]:
    """The busy ledger on SQLite, whose next entries are those of Postgres."""
    connection, _ = busy_ledger()
    with closing(connection):
        yield connection


@pytest.fixture
def owner(postgres_dsn: str) -> Iterator[Connection]:
    """The connection of the busy ledger's owner."""
    with closing(migrated(postgres_dsn)) as connection:
        fill(connection)
        yield connection


@pytest.fixture
def role(owner: Connection) -> Iterator[str]:
    """The role."""
    with granted_role(owner) as name:
        yield name


@pytest.fixture
def writer(role: str, postgres_server: Server, postgres_dsn: str) -> Iterator[Connection]:
    """The role's connection."""
    dsn = postgres_server.dsn(database_name(postgres_dsn), role)
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        yield connection


def test_it_can_do_all_that_the_library_does(writer: Connection) -> None:
    """Every operation of a ledger runs with no other rights, and with nothing to search."""
    writer.execute("SET search_path = ''")
    now = NOON
    ledger = FreeTier(POLICY, PostgresRepository(writer), clock=lambda: now)
    requests = [Request(f"job-{number}", f"{number}", "trusted", 30) for number in range(4)]
    ledger.seed()
    for request in requests[:3]:
        assert ledger.decide(request) == ledger.reserve(request).decision
    ledger.settle("job-0", 20)
    ledger.release("job-1")
    ledger.record_grant(requests[3])
    ledger.reserve(Request("job-4", "4", "new", 30))
    ledger.credit("hash", 100)
    ledger.donate("more", 7, sponsor="ada")
    ledger.adjust("less", -7, note="a mistake")
    now += timedelta(hours=1)
    assert len(list(ledger.open_grants())) == 0
    assert ledger.sweep() == 2
    ledger.settle("job-2")
    ledger.grant("job-2")
    assert all(as_one(writer, [draw(key, expires_at_us=to_us(now) + 1) for key in ("8", "9")]))
    assert ledger.pool_status().gated_today == 2
    assert ledger.verify().ok
    assert len(list(ledger.journal())) == ledger.verify().entries == 14 + 14


GATE: Row = {"pool": "main", "at_us": NOON_US, "day": 1, "identity": "ab", "tier": "new"}
GATE |= {"price_sats": 7, "bound_by": "budget", "rooms": "{}"}
HUNG_ELSEWHERE = (
    "CREATE TRIGGER mine BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION {guard}()"
)


def test_it_opens_a_ledger_by_url(role: str, postgres_server: Server, postgres_dsn: str) -> None:
    """`open` finds the schema as it should be, and needs no right to make it."""
    dsn = postgres_server.dsn(database_name(postgres_dsn), role)
    with freetier.open(dsn, POLICY) as ledger:
        ledger.donate("more", 7)
        assert ledger.verify().entries == 14 + 1


AGAIN = "INSERT INTO freetier_journal SELECT * FROM freetier_journal WHERE seq = 3 ON CONFLICT"
FORBIDDEN = [
    *(f"DELETE FROM {table}" for table in TABLES),
    *(f"TRUNCATE {table}" for table in TABLES),
    *(f"DROP TABLE {table} CASCADE" for table in TABLES),
    *(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in TABLES),
    *(f"SELECT * FROM {table} FOR UPDATE" for table in TABLES),
    "UPDATE freetier_journal SET balance_change = 6",
    "UPDATE freetier_pool SET balance_sats = 5000",
    "UPDATE freetier_usage SET used_sats = 0",
    "UPDATE freetier_open SET absorb_sats = 1",
    "UPDATE freetier_gate SET price_sats = 1",
    "UPDATE freetier_schema SET version = 2",
    "INSERT INTO freetier_pool (pool) VALUES ('other')",
    "INSERT INTO freetier_usage VALUES ('main', 1, 'tier', 'elite', 1)",
    "INSERT INTO freetier_open VALUES ('main', 1, 'job', 1)",
    f"{AGAIN} (pool, key, once) DO UPDATE SET balance_change = 6",
    "MERGE INTO freetier_pool AS p USING (VALUES ('main')) AS v (pool) ON p.pool = v.pool"
    " WHEN MATCHED THEN UPDATE SET balance_sats = 5000",
    "DROP TRIGGER freetier_journal_guard ON freetier_journal",
    "ALTER FUNCTION freetier_journal_guard() SECURITY INVOKER",
    "CREATE OR REPLACE FUNCTION freetier_journal_guard() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN RETURN NEW; END'",
    "CREATE RULE away AS ON INSERT TO freetier_journal DO INSTEAD NOTHING",
    "CREATE FUNCTION public.length(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT freetier_journal_guard()",
    "SELECT freetier_gate_guard()",
    "SELECT freetier_draws_guard()",
    "DROP VIEW freetier_draws",
    "CREATE OR REPLACE VIEW freetier_draws AS SELECT 1",
    "DROP TRIGGER freetier_draws_guard ON freetier_draws",
    "SET session_replication_role = replica",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_it_can_do_nothing_else(owner: Connection, writer: Connection, statement: str) -> None:
    """No statement but the INSERT of an entry or a gate changes a table or what guards it."""
    before = dump(owner)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute(statement)
    assert dump(owner) == before


@pytest.mark.parametrize(
    "guard", ["freetier_journal_guard", "freetier_gate_guard", "freetier_draws_guard"]
)
def test_the_guard_works_on_its_own_table_alone(writer: Connection, guard: str) -> None:
    """Nobody else can hang the guard, with its owner's rights, on a table of theirs."""
    writer.execute("CREATE TEMP TABLE journal (LIKE public.freetier_journal)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=guard):
        writer.execute(HUNG_ELSEWHERE.format(guard=guard))


@pytest.mark.parametrize(
    ("guard", "table", "row"),
    [
        ("freetier_journal_guard", "freetier_journal", {}),
        ("freetier_gate_guard", "freetier_gate", GATE | {"key": "new"}),
        ("freetier_draws_guard", "freetier_draws", {"pool": "main"}),
    ],
)
def test_a_guard_that_all_may_call(
    owner: Connection,
    writer: Connection,
    role: str,
    source: sqlite3.Connection,
    guard: str,
    table: str,
    row: Row,
) -> None:
    """Even where every role may use every function, the guard serves its own table alone."""
    owner.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}")
    writer.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table})")
    writer.execute(HUNG_ELSEWHERE.format(guard=guard).replace("journal FOR", f"{table} FOR"))
    before = dump(owner)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="of its own table"):
        insert(writer, row or proposal(source, "donation"), f"pg_temp.{table}")
    assert dump(owner) == before


def test_copy_meets_the_guard(
    owner: Connection, writer: Connection, source: sqlite3.Connection
) -> None:
    """What comes by COPY is taken, refused and filled in as what comes by INSERT."""
    rows = [
        proposal(source, "donation", {"key": key, "seq": seq, "balance_sats": 0})
        for key, seq in (("one", 1), ("gift", 15), ("two", 99), ("one", 7))
    ]
    with writer.cursor().copy(f"COPY freetier_journal ({', '.join(rows[0])}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(list(row.values()))
    assert proved(owner).entries == 16
    assert proved(owner).balance_sats == 933 + 5 + 5


PLANTED = [
    *(f"CREATE TABLE mine.{table} (LIKE public.{table} INCLUDING DEFAULTS)" for table in KEYS),
    "INSERT INTO mine.freetier_pool (pool, balance_sats) VALUES ('main', 1000000)",
    *(
        f"CREATE FUNCTION mine.{name}({takes}) RETURNS {gives} LANGUAGE sql AS 'SELECT {value}'"
        for name, takes, gives, value in (
            ("length", "text", "int", "7"),
            ('"left"', "text, int", "text", "''{''::text"),
            ("mod", "bigint, bigint", "bigint", "0::bigint"),
            ("mod", "bigint, int", "bigint", "0::bigint"),
            ("hashtextextended", "text, bigint", "bigint", "pg_backend_pid()::bigint"),
            ("pg_advisory_xact_lock", "bigint", "void", "NULL::void"),
            ("less", "bigint, bigint", "bool", "FALSE"),
            ("less", "bigint, int", "bool", "FALSE"),
            ("same", "text, text", "bool", "TRUE"),
            ("sum", "bigint, bigint", "bigint", "0::bigint"),
        )
    ),
    *(
        f"CREATE OPERATOR mine.{operator} (FUNCTION = mine.{name}, LEFTARG = {left},"
        f" RIGHTARG = {right})"
        for operator, name, left, right in (
            (">", "less", "bigint", "bigint"),
            (">", "less", "bigint", "int"),
            ("<", "less", "bigint", "bigint"),
            ("<", "less", "bigint", "int"),
            ("=", "same", "text", "text"),
            ("+", "sum", "bigint", "bigint"),
            ("-", "sum", "bigint", "bigint"),
        )
    ),
]
TEMPORARY = "CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS)"


def test_nothing_of_its_own_stands_in_for_the_guards(
    owner: Connection, writer: Connection, source: sqlite3.Connection, role: str
) -> None:
    """Tables, functions and operators that come first on its search path change no answer."""
    owner.execute(f"CREATE SCHEMA mine AUTHORIZATION {role}")
    for statement in PLANTED:
        writer.execute(statement)
    for table in KEYS:
        writer.execute(TEMPORARY.format(table=table))
    writer.execute("SET search_path = pg_temp, mine, pg_catalog")
    before = dump(owner)
    journal = "public.freetier_journal"
    for kind, _, changes in WRONG_ENTRIES:
        assert not insert(writer, proposal(source, kind, changes), journal)
    assert dump(owner) == before
    for kind in VALID:
        changes = {} if "key" in VALID[kind] else {"key": kind}
        with writer.transaction(force_rollback=True):
            assert insert(writer, proposal(source, kind, changes), journal)
    assert insert(writer, proposal(source, "grant"), journal)
    assert as_one(writer, [draw("far too much", absorb_sats=1_000_000)]) == [[]]
    for key, noted in (("new", False), ("gated", False), ("held", False), ("another", True)):
        assert insert(writer, GATE | {"key": key}, "public.freetier_gate") == noted
    assert proved(owner).entries == 15


ENTRY = (
    "INSERT INTO freetier_journal (pool, seq, kind, key, at_us, balance_change,"
    " reserved_change, used_change, balance_sats, reserved_sats)"
    " SELECT 'main', 0, 'donation', %s, CAST(extract(epoch FROM now() + CAST(%s AS interval))"
    " * 1000000 AS BIGINT), 1, 0, 0, 0, 0"
)


def test_no_batch_of_the_role_moves_the_clock(owner: Connection, writer: Connection) -> None:
    """Draws from the future are refused, however many come at once; its owner's are not."""
    ((now_us,),) = owner.execute(
        "SELECT CAST(extract(epoch FROM now() + interval '20 minutes') * 1000000 AS BIGINT)"
    )
    soon = {"day": now_us // (1440 * MINUTE_US), "expires_at_us": now_us + 1, "now_us": now_us}
    before = dump(owner)
    with pytest.raises(psycopg.errors.CheckViolation, match="future"):
        as_one(writer, [draw("now"), draw("soon", **soon)])
    assert dump(owner) == before
    assert as_one(owner, [draw("soon", **soon)]) != [[]]


@pytest.mark.parametrize("ahead", ["20 minutes", "1000 years"])
def test_the_role_does_not_move_the_clock(
    owner: Connection, writer: Connection, ahead: str
) -> None:
    """An entry from the future is refused: time would never come back, and grants would expire."""
    before = dump(owner)
    with pytest.raises(psycopg.errors.CheckViolation, match="future"):
        writer.execute(ENTRY, ("soon", ahead))
    assert dump(owner) == before
    writer.execute(ENTRY, ("now", "0 minutes"))


def test_the_role_goes_on_where_the_clock_is_behind(owner: Connection, writer: Connection) -> None:
    """On a server that is behind the journal, as after a promote, it writes at the journal's time.

    No later than that: the clock of the server catches up with it.
    """
    owner.execute(ENTRY, ("the last on the old server", "20 minutes"))
    ledger = FreeTier(POLICY, PostgresRepository(writer))
    ledger.reserve(Request("job", "ada", "trusted", 30))
    ledger.settle("job", 20)
    assert ledger.donate("more", 7).at == next(ledger.journal(after=14)).at
    with pytest.raises(psycopg.errors.CheckViolation, match="future"):
        writer.execute(ENTRY, ("soon", "21 minutes"))
    assert [entry.kind for entry in ledger.journal(after=15)] == [
        "expire",
        "reserve",
        "settle",
        "donation",
    ]
    proved(owner)

"""Entries on Postgres that say of themselves that they were looked at, whoever writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product

import psycopg
import pytest

from .hand_written import NOON_US, TODAY, Row
from .postgres_by_hand import KEYS, Connection, dump, fill, granted_role, migrated, proved
from .postgres_server import Server, database_name

LAST = 14
"""The seq that the busy ledger has come to."""
SEQS = (-1, 0, 1, LAST, LAST + 1, LAST + 2, 1000, None)
FORGED: Row = {"pool": "main", "kind": "grant", "key": "forged", "at_us": NOON_US, "day": TODAY}
FORGED |= {"identity": "eve", "tier": "new", "price_sats": 900_000, "absorb_sats": 900_000}
FORGED |= {"charge_sats": 0, "budget_sats": 1_000_000, "floor_sats": 0, "rooms": "{}"}
FORGED |= {"balance_change": -900_000, "reserved_change": 0, "used_change": 900_000}
FORGED |= {"balance_sats": 0, "reserved_sats": 0}
GIFT: Row = {"pool": "main", "kind": "donation", "key": "new", "at_us": NOON_US}
GIFT |= {"balance_change": 1, "reserved_change": 0, "used_change": 0}
GIFT |= {"balance_sats": 0, "reserved_sats": 0, "once": "donation"}

ENDS = (
    "",
    " ON CONFLICT DO NOTHING",
    " RETURNING pg_catalog.set_config('freetier.writer', '', false)",
)
LENT = [
    "CREATE TABLE lent (LIKE freetier_journal)",
    "GRANT INSERT ON lent TO PUBLIC",
    "CREATE FUNCTION lend() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
    " 'BEGIN INSERT INTO public.freetier_journal SELECT NEW.*; RETURN NULL; END'",
    "CREATE TRIGGER lend BEFORE INSERT ON lent FOR EACH ROW EXECUTE FUNCTION lend()",
]
"""A host's own trigger that writes what others give it, with its owner's rights."""
PLANTED = [
    "CREATE FUNCTION mine.current_setting(text, bool) RETURNS text LANGUAGE sql"
    " AS $$SELECT 'set'$$",
    *(f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS)" for table in KEYS),
    "INSERT INTO pg_temp.freetier_pool (pool, seq, balance_sats) VALUES ('main', 1000, 1000000)",
    *(
        statement
        for operator, kind in (("=", "text"), (">", "bigint"), (">", "int"), ("<=", "bigint"))
        for statement in (
            f"CREATE OR REPLACE FUNCTION mine.yes(bigint, {kind}) RETURNS bool LANGUAGE sql"
            " AS 'SELECT TRUE'",
            f"CREATE OR REPLACE FUNCTION mine.yes({kind}, {kind}) RETURNS bool LANGUAGE sql"
            " AS 'SELECT TRUE'",
            f"CREATE OPERATOR mine.{operator} (FUNCTION = mine.yes,"
            f" LEFTARG = {'text' if kind == 'text' else 'bigint'}, RIGHTARG = {kind})",
        )
    ),
]
"""What would answer for the guards, if they asked by the search path."""


@pytest.fixture
def owner(postgres_dsn: str) -> Iterator[Connection]:
    """The connection of the busy ledger's owner."""
    with closing(migrated(postgres_dsn)) as connection:
        fill(connection)
        connection.execute("CREATE SCHEMA mine")
        for statement in LENT:
            connection.execute(statement)
        yield connection


@pytest.fixture(params=["its owner", "a role that may insert"])
def forger(
    request: pytest.FixtureRequest, owner: Connection, postgres_server: Server, postgres_dsn: str
) -> Iterator[Connection]:
    """A connection of the ledger's owner, or of the documented role."""
    if request.param == "its owner":
        yield owner
        return
    with granted_role(owner) as role:
        owner.execute(f"GRANT ALL ON SCHEMA mine TO {role}")
        dsn = postgres_server.dsn(database_name(postgres_dsn), role)
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            yield connection


def statement(into: str, *rows: Row) -> str:
    """An INSERT of rows that have the same columns."""
    values = ", ".join(f"({', '.join(map(literal, row.values()))})" for row in rows)
    return f"INSERT INTO {into} ({', '.join(rows[0])}) VALUES {values}"


def literal(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value)


@pytest.mark.parametrize("planted", [False, True], ids=["", "with its own in front"])
@pytest.mark.parametrize("writer", ["set", "guard", ""])
def test_no_word_of_its_own_counts(
    owner: Connection, forger: Connection, writer: str, planted: bool
) -> None:
    """Whoever says of an entry that the guard has looked at it changes no table by it.

    Whatever it sets, whatever it calls itself, and in whose trigger.
    """
    forger.execute("SET search_path = public")
    if planted:
        for each in PLANTED:
            forger.execute(each)
        forger.execute("SET search_path = pg_temp, mine, pg_catalog, public")
    before = dump(owner)
    journal, lent = "public.freetier_journal", "public.lent"
    for into, once, seq, end in product((journal, lent), ("draw", "grant", "ending"), SEQS, ENDS):
        forger.execute(f"SET freetier.writer = '{writer}'")
        try:
            taken = forger.execute(statement(into, FORGED | {"seq": seq, "once": once}) + end)
        except psycopg.errors.UniqueViolation:
            assert writer == "set"
        else:
            assert taken.rowcount == 0
        assert dump(owner) == before
    owner.execute("SET search_path = public")
    proved(owner)


@pytest.mark.parametrize("seq", [LAST, LAST + 1, LAST + 2, LAST + 3])
@pytest.mark.parametrize("end", ENDS)
def test_no_row_before_it_vouches_for_it(
    owner: Connection, forger: Connection, seq: int, end: str
) -> None:
    """A right entry in the same statement is taken by itself, or fails with the forged one."""
    forger.execute("SET freetier.writer = 'set'")
    columns = dict.fromkeys(FORGED | GIFT, None)
    rows = [
        GIFT | {"seq": None},
        FORGED | {"seq": seq, "once": "draw"},
        GIFT | {"key": "more", "seq": 0},
        FORGED | {"key": "again", "seq": seq, "once": "draw"},
    ]
    try:
        forger.execute(
            statement("freetier_journal", *(columns | {"seq": 0} | row for row in rows)) + end
        )
    except psycopg.errors.UniqueViolation:
        assert seq <= LAST + 2
    else:
        assert proved(owner).entries == LAST + 2
    drawn = owner.execute("SELECT FROM freetier_journal WHERE identity = 'eve'")
    assert drawn.rowcount == 0
    proved(owner)


@pytest.mark.parametrize("writer", ["set", "guard", ""])
def test_a_right_entry_is_filled_in_as_ever(
    owner: Connection, forger: Connection, writer: str
) -> None:
    """What is right is taken under any setting, with the guard's own figures."""
    forger.execute(f"SET freetier.writer = '{writer}'")
    ((seq, once, balance),) = forger.execute(
        statement("freetier_journal", GIFT | {"seq": 77, "once": "draw"})
        + " RETURNING seq, once, balance_sats"
    )
    assert (seq, once, balance) == (LAST + 1, "donation", 934)
    proved(owner)


def test_the_place_of_a_dropped_row(owner: Connection, postgres_server: Server) -> None:
    """Where a host's trigger has dropped a row, a role that may insert does not fill its place."""
    owner.execute(
        "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    owner.execute(
        "CREATE TRIGGER zz_mine BEFORE INSERT ON freetier_journal"
        " FOR EACH ROW EXECUTE FUNCTION drop_it()"
    )
    owner.execute(statement("freetier_journal", GIFT | {"seq": 0}))
    owner.execute("DROP TRIGGER zz_mine ON freetier_journal")
    before = dump(owner)
    ((counted,),) = owner.execute("SELECT seq FROM freetier_pool")
    assert counted == LAST + 1  # and the journal has LAST
    with granted_role(owner) as role:
        dsn = postgres_server.dsn(owner.info.dbname, role)
        with closing(psycopg.connect(dsn, autocommit=True)) as forger:
            forger.execute("SET freetier.writer = 'set'")
            forged = FORGED | {"seq": LAST + 1, "once": "draw"}
            assert forger.execute(statement("freetier_journal", forged)).rowcount == 0
    assert dump(owner) == before

"""The guard of sets on Postgres: many draws as one row, with the answers of one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freetier import _sql
from freetier._sql import Query
from freetier._sql_many import DRAW_MANY, asked
from freetier.entries import Kind
from freetier.repository import Deposit, Ending

from .hand_written import MINUTE_US, NOON, NOON_US, Row
from .postgres_by_hand import (
    Connection,
    OnTheBusyLedger,
    as_one,
    draw,
    dump,
    migrated,
    one_by_one,
    proved,
    run,
)
from .postgres_server import Server, database_name
from .test_postgres_tampering import REFUSING, TAMPERING

DAY_US = 1440 * MINUTE_US
ROWS, SETS = "rows", "sets"
"""The schemas of the twins."""


def gate(key: str, now_us: int = NOON_US) -> Query[bool]:
    params: Row = {"pool": "main", "now_us": now_us, "key": key, "identity": "ada", "tier": "new"}
    noted = params | {"price_sats": 7, "bound_by": "budget", "rooms": "{}", "resets_at_us": None}
    return Query(_sql.NOTE_GATE, noted, bool)


@pytest.fixture(scope="module")
def twins(postgres_server: Server) -> Iterator[Connection]:
    """A connection to a database with two empty ledgers."""
    dsn = postgres_server.create()
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        for schema in (ROWS, SETS):
            connection.execute(f"CREATE SCHEMA {schema}")
            migrated(dsn, schema).close()
        yield connection
    postgres_server.drop(database_name(dsn))


KEYS = [f"job-{number}" for number in range(40)]
AT: st.SearchStrategy[int] = st.sampled_from([0, 0, 1, -50, MINUTE_US, DAY_US // 3])
DRAWS = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "identity": st.sampled_from(["ada", "Änne", "eve"]),
            "tier": st.sampled_from(["new", "elite"]),
            "absorb_sats": st.integers(1, 60),
            "charge_sats": st.sampled_from([0, 3]),
            "day": st.sampled_from([0] * 9 + [-1, 1]),
            "expires_at_us": st.sampled_from([None, None, *[15 * MINUTE_US] * 6, 1, 0, -5, DAY_US]),
        },
        optional={
            "budget_sats": st.sampled_from([0, 5, 100, 200]),
            "tier_ceiling_sats": st.sampled_from([0, 50, 200]),
            "release_sats": st.sampled_from([0, 100, 300]),
            "floor_sats": st.sampled_from([1, 100, 300, 1000]),
            "pool_share_bp": st.sampled_from([0, 1, 500, 3333, 10_000]),
        },
    ),
    min_size=1,
    max_size=12,
)
STEPS = st.lists(
    st.tuples(
        AT,
        st.one_of(
            *[DRAWS] * 3,
            st.tuples(st.sampled_from(["gate", "release", "expire"]), st.sampled_from(KEYS)),
            st.integers(1, 400),
        ),
    ),
    min_size=2,
    max_size=8,
)


def batch(now_us: int, figures: Sequence[Row]) -> list[Query[Any]]:
    """Draws whose days and expiries are told as from `now_us`."""
    found = []
    for each in figures:
        expires_in = each["expires_at_us"]
        at = {"now_us": now_us, "day": now_us // DAY_US + each["day"]}
        if expires_in is None:
            at |= {"kind": "grant", "expires_at_us": None}
        else:
            at |= {"expires_at_us": now_us + expires_in}
        found.append(draw(**each | at))
    return found


def other(number: int, now_us: int, step: tuple[str, str] | int) -> Query[Any]:
    """A gift of so many sats, a gate that is noted, or an ending."""
    at = NOON + timedelta(microseconds=now_us - NOON_US)
    if isinstance(step, int):
        return _sql.deposit(Deposit(Kind.DONATION, f"gift-{number}", step), at)
    what, key = step
    return gate(key, now_us) if what == "gate" else _sql.end(Ending(Kind(what), key, at))


class TestEqual:
    """A batch against the same draws one by one, on a twin."""

    @settings(max_examples=200)
    @given(STEPS)
    def test_each_gets_the_answer_of_one_by_one(
        self, twins: Connection, steps: list[tuple[int, Any]]
    ) -> None:
        """Whatever comes in one batch gets the answers, and leaves the tables, of one by one."""
        now_us = NOON_US
        with twins.transaction(force_rollback=True):
            for schema in (ROWS, SETS):
                one_by_one(twins, [other(-1, now_us, 300)], schema)
            for number, (later_us, step) in enumerate(steps):
                now_us += later_us
                queries = (
                    batch(now_us, step) if isinstance(step, list) else [other(number, now_us, step)]
                )
                ask = as_one if isinstance(step, list) else one_by_one
                assert ask(twins, queries, SETS) == one_by_one(twins, queries, ROWS)
                found, expected = dump(twins, SETS), dump(twins, ROWS)
                assert [table for table in found if found[table] != expected[table]] == []
            proved(twins, SETS)


LIMITED: list[tuple[str, list[Row], str]] = [
    ("the pool", [{"absorb_sats": 500}, {"absorb_sats": 374}, {"absorb_sats": 373}], "101"),
    ("the floor", [{"floor_sats": 872}, {"floor_sats": 872}, {"floor_sats": 871}], "101"),
    ("a share", [{"pool_share_bp": 100, "absorb_sats": 8}] * 10, "1111111111"),
    ("a share of less", [{"pool_share_bp": 1000, "absorb_sats": n} for n in (87, 79, 78)], "101"),
    ("a budget", [{"budget_sats": 2}, {"budget_sats": 2}, {"budget_sats": 2}], "110"),
    ("a used budget", [{"identity": "ab", "budget_sats": 122}] * 3, "110"),
    ("a ceiling", [{"tier": "elite", "tier_ceiling_sats": 2}] * 3, "110"),
    ("a release", [{"release_sats": 199}] * 3, "110"),
    ("one key", [{"key": "one"}, {"key": "one"}, {"key": "other"}], "101"),
    ("a known key", [{"key": "held"}, {"key": "settled"}, {"key": "gated"}, {}], "0001"),
    ("a budget that another's grant leaves", [{"budget_sats": 0}, {}], "01"),
]
WRONG: list[Row] = [
    {"kind": "seed"},
    {"kind": None},
    {"kind": "grant"},  # and has an expiry
    {"kind": "reserve", "expires_at_us": None},
    {"key": ""},
    {"key": None},
    {"key": "x" * 257},
    {"identity": ""},
    {"identity": None},
    {"tier": None},
    {"tier": "x" * 257},
    {"day": None},
    {"absorb_sats": 0},
    {"absorb_sats": None},
    {"absorb_sats": 2_100_000_000_000_001},
    {"charge_sats": -1},
    {"price_sats": 2},
    {"price_sats": None},
    {"budget_sats": None},
    {"floor_sats": -1},
    {"floor_sats": None},
    {"pool_share_bp": -1},
    {"pool_share_bp": 10_001},
    {"rooms": "x"},
    {"rooms": None},
    {"resets_at_us": -1},
    {"expires_at_us": -1},
    {"expires_at_us": 253_402_300_800_000_000},
]
LONGER = ["keys", "rooms", "expires_at_us", "tier_ceilings_sats", "releases_sats", "bounds_by"]


class TestGuardOfSets(OnTheBusyLedger):
    """On the busy ledger: 933 sats, of which 60 are held."""

    @pytest.mark.parametrize(("wanted", "figures", "taken"), LIMITED)
    def test_a_limit_is_exact(
        self, books: Connection, wanted: str, figures: list[Row], taken: str
    ) -> None:
        """To the sat, and in order of arrival, those are taken that still fit in their turn."""
        draws = [draw(**{"key": f"{number}"} | each) for number, each in enumerate(figures)]
        assert [bool(rows) for rows in as_one(books, draws)] == [each == "1" for each in taken]
        proved(books)

    @pytest.mark.parametrize("wrong", WRONG, ids=str)
    def test_a_draw_that_could_never_be_right(self, books: Connection, wrong: Row) -> None:
        """It is an error, by itself and among right ones, and nothing of them is written."""
        before = dump(books)
        draws = [draw("before"), draw(**{"key": "wrong"} | wrong), draw("after")]
        with pytest.raises(psycopg.IntegrityError) as alone, books.transaction():
            one_by_one(books, draws[1:2])
        with pytest.raises(psycopg.errors.CheckViolation, match=REFUSING), books.transaction():
            as_one(books, draws)
        assert alone.value.sqlstate == "23514"
        assert dump(books) == before

    @pytest.mark.parametrize("array", LONGER)
    def test_figures_of_nobody(self, books: Connection, array: str) -> None:
        """An array with more figures than there are draws is an error."""
        text, asked_for = asked([draw("one"), draw("other")])
        params = dict[str, Any](asked_for)
        assert text == DRAW_MANY
        more = [*params[array], None]
        before = dump(books)
        with pytest.raises(psycopg.errors.CheckViolation, match=REFUSING), books.transaction():
            run(books, text, {**params, array: more})
        assert dump(books) == before

    @pytest.mark.parametrize("statement", TAMPERING)
    def test_the_setting_of_the_guard_lets_nobody_write(
        self, books: Connection, statement: str
    ) -> None:
        """Whoever makes the guard's setting moves nothing that stands or follows by it."""
        before = dump(books)
        books.execute("SET LOCAL freetier.writer = 'set'")
        with pytest.raises(psycopg.IntegrityError, match=REFUSING), books.transaction():
            books.execute(statement)
        assert dump(books) == before

    def test_a_hosts_trigger_that_drops_an_entry(self, books: Connection) -> None:
        """A batch of which the journal does not take an entry is an error, not a gap."""
        books.execute(
            "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF NEW.key = ''two'' THEN RETURN NULL; END IF; RETURN NEW; END'"
        )
        books.execute(
            "CREATE TRIGGER z_away BEFORE INSERT ON freetier_journal"
            " FOR EACH ROW EXECUTE FUNCTION away()"
        )
        before = dump(books)
        with pytest.raises(psycopg.errors.CheckViolation, match="did not"), books.transaction():
            as_one(books, [draw("one"), draw("two"), draw("three")])
        assert dump(books) == before
        assert as_one(books, [draw("one"), draw("three")]) != [[], []]
        proved(books)

    def test_a_pool_that_was_changed_takes_no_batch(self, books: Connection) -> None:
        """If the pool is not the sum of its entries, however that came about, the guard says so."""
        books.execute("SET LOCAL session_replication_role = replica")
        books.execute("UPDATE freetier_pool SET balance_sats = balance_sats + 1")
        books.execute("SET LOCAL session_replication_role = origin")
        with pytest.raises(psycopg.IntegrityError, match="did not follow"), books.transaction():
            as_one(books, [draw("one")])

    def test_no_such_pool(self, books: Connection) -> None:
        """In a pool that there is not, every draw is refused."""
        assert as_one(books, [draw("one", pool="other"), draw("two", pool="other")]) == [[], []]


IDENTITIES, SHARED = 12, [f"shared-{number}" for number in range(400)]
GIVEN = 600


def draw_in_sets(dsn: str, me: int, size: int) -> list[str]:
    """Draw batch after batch, for requests of one's own and for the others'; what was taken."""
    chance, taken = random.Random(me), []
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        for turn in range(480 // size):
            keys = [
                chance.choice(SHARED) if chance.random() < 0.5 else f"{me}-{turn}-{number}"
                for number in range(size)
            ]
            draws = [
                draw(key, identity=f"{chance.randrange(IDENTITIES)}", budget_sats=55, floor_sats=9)
                for key in keys
            ]
            ask = one_by_one if size == 1 else as_one
            taken += [key for key, rows in zip(keys, ask(connection, draws), strict=True) if rows]
    return taken


def note_gates(dsn: str) -> list[str]:
    chance = random.Random("gates")
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        keys = [chance.choice(SHARED) for _ in range(300)]
        return [key for key in keys if one_by_one(connection, [gate(key)])[0]]


def test_a_race(postgres_dsn: str) -> None:
    """Batches, single draws and gates that want the same are exact: one answer each, no sat more.

    None of them is the victim of a deadlock.
    """
    with closing(migrated(postgres_dsn)) as connection, ThreadPoolExecutor(4) as threads:
        one_by_one(connection, [_sql.deposit(Deposit(Kind.DONATION, "gift", GIVEN), NOON)])
        begun = [
            threads.submit(draw_in_sets, postgres_dsn, me, size)
            for me, size in enumerate((24, 40, 1))
        ]
        gates = threads.submit(note_gates, postgres_dsn).result()
        taken = [key for future in begun for key in future.result()]
        assert len(set(taken)) == len(taken) == GIVEN - 9
        assert set(taken).isdisjoint(gates)
        drawn = connection.execute("SELECT key FROM freetier_journal WHERE once = 'draw'")
        assert {key for (key,) in drawn} == set(taken)
        proved(connection)

"""The guard on Postgres, of two who write at once: whoever waited looks at what is there now."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from time import sleep

import psycopg
import pytest

from freetier.migrations import statements
from freetier.postgres import PostgresRepository

from .hand_written import MINUTE_US, NOON, NOON_US, TODAY, Row, busy_ledger, proposal
from .postgres_by_hand import Connection, as_one, draw, fill, migrated, proved, written

Work = Callable[[Connection], object]

IMPATIENT = "SET lock_timeout = '1s'"
"""For what must not wait: to wait is then an error."""
TOMORROW = {"at_us": NOON_US + 1440 * MINUTE_US}
GATE: Row = {"pool": "main", "key": "new", "at_us": NOON_US, "day": TODAY, "identity": "ab"}
GATE |= {"tier": "new", "price_sats": 7, "bound_by": "budget", "rooms": "{}"}


@pytest.fixture
def source() -> Iterator[sqlite3.Connection]:
    """The busy ledger on SQLite: what anybody reads who reads before the others are done."""
    connection, _ = busy_ledger()
    with closing(connection):
        yield connection


@pytest.fixture
def first(postgres_dsn: str) -> Iterator[Connection]:
    """A connection to the busy ledger on Postgres."""
    with closing(migrated(postgres_dsn)) as connection:
        fill(connection)
        yield connection


@pytest.fixture
def second(first: Connection, postgres_dsn: str) -> Iterator[Connection]:
    """Another one."""
    with closing(psycopg.connect(postgres_dsn, autocommit=True)) as connection:
        yield connection


def meet(first: Connection, second: Connection, one: Work, other: Work, *, kept: bool) -> object:
    """What the other came to, which waited for the one to be kept or rolled back."""
    blocked = f"SELECT cardinality(pg_blocking_pids({second.info.backend_pid})) > 0"
    with ThreadPoolExecutor(1) as thread:
        with first.transaction(force_rollback=not kept):
            assert one(first)
            future = thread.submit(other, second)
            while first.execute(blocked).fetchone() != (True,):
                assert not future.done()
                sleep(0.001)
        return future.result()


def taken(connection: Connection, row: Row, table: str = "freetier_journal") -> bool:
    """Whether the row was taken, or refused without an error."""
    return written(connection, row, table) is not None


def entry(source: sqlite3.Connection, kind: str, changes: Row) -> Work:
    return partial(taken, row=proposal(source, kind, changes))


def gate(**changes: str) -> Work:
    return partial(taken, row=GATE | changes, table="freetier_gate")


def batch(connection: Connection) -> bool:
    """Whether the second of two draws was taken, which are drawn as one."""
    return bool(as_one(connection, [draw("another"), draw("new")])[1])


def sweep(connection: Connection) -> int:
    return PostgresRepository(connection).sweep(NOON + timedelta(hours=1))


# Two entries that look right to those who write them, and of which there is room for one.
ONE_OF_TWO: list[tuple[str, tuple[str, Row], tuple[str, Row]]] = [
    ("the same request", ("reserve", {}), ("reserve", {})),
    ("the same request, settled at once", ("reserve", {}), ("grant", {})),
    *(
        (wanted, ("reserve", {"key": "one"} | limit), ("reserve", {"key": "other"} | limit))
        for wanted, limit in (
            ("a fresh identity's budget", {"identity": "gh", "budget_sats": 119}),
            ("the rest of a budget", {"budget_sats": 239}),
            ("a fresh tier's ceiling", {"tier": "elite", "tier_ceiling_sats": 119}),
            ("the rest of a ceiling", {"tier_ceiling_sats": 316}),
            ("the day's release", {"release_sats": 316}),
            ("the share of what is available", {"pool_share_bp": 688}),
            ("what is above the floor", {"floor_sats": 754}),
        )
    ),
    ("the same donation", ("donation", {}), ("donation", {})),
    ("the same payment", ("credit", {}), ("credit", {})),
    (
        "what is not reserved",
        ("adjustment", {"balance_change": -500, "key": "one"}),
        ("adjustment", {"balance_change": -500, "key": "other"}),
    ),
    ("the ending", ("settle", {}), ("release", {})),
    ("the late settlement", ("late", {}), ("late", {})),
    ("the day", ("donation", TOMORROW), ("grant", {})),
    ("the time to settle", ("donation", TOMORROW), ("settle", {})),
]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("wanted", "one", "other"), ONE_OF_TWO)
def test_one_of_two(
    first: Connection,
    second: Connection,
    source: sqlite3.Connection,
    wanted: str,
    one: tuple[str, Row],
    other: tuple[str, Row],
    kept: bool,
) -> None:
    """Of two who want the last of something, the second waits, and gets it if it is left."""
    got = meet(first, second, entry(source, *one), entry(source, *other), kept=kept)
    assert got == (not kept)
    proved(first)


def test_a_credit_meanwhile(
    first: Connection, second: Connection, source: sqlite3.Connection
) -> None:
    """An entry that waited starts from the balance and the carry that it finds then."""
    paid = {"paid_sats": 77}
    credits = (entry(source, "credit", paid | {"key": key}) for key in ("one", "other"))
    assert meet(first, second, *credits, kept=True)
    found = first.execute(
        "SELECT balance_change, credit_carry, balance_sats FROM freetier_journal"
        " WHERE kind = 'credit' ORDER BY seq"
    ).fetchall()
    # 55, 77 and 77 at a tenth: 5.5, then 7.7 and 7.7.
    assert found == [(5, 5000, 1005), (8, 2000, 941), (7, 9000, 948)]
    proved(first)


def test_sats_that_come_meanwhile(
    first: Connection, second: Connection, source: sqlite3.Connection
) -> None:
    """What was short when the writer looked is taken if it fits when it is the writer's turn."""
    given = entry(source, "donation", {"balance_change": 100})
    taken = entry(source, "adjustment", {"balance_change": -973})
    assert meet(first, second, given, taken, kept=True)
    assert proved(first).balance_sats == 60


@pytest.mark.parametrize("kept", [True, False])
def test_a_sweep_by_two(first: Connection, second: Connection, kept: bool) -> None:
    """Two who sweep the same grants expire each once."""
    assert meet(first, second, sweep, sweep, kept=kept) == (0 if kept else 1)
    proved(first)


TWO_ANSWERS = [
    *("gate, draw", "draw, gate", "gate, gate"),
    *("gate, batch", "batch, gate", "draw, batch", "batch, draw", "batch, batch"),
]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("answers", TWO_ANSWERS)
def test_a_request_is_gated_or_drawn_for(
    first: Connection, second: Connection, source: sqlite3.Connection, answers: str, kept: bool
) -> None:
    """A gate and a draw of one request wait for each other; the first answer stands.

    Also where the draw is one of a batch.
    """
    work = {"gate": gate(), "draw": entry(source, "reserve", {}), "batch": batch}
    one, other = (work[answer] for answer in answers.split(", "))
    assert meet(first, second, one, other, kept=kept) == (not kept)
    proved(first)


def test_a_gate_waits_for_no_other_request(
    first: Connection, second: Connection, source: sqlite3.Connection
) -> None:
    """While somebody has the pool's row, and notes a gate, others note gates and draw."""
    second.execute(IMPATIENT)
    with first.transaction():
        assert gate(key="one")(first)
        assert gate(key="other")(second)
        assert entry(source, "reserve", {"key": "third"})(second)
        assert entry(source, "reserve", {"identity": "gh"})(first)
        assert gate(key="fourth")(second)


def test_ledgers_do_not_wait_for_each_other(first: Connection, second: Connection) -> None:
    """In two schemas of one database, the same request is two requests."""
    first.execute("CREATE SCHEMA other")
    for statement in statements("postgres", "other"):
        first.execute(statement)
    second.execute(IMPATIENT)
    with first.transaction():
        assert gate()(first)
        assert taken(second, GATE, "other.freetier_gate")

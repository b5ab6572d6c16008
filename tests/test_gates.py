"""Gates: noted beside the journal, and guarded there as well."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from freetier import FreeTier, FreeTierPolicy, IntegrityError, Request, Serve
from freetier.memory import MemoryRepository
from freetier.testing import Clock

from .hand_written import busy_ledger, insert, proposal


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection, _ = busy_ledger()
    with closing(connection):
        yield connection


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"])
@pytest.mark.parametrize("key", ["gated", "held", "settled", "granted"])
def test_a_request_has_one_answer(connection: sqlite3.Connection, verb: str, key: str) -> None:
    """By hand, too, no gate is noted for a request that was noted or drawn for."""
    before = list(connection.iterdump())
    row = ("main", key, 1, 1, "ab", "new", 7, "budget", "{}", None)
    connection.execute(f"{verb} INTO freetier_gate VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert list(connection.iterdump()) == before


@pytest.mark.parametrize("verb", ["UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"])
def test_a_gate_stands(connection: sqlite3.Connection, verb: str) -> None:
    """What was noted is not changed; it may be pruned."""
    before = list(connection.iterdump())
    with suppress(sqlite3.IntegrityError):
        connection.execute(f"{verb} freetier_gate SET price_sats = 1, key = 'held'")
    assert list(connection.iterdump()) == before
    assert connection.execute("DELETE FROM freetier_gate").rowcount == 1


def test_a_gate_writes_no_entry() -> None:
    """A gate does not sweep: it must not wait for the pool's row."""
    clock = Clock()
    policy = FreeTierPolicy(seed_sats=100)
    for request in (Request("gate", None, "new", 5), Request("gate", "eve", "new", 5)):
        ledger = FreeTier(policy, MemoryRepository(), clock=clock)
        ledger.seed()
        ledger.reserve(Request("job", "ada", "trusted", 50))
        clock.advance(hours=1)
        entries = list(ledger.journal())
        assert ledger.reserve(request).decision.serve is Serve.GATE
        assert list(ledger.journal()) == entries


def test_a_new_pool_is_empty(connection: sqlite3.Connection) -> None:
    """A pool begins with nothing in any total."""
    for row in connection.execute("PRAGMA table_info(freetier_pool)").fetchall():
        if row[1] != "pool":
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(f"INSERT INTO freetier_pool (pool, {row[1]}) VALUES ('x', 1)")
    connection.execute("INSERT INTO freetier_pool (pool) VALUES ('x')")


def test_text_that_is_none() -> None:
    """Bytes that are no text, written by hand, are a matter of integrity: no set-up mends them."""
    connection, ledger = busy_ledger()
    with closing(connection):
        assert insert(connection, proposal(connection, "donation"))
        changes = {"note": "x", "key": "odd"}
        row = proposal(connection, "donation", changes)
        names = ", ".join(row)
        values = ", ".join("CAST(x'ff' AS TEXT)" if name == "note" else f":{name}" for name in row)
        connection.execute(f"INSERT INTO freetier_journal ({names}) VALUES ({values})", row)
        with pytest.raises(IntegrityError, match="decode"):
            ledger.verify()

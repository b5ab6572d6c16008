"""What stays on Postgres, and what follows, whoever writes: the owner of the tables included."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest

from .postgres_by_hand import (
    Connection,
    OnTheBusyLedger,
    dump,
    insert,
    proved,
)

REFUSING = "freetier: "
TAMPERING = [
    "UPDATE freetier_journal SET note = 'x' WHERE seq = 3",
    "UPDATE freetier_journal SET note = 'x' WHERE FALSE",
    "DELETE FROM freetier_journal WHERE seq = 14",
    "TRUNCATE freetier_journal",
    "TRUNCATE freetier_gate, freetier_journal",
    "INSERT INTO freetier_journal SELECT * FROM freetier_journal WHERE seq = 3"
    " ON CONFLICT (pool, key, once) DO UPDATE SET balance_change = 6",
    "UPDATE freetier_gate SET price_sats = 1",
    "INSERT INTO freetier_gate SELECT * FROM freetier_gate"
    " ON CONFLICT (pool, key) DO UPDATE SET price_sats = 1",
    "TRUNCATE freetier_gate",
    "UPDATE freetier_pool SET balance_sats = 5000, donation_sats = 4072",
    "UPDATE freetier_pool SET seq = seq + 1",
    "DELETE FROM freetier_pool",
    "TRUNCATE freetier_pool",
    "INSERT INTO freetier_pool (pool) VALUES ('other')",
    "UPDATE freetier_usage SET used_sats = 0",
    "DELETE FROM freetier_usage",
    "TRUNCATE freetier_usage",
    "INSERT INTO freetier_usage VALUES ('main', 1, 'tier', 'elite', 1)",
    "UPDATE freetier_open SET absorb_sats = 1",
    "DELETE FROM freetier_open",
    "TRUNCATE freetier_open",
    "INSERT INTO freetier_open VALUES ('main', 1, 'job', 1)",
]


class TestTampering(OnTheBusyLedger):
    """Every other way to change a table, as their owner."""

    @pytest.mark.parametrize("statement", TAMPERING)
    def test_what_is_written_stays(self, books: Connection, statement: str) -> None:
        """Facts stand, and what follows from them is moved by the guard alone, not by the owner."""
        before = dump(books)
        with pytest.raises(psycopg.IntegrityError, match=REFUSING), books.transaction():
            books.execute(statement)
        assert dump(books) == before

    @pytest.mark.parametrize("statement", TAMPERING)
    def test_a_hosts_own_trigger_is_not_the_guard(self, books: Connection, statement: str) -> None:
        """What a trigger of the host writes is refused as well, on a session as the guard's."""
        books.execute("SET enable_seqscan = off")
        books.execute("CREATE TABLE job (id TEXT)")
        body = f"BEGIN {statement}; RETURN NEW; END"
        books.execute(
            f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $meddle${body}$meddle$"
        )
        books.execute(
            "CREATE TRIGGER meddle BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION meddle()"
        )
        before = dump(books)
        with pytest.raises(psycopg.IntegrityError, match=REFUSING), books.transaction():
            books.execute("INSERT INTO job VALUES ('x')")
        assert dump(books) == before

    @pytest.mark.parametrize("statement", TAMPERING)
    def test_no_search_path_lets_it_pass(self, books: Connection, statement: str) -> None:
        """Operators that come before Postgres' own, and always say yes, change no answer."""
        books.execute("CREATE SCHEMA mine")
        for operator, kind in ((">", "int"), ("=", "text"), ("=", "name")):
            name = f"mine.yes_{kind}"
            books.execute(
                f"CREATE OR REPLACE FUNCTION {name}({kind}, {kind}) RETURNS bool"
                " LANGUAGE sql AS 'SELECT true'"
            )
            books.execute(
                f"CREATE OPERATOR mine.{operator} (FUNCTION = {name},"
                f" LEFTARG = {kind}, RIGHTARG = {kind})"
            )
        books.execute("SET search_path = mine, public, pg_catalog")
        before = dump(books)
        with pytest.raises(psycopg.IntegrityError, match=REFUSING), books.transaction():
            books.execute(statement)
        assert dump(books) == before

    def test_a_pool_that_was_changed_takes_no_entry(
        self, books: Connection, source: sqlite3.Connection
    ) -> None:
        """If the pool is not the sum of its entries, however that came about, the guard says so."""
        books.execute("SET LOCAL session_replication_role = replica")
        books.execute("UPDATE freetier_pool SET balance_sats = balance_sats + 1")
        books.execute("SET LOCAL session_replication_role = origin")
        with pytest.raises(psycopg.IntegrityError, match="did not follow"), books.transaction():
            books.execute(
                "INSERT INTO freetier_journal"
                " (pool, kind, key, at_us, balance_change, reserved_change, used_change)"
                " VALUES ('main', 'donation', 'x', 0, 1, 0, 0)"
            )

    def test_gates_may_be_pruned(self, books: Connection) -> None:
        """A gate that was noted can be deleted, and is then decided anew."""
        assert books.execute("DELETE FROM freetier_gate").rowcount == 1
        proved(books)

    @pytest.mark.parametrize("key", ["gated", "held", "settled", "granted"])
    def test_a_request_has_one_answer(self, books: Connection, key: str) -> None:
        """By hand, too, no gate is noted for a request that was noted or drawn for."""
        gate = {"pool": "main", "key": key, "at_us": 1, "day": 1, "identity": "ab", "tier": "new"}
        gate |= {"price_sats": 7, "bound_by": "budget", "rooms": "{}"}
        before = dump(books)
        assert not insert(books, gate, "freetier_gate")
        assert dump(books) == before
        assert insert(books, gate | {"key": "unheard of"}, "freetier_gate")

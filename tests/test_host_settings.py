"""A ledger on a host's own connection sends entries and reads, and leaves the host's settings."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.rows import dict_row, namedtuple_row, scalar_row

from freetier import ConfigError, FreeTier, Request

from .host_connections import KINDS, ON_SQLITE, EveryConnection, EveryPostgresConnection, Host

OURS = re.compile(
    r'(execute <unnamed>: )?\s*(SELECT|INSERT INTO ("public"\.)?freetier_(journal|gate))\b'
)
TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'job'
"""


def use(ledger: FreeTier, number: int = 0) -> None:
    """Everything that a host does with a ledger."""
    job = Request(f"job-{number}", "ada", "trusted", 12)
    assert ledger.decide(job).absorb_sats == 12
    assert ledger.reserve(job).absorb_sats == 12
    assert ledger.reserve(job).absorb_sats == 12
    assert ledger.settle(f"job-{number}", 9).refund_sats == 0
    assert ledger.record_grant(Request(f"chat-{number}", "ada", "trusted", 3)).absorb_sats == 3
    ledger.reserve(Request(f"off-{number}", "ada", "trusted", 3))
    assert ledger.release(f"off-{number}").absorb_sats == 3
    assert ledger.reserve(Request(f"gate-{number}", "bob", "new", 3)).absorb_sats == 0
    assert ledger.credit(f"payment-{number}", 70).credited_sats == 7
    assert ledger.donate(f"gift-{number}", 5, sponsor="Zoë").sponsor == "Zoë"
    assert ledger.adjust(f"slip-{number}", -5, note="a slip").balance_change == -5
    assert ledger.sweep() == 0
    assert ledger.pool_status().gated_today == number + 1
    assert ledger.grant(f"job-{number}").identity == "ada"
    assert ledger.verify().ok


@contextmanager
def watched(host: Host) -> Iterator[list[str]]:
    """What the database is asked meanwhile on the host's connection, in its own words."""
    said: list[str] = []
    driver = host.driver
    if hasattr(driver, "set_trace_callback"):
        host.wait(driver.set_trace_callback(said.append))
        yield said
        host.wait(driver.set_trace_callback(None))
        said[:] = [text for text in said if not text.startswith("--")]  # a trigger's, not asked
        return
    if isinstance(driver, asyncpg.Connection):
        driver.add_log_listener(lambda _, message: said.append(message.message))
    else:
        driver.add_notice_handler(lambda message: said.append(message.message_primary))
    host.execute("SET LOCAL client_min_messages = log")
    host.execute("SET LOCAL log_statement = 'all'")
    yield said
    host.execute("SET LOCAL log_statement = 'none'")
    host.execute("SELECT 'delivers what was said before'")
    assert said.pop().endswith("'none'")


class TestStatements(EveryConnection):
    """What the database hears from the library on a connection that is not its own."""

    def test_entries_and_reads_alone(self, kind: str, host: Host) -> None:
        """No BEGIN, no COMMIT, no PRAGMA, no SET, and nothing that is prepared under a name."""
        host.begin()
        host.execute("INSERT INTO job VALUES ('job')")  # where a driver begins unasked, it has
        with watched(host) as said:
            for number in range(8):  # psycopg prepares what it sees for the sixth time
                use(host.ledger, number)
        assert len(said) > 8 * 20
        assert [text for text in said if not OURS.match(text)] == []
        if kind not in ON_SQLITE:
            prepared = "SELECT name FROM pg_prepared_statements WHERE statement ~ 'freetier[_]'"
            assert host.execute(prepared) == []
        host.rollback()


class TestSession(EveryPostgresConnection):
    """A session on a server."""

    def test_variables(self, host: Host) -> None:
        """Every variable of the session is what it was, in the transaction and after it."""
        settings = "SELECT name, setting FROM pg_settings ORDER BY name"
        host.begin()
        host.execute("DO 'BEGIN END'")  # the language's own variables come with its first use
        before = host.execute(settings)
        use(host.ledger)
        assert host.execute(settings) == before
        host.commit()
        host.begin()
        assert host.execute(settings) == before
        host.rollback()

    @pytest.mark.parametrize("path", ["decoy", "decoy, public", "''"])
    def test_search_path(self, host: Host, path: str) -> None:
        """Tables of the same name that come first in the search path are not ours."""
        host.begin()
        host.execute("CREATE SCHEMA decoy")
        tables = [table for (table,) in host.execute(TABLES)]
        assert "freetier_pool" in tables
        for table in tables:
            host.execute(f"CREATE TABLE decoy.{table} (LIKE public.{table})")
        host.execute(f"SET search_path = {path}")
        before = host.execute("SHOW search_path")
        use(host.ledger)
        assert host.execute("SHOW search_path") == before
        for table in tables:
            assert host.execute(f"SELECT * FROM decoy.{table}") == []
        host.rollback()


class TestSQLite(EveryConnection):
    @pytest.fixture(params=["sqlite3", "aiosqlite"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.mark.parametrize("factory", [sqlite3.Row, lambda _, row: {"first": row[0]}])
    def test_row_factory(self, host: Host, factory: Any) -> None:
        """Rows are read as they are, whatever the host makes of its own."""
        host.connection.row_factory = factory
        level = host.connection.isolation_level
        use(host.ledger)
        host.commit()
        assert host.connection.row_factory is factory
        assert host.connection.isolation_level == level

    def test_text_factory(self, host: Host) -> None:
        """Where the host reads text as something else than `str`, a call is a ConfigError."""
        host.connection.text_factory = bytes
        with pytest.raises(ConfigError, match="text_factory"):
            host.ledger.reserve(Request("job", "ada", "trusted", 12))


class Shouting(Loader):
    """A host's own way to read a value."""

    def load(self, data: Any) -> str:
        return bytes(data).decode().upper() + "!"


class Mumbling(Dumper):
    """A host's own way to send a value."""

    def dump(self, obj: Any) -> bytes:
        raise AssertionError(obj)


class TestPsycopg(EveryConnection):
    @pytest.fixture(params=["psycopg", "psycopg-async"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.mark.parametrize("factory", [dict_row, namedtuple_row, scalar_row])
    def test_row_factory(self, host: Host, factory: Any) -> None:
        """Rows are read as they are, whatever the host makes of its own."""
        host.connection.row_factory = factory
        use(host.ledger)
        host.commit()
        assert host.connection.row_factory is factory

    @pytest.mark.parametrize("name", ["ClientCursor", "RawCursor"])
    def test_cursor_factory(self, kind: str, host: Host, name: str) -> None:
        """Cursors are the library's own kind, and the host's stays the host's."""
        factory = getattr(psycopg, f"Async{name}" if kind == "psycopg-async" else name)
        host.connection.cursor_factory = factory
        use(host.ledger)
        host.commit()
        assert host.connection.cursor_factory is factory

    @pytest.mark.parametrize("value", ["int8", "text"])
    def test_loaders(self, host: Host, value: str) -> None:
        """Values are read as they are, whatever the host makes of its own."""
        host.connection.adapters.register_loader(value, Shouting)
        use(host.ledger)
        host.commit()
        assert host.execute(f"SELECT CAST('1' AS {value})") == [("1!",)]
        host.rollback()

    @pytest.mark.parametrize("kind_of_value", [int, str])
    def test_dumpers(self, host: Host, kind_of_value: type) -> None:
        """Values are sent as they are, whatever the host makes of its own."""
        host.connection.adapters.register_dumper(kind_of_value, Mumbling)
        use(host.ledger)
        host.commit()

    def test_attributes(self, host: Host) -> None:
        """Whether it commits by itself, at which level, and when it prepares: as it was."""
        names = ("autocommit", "isolation_level", "read_only", "deferrable", "prepare_threshold")
        before = [getattr(host.connection, name) for name in names]
        use(host.ledger)
        host.commit()
        assert [getattr(host.connection, name) for name in names] == before


class TestSQLAlchemy(EveryConnection):
    @pytest.fixture(params=[name for name in KINDS if "sqlalchemy" in name])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_options(self, host: Host) -> None:
        """Its options and its level of isolation are what they were."""
        connection = host.connection
        host.wait(connection.execution_options(isolation_level="SERIALIZABLE", mine=1))
        options = getattr(connection, "sync_connection", connection).get_execution_options
        before = options()
        use(host.ledger)
        assert options() == before
        assert host.wait(connection.get_isolation_level()) == "SERIALIZABLE"
        host.commit()

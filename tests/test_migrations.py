"""The schema on a host's own connection, of every kind: through `migrate`, or its own tool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy

import freetier
from freetier import InvalidInput, Request, SchemaError, migrations

from .host_connections import (
    ON_SQLITE,
    POLICY,
    EveryConnection,
    EveryPostgresConnection,
    Host,
    connected,
)

SCHEMAS = [None, "ledger", "select", """the "host's" own, 100 %s""", "зал"]

# Everything that a schema of Postgres is made of.
CATALOG = """
WITH here AS (SELECT oid FROM pg_namespace WHERE nspname = '{schema}'),
  tables AS (SELECT * FROM pg_class WHERE relnamespace = (SELECT oid FROM here))
SELECT concat_ws(' ', relkind, relname, reloptions, relacl) AS part FROM tables
UNION ALL SELECT concat_ws(' ', t.relname, attnum, attname, format_type(atttypid, atttypmod),
  attnotnull, attcollation::regcollation, pg_get_expr(adbin, adrelid))
  FROM tables AS t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL SELECT concat_ws(' ', t.relname, conname, pg_get_constraintdef(c.oid), convalidated)
  FROM tables AS t JOIN pg_constraint AS c ON conrelid = t.oid
UNION ALL SELECT pg_get_indexdef(oid) FROM tables WHERE relkind = 'i'
UNION ALL SELECT concat_ws(' ', pg_get_triggerdef(g.oid), tgenabled)
  FROM tables AS t JOIN pg_trigger AS g ON tgrelid = t.oid AND NOT tgisinternal
UNION ALL SELECT concat_ws(' ', pg_get_functiondef(oid), proacl)
  FROM pg_proc WHERE pronamespace = (SELECT oid FROM here)
ORDER BY part
"""


def dialect(kind: str) -> str:
    return "sqlite" if kind in ON_SQLITE else "postgres"


def catalog(host: Host, kind: str, schema: str | None = None) -> list[tuple[Any, ...]]:
    """Everything that the schema is made of; empty where there is none."""
    if kind in ON_SQLITE:
        return host.execute("SELECT name, sql FROM sqlite_master ORDER BY name")
    return host.execute(CATALOG.format(schema=(schema or "public").replace("'", "''")))


def is_sqlalchemy(host: Host) -> bool:
    return host.driver is not host.connection


def settings(host: Host, kind: str) -> list[Any]:
    """What a host has set on its connection."""
    connection = getattr(host.connection, "sync_connection", host.connection)
    options = connection.get_execution_options() if is_sqlalchemy(host) else {}
    names = ("isolation_level", "autocommit", "row_factory", "prepare_threshold")
    attributes = [getattr(host.driver, name, None) for name in names]
    if kind in ON_SQLITE:
        return [options, attributes]
    host.execute("DO 'BEGIN END'")  # the language's own variables come with its first use
    return [options, attributes, host.execute("SELECT name, setting FROM pg_settings ORDER BY 1")]


def run(host: Host, statement: str) -> None:
    """Run a statement as a host's migration tool does: Alembic's hands it to `text`."""
    if is_sqlalchemy(host):
        host.wait(host.connection.execute(sqlalchemy.text(statement)))
    else:
        host.execute(statement)


def begin(host: Host, kind: str) -> None:
    """Begin a transaction now: on SQLite, Python's driver waits for a row to be written."""
    host.begin()
    host.execute("BEGIN" if kind in ON_SQLITE else "SELECT 1")


class EveryEmptyDatabase(EveryConnection):
    @pytest.fixture
    def url(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """A database that has nothing in it."""
        if kind in ON_SQLITE:
            return str(tmp_path / "host.db")
        return str(request.getfixturevalue("postgres_dsn"))


class TestStatements(EveryEmptyDatabase):
    """The single statements, for a host's own migration tool."""

    @pytest.mark.parametrize("kept", [True, False])
    def test_one_by_one(self, kind: str, url: str, host: Host, kept: bool) -> None:
        """Each runs by itself in the host's transaction; then there is a ledger, or nothing."""
        begin(host, kind)
        for statement in migrations.statements(dialect(kind)):
            run(host, statement)
        if kept:
            host.commit()
            with freetier.open(url, POLICY) as ledger:
                assert ledger.reserve(Request("job", "ada", "trusted", 120)).absorb_sats == 120
                assert ledger.verify().entries == 2
        else:
            host.rollback()
            host.begin()
            assert catalog(host, kind) == []
            host.rollback()

    def test_a_version_at_a_time(self, kind: str, host: Host) -> None:
        """From each version on, `statements` and `migrate` lead to what a fresh ledger is."""
        name, latest = dialect(kind), migrations.latest(dialect(kind))
        begin(host, kind)
        for statement in migrations.statements(name):
            run(host, statement)
        fresh = catalog(host, kind)
        host.rollback()
        for reached in range(latest + 1):
            begin(host, kind)
            for version in range(reached):
                rest = len(migrations.statements(name, since=version + 1))
                whole = migrations.statements(name, since=version)
                for statement in whole[: len(whole) - rest]:
                    run(host, statement)
                found = host.execute("SELECT version FROM freetier_schema")
                assert found == [(version + 1,)]
            assert host.migrate() == latest
            assert catalog(host, kind) == fresh
            host.rollback()

    def test_what_is_no_version(self, kind: str) -> None:
        """A version that there is not is refused by name; from the latest on nothing is to do."""
        name = dialect(kind)
        assert migrations.statements(name, since=migrations.latest(name)) == []
        for since in (-1, migrations.latest(name) + 1, True, "1", None, 1.0):
            bad: Any = since
            with pytest.raises(InvalidInput, match="since"):
                migrations.statements(name, since=bad)


class TestMigrate(EveryEmptyDatabase):
    """`migrate`, and `migrate_async`, inside the host's transaction."""

    @pytest.mark.parametrize("kept", [True, False])
    def test_it_joins(self, kind: str, url: str, host: Host, kept: bool) -> None:
        """The schema is the host's to keep, or to undo."""
        begin(host, kind)
        host.execute("CREATE TABLE job (id TEXT)")
        assert host.migrate() == migrations.latest(dialect(kind))
        with connected(kind, url) as other:
            other.begin()
            assert catalog(other, kind) == []
            other.rollback()
        if kept:
            host.commit()
            freetier.open(url, POLICY).close()
        else:
            host.rollback()
        host.begin()
        assert bool(catalog(host, kind)) == kept
        host.rollback()

    def test_again(self, kind: str, host: Host) -> None:
        """Where the schema is up to date, nothing changes."""
        begin(host, kind)
        assert host.migrate() == migrations.latest(dialect(kind))
        host.ledger.seed()
        before = catalog(host, kind)
        assert host.migrate() == migrations.latest(dialect(kind))
        assert catalog(host, kind) == before
        assert host.ledger.verify().entries == 1
        host.rollback()

    def test_settings(self, kind: str, host: Host) -> None:
        """The connection is as it was: the session's variables, and SQLAlchemy's options."""
        begin(host, kind)
        before = settings(host, kind)
        host.migrate()
        assert settings(host, kind) == before
        host.rollback()

    def test_half_of_it(self, kind: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """A migration that fails half-way is undone; what the host did before it stays."""
        whole = migrations.statements(dialect(kind))
        broken = [*whole[: len(whole) // 2], "SELECT * FROM nowhere"]
        begin(host, kind)
        host.execute("CREATE TABLE job (id TEXT)")
        before = catalog(host, kind)
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "statements", lambda *_, **__: broken)
            with pytest.raises(SchemaError, match="nowhere"):
                host.migrate()
        assert catalog(host, kind) == before
        host.migrate()
        host.commit()

    def test_newer_than_the_code(self, kind: str, host: Host) -> None:
        """A newer schema is a SchemaError that names both versions; the host may go on."""
        latest = migrations.latest(dialect(kind))
        begin(host, kind)
        host.migrate()
        host.execute(f"UPDATE freetier_schema SET version = {latest + 98}")
        before = catalog(host, kind)
        with pytest.raises(SchemaError, match=rf"\b{latest + 98}\b.*\b{latest}\b"):
            host.migrate()
        assert catalog(host, kind) == before
        host.commit()

    def test_drifted(self, kind: str, host: Host) -> None:
        """A schema that is not as it was made is a SchemaError that names what differs."""
        begin(host, kind)
        host.migrate()
        on = " ON freetier_journal" if kind not in ON_SQLITE else ""
        host.execute(f"DROP TRIGGER freetier_journal_guard{on}")
        with pytest.raises(SchemaError, match="freetier_journal_guard"):
            host.migrate()
        host.rollback()


class TestMigrateAlone(EveryEmptyDatabase):
    """`migrate` on a connection that commits each statement by itself."""

    @pytest.fixture
    def host(self, kind: str, url: str) -> Iterator[Host]:
        with connected(kind, url, autocommit=True) as host:
            yield host

    def test_whole(self, kind: str, url: str, host: Host) -> None:
        """It is done when the call is."""
        host.migrate()
        with connected(kind, url) as other:
            other.begin()
            assert other.ledger.seed().balance_change == 10_000
            other.commit()

    def test_or_not_at_all(self, kind: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """A migration that fails half-way leaves nothing of itself."""
        whole = migrations.statements(dialect(kind))
        broken = [*whole[: len(whole) // 2], "SELECT * FROM nowhere"]
        monkeypatch.setattr(migrations, "statements", lambda *_, **__: broken)
        with pytest.raises(SchemaError, match="nowhere"):
            host.migrate()
        assert catalog(host, kind) == []


class TestSchemaName(EveryPostgresConnection):
    """The database schema that has the tables."""

    @pytest.mark.parametrize("schema", SCHEMAS)
    def test_any(self, postgres_dsn: str, kind: str, schema: str | None) -> None:
        """The host names it; it is made if need be, and what is in it serves from then on."""
        with connected(kind, postgres_dsn) as host:
            begin(host, kind)
            host.migrate(schema)
            made = catalog(host, kind, schema)
            assert bool(catalog(host, kind)) == (schema is None)
            ledger = host.ledger_in(schema)
            ledger.seed()
            assert ledger.reserve(Request("job", "ada", "trusted", 120)).absorb_sats == 120
            assert ledger.verify().ok
            host.rollback()
            if schema is not None:
                begin(host, kind)
                quoted = schema.replace('"', '""')
                host.execute(f'CREATE SCHEMA "{quoted}"')
                for statement in migrations.statements("postgres", schema):
                    run(host, statement)
                assert catalog(host, kind, schema) == made
                host.rollback()


KEPT = "SELECT count(*) FROM pg_prepared_statements WHERE statement NOT LIKE '%prepared%'"


def test_psycopg_keeps_no_statement(postgres_dsn: str) -> None:
    """A session that prepares whatever it is given has no statement of ours afterwards."""
    with psycopg.connect(postgres_dsn, prepare_threshold=0) as connection:
        migrations.migrate(connection)
        assert connection.execute(KEPT, prepare=False).fetchone() == (0,)


def test_asyncpgs_pool_keeps_no_statement(postgres_dsn: str) -> None:
    """Nor has a connection out of asyncpg's pool, which is a host's connection as any other."""

    async def kept() -> int:
        async with (
            asyncpg.create_pool(postgres_dsn, min_size=1, max_size=1) as pool,
            pool.acquire() as connection,
        ):
            await migrations.migrate_async(connection)
            return int(await connection.fetchval(KEPT))

    assert asyncio.run(kept()) == 0

"""The schema in Postgres: made once, whole or not at all."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

import freetier
from freetier import (
    AsyncFreeTier,
    ConfigError,
    FreeTierPolicy,
    Request,
    SchemaError,
    StoreUnavailable,
    migrations,
)
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from tests.postgres_server import Server, database_name

from .figures import Count, often
from .processes import at_once

POLICY = FreeTierPolicy()


def change(dsn: str, *statements: str) -> None:
    """Do something to the database behind the library's back."""
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def made(dsn: str) -> list[str]:
    """What there is in the database that the library could have made."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relname ~ 'freetier'"
            " UNION ALL SELECT proname FROM pg_proc WHERE proname ~ 'freetier'"
            " UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ 'freetier'"
        ).fetchall()
    return [name for (name,) in found]


def serves(dsn: str, schema: str | None = None) -> None:
    """The ledger opens, has one seed, and takes a reserve."""
    with freetier.open(dsn, POLICY, schema=schema) as ledger:
        assert ledger.reserve(Request("job", "ada", "trusted", 120)).absorb_sats == 120
        report = ledger.verify()
        assert (report.ok, report.entries) == (True, 2)


def boot(dsn: str, schema: str | None, me: int) -> None:
    """Open the ledger as a host does when it starts: each in one of the ways that there are."""

    async def through_psycopg() -> None:
        async with freetier.open_async(dsn, POLICY, schema=schema):
            pass

    async def through_asyncpg() -> None:
        async with AsyncpgRepository(dsn, schema=schema) as repository:
            await AsyncFreeTier(POLICY, repository).seed()

    if me % 3 == 0:
        freetier.open(dsn, POLICY, schema=schema).close()
    else:
        asyncio.run(through_psycopg() if me % 3 == 1 else through_asyncpg())


class TestBoot:
    """Whoever comes first makes the schema; the others find it made."""

    @pytest.mark.parametrize("again", often(5, 40))
    def test_eight_processes_boot_at_once(
        self, postgres_dsn: str, again: int, count_of: Count
    ) -> None:
        """In an empty database they make one schema and one seed, and none of them fails."""
        schema = "freetier" if again % 2 else None
        at_once(partial(boot, postgres_dsn, schema), 8)
        serves(postgres_dsn, schema)
        count_of("boots at once on Postgres", 1)

    @pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
    def test_a_kill_half_way(self, postgres_dsn: str, part: float) -> None:
        """A process that is killed in the middle of a migration leaves nothing of it."""
        script = """
import sys, time, freetier
from freetier import migrations
dsn, part = sys.argv[1], float(sys.argv[2])
whole = migrations.statements("postgres", "freetier")
def slowly(*_, **__):
    yield from whole[:int(len(whole) * part)]
    print("half", flush=True)
    time.sleep(60)
migrations.statements = slowly
freetier.open(dsn, freetier.FreeTierPolicy(), schema="freetier")
"""
        command = [sys.executable, "-c", script, postgres_dsn, str(part)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            process.kill()
            assert process.wait() == -signal.SIGKILL
        assert made(postgres_dsn) == []
        serves(postgres_dsn, "freetier")

    def test_a_statement_that_fails(
        self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A migration that fails half-way leaves nothing of itself, and works when tried again."""
        whole = migrations.statements("postgres", "freetier")
        broken = [*whole[: len(whole) // 2], "SELECT * FROM nowhere"]
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "statements", lambda *_, **__: broken)
            with pytest.raises(SchemaError, match="nowhere"):
                freetier.open(postgres_dsn, POLICY, schema="freetier")
        assert made(postgres_dsn) == []
        serves(postgres_dsn, "freetier")

    def test_two_schemas(self, postgres_dsn: str) -> None:
        """Each schema of a database is a ledger of its own."""
        serves(postgres_dsn)
        serves(postgres_dsn, "freetier")


class TestEncoding:
    """An id may have any character, and so must the database."""

    @pytest.fixture(params=["LATIN1", "SQL_ASCII"])
    def encoded(
        self, request: pytest.FixtureRequest, postgres_dsn: str, postgres_server: Server
    ) -> Iterator[str]:
        """The dsn of a database in an encoding that cannot keep every character."""
        name = f"{database_name(postgres_dsn)}_encoded"
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C'"
                f" ENCODING '{request.param}'".encode()
            )
        yield postgres_server.dsn(name)
        postgres_server.drop(name)

    def test_not_utf8(self, encoded: str) -> None:
        """A database in another encoding is a ConfigError, and nothing is made in it."""
        with pytest.raises(ConfigError, match="UTF8"):
            freetier.open(encoded, POLICY, schema="freetier")
        assert made(encoded) == []


class TestVersion:
    """The schema is the one that this code is written for, or it is not used."""

    def test_newer_than_the_code(self, postgres_dsn: str) -> None:
        """A newer schema is a SchemaError that names both versions."""
        serves(postgres_dsn)
        newer = migrations.latest("postgres") + 98
        change(postgres_dsn, f"UPDATE freetier_schema SET version = {newer}")
        with pytest.raises(SchemaError, match=rf"\b{newer}\b.*\b{newer - 98}\b"):
            freetier.open(postgres_dsn, POLICY)

    def test_no_version_at_all(self, postgres_dsn: str) -> None:
        """A schema that does not know its version is a SchemaError."""
        serves(postgres_dsn)
        change(postgres_dsn, "DELETE FROM freetier_schema")
        with pytest.raises(SchemaError, match="freetier_schema"):
            freetier.open(postgres_dsn, POLICY)


Driver = type[PostgresRepository | AsyncPostgresRepository | AsyncpgRepository]


def opened(driver: Driver, dsn: str) -> None:
    repository = driver(dsn, timeout_s=0.2)
    if isinstance(repository, AsyncPostgresRepository | AsyncpgRepository):
        asyncio.run(repository.open())


@pytest.mark.parametrize("driver", [PostgresRepository, AsyncPostgresRepository, AsyncpgRepository])
def test_nobody_waits_for_ever(postgres_dsn: str, driver: Driver) -> None:
    """Whoever opens while a host's transaction migrates is told so at the deadline."""
    with psycopg.connect(postgres_dsn) as host:
        host.execute("SELECT 1")
        migrations.migrate(host)
        with pytest.raises(StoreUnavailable):
            opened(driver, postgres_dsn)

"""Opening a ledger on Postgres, whatever the server's defaults are and whoever else is there."""

from __future__ import annotations

import asyncio
from functools import partial

import asyncpg
import psycopg
import pytest

import freetier
from freetier import ConfigError, InvalidInput, Request, StoreUnavailable, migrations
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository

from .drivers import POLICY, Driver, every_driver, opened
from .host_connections import ON_POSTGRES, connected
from .postgres_server import database_name
from .processes import at_once
from .test_postgres_schema import boot, change, serves

ABOVE_READ_COMMITTED = ["repeatable read", "serializable"]


def by_default(dsn: str, setting: str, value: str) -> None:
    """Every new session in the database has the setting."""
    change(dsn, f"ALTER DATABASE {database_name(dsn)} SET {setting} = '{value}'")


@pytest.mark.parametrize("level", ABOVE_READ_COMMITTED)
def test_eight_processes_at_another_isolation(postgres_dsn: str, level: str) -> None:
    """In an empty database they make one schema, whatever isolation transactions have there."""
    by_default(postgres_dsn, "default_transaction_isolation", level)
    at_once(partial(boot, postgres_dsn, "freetier"), 8)
    serves(postgres_dsn, "freetier")


@pytest.mark.parametrize("level", ABOVE_READ_COMMITTED)
@pytest.mark.parametrize("schema", [None, "freetier"])
@pytest.mark.parametrize("kind", ON_POSTGRES)
def test_a_host_that_cannot_see_it(
    postgres_dsn: str, kind: str, schema: str | None, level: str
) -> None:
    """A host's migration that began before another's had ended is told to begin again."""
    with connected(kind, postgres_dsn) as host:
        host.begin()
        host.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        host.execute("SELECT 1 FROM pg_class")
        serves(postgres_dsn, schema)
        with pytest.raises(StoreUnavailable, match="try again"):
            host.migrate(schema)
        host.rollback()
        host.begin()
        assert host.migrate(schema) == migrations.latest("postgres")
        host.commit()


@every_driver
def test_a_schema_that_somebody_holds(postgres_dsn: str, driver: Driver) -> None:
    """Whoever opens a ledger whose version cannot be read in time is told so at the deadline."""
    with opened(driver, postgres_dsn):
        pass
    with psycopg.connect(postgres_dsn) as holder:
        holder.execute("LOCK TABLE freetier_schema IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable), opened(driver, postgres_dsn, timeout_s=0.1):
            pass


@pytest.mark.parametrize("driver", [AsyncPostgresRepository, AsyncpgRepository])
def test_opened_by_several_tasks(postgres_dsn: str, driver: Driver) -> None:
    """A repository that many tasks open at once opens one pool, and `close` leaves nothing."""

    async def open_and_close() -> None:
        repository = driver(postgres_dsn, connections=1)
        await asyncio.gather(*(repository.open() for _ in range(5)))
        await come_to(1)
        await repository.close()
        await come_to(0)

    async def come_to(sessions: int) -> None:
        """Wait until there are so many: a session that was told to end takes a moment."""
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            while connection.execute(others).fetchone() != (sessions,):
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(open_and_close(), 30))


@every_driver
@pytest.mark.parametrize("timeout_s", [0, 0.0009, 3601, True, "5"])
def test_no_time_at_all(driver: Driver, timeout_s: object) -> None:
    """A call on a server takes some time: less than a millisecond is refused, by name."""
    with pytest.raises(InvalidInput, match=r"timeout_s: expected seconds from 0\.001 to 3600"):
        driver("postgresql:///nowhere", timeout_s=timeout_s)


class TestEncoding:
    """An id may have any character, whatever encoding a session has by default."""

    @every_driver
    @pytest.mark.parametrize("by_url", [True, False])
    def test_its_own_connections(self, postgres_dsn: str, driver: Driver, by_url: bool) -> None:
        """The library's own connections speak UTF-8, whatever the URL or the database says."""
        url = postgres_dsn
        if by_url:
            url += "&client_encoding=latin1"
        else:
            by_default(postgres_dsn, "client_encoding", "latin1")
        with opened(driver, url) as ledger:
            ledger.reserve(Request("работа €", "Zoë ж", "elite", 5))
            assert ledger.grant("работа €").identity == "Zoë ж"
            assert ledger.verify().ok

    @pytest.mark.parametrize("kind", ON_POSTGRES)
    @pytest.mark.parametrize("encoding", ["latin1", "sql_ascii"])
    def test_a_hosts_connection(self, postgres_dsn: str, kind: str, encoding: str) -> None:
        """A host's connection in another encoding is a ConfigError that names it."""
        freetier.open(postgres_dsn, POLICY).close()
        with connected(kind, postgres_dsn) as host:
            host.begin()
            host.execute(f"SET client_encoding = '{encoding}'")
            with pytest.raises(ConfigError, match=f"(?i)client_encoding is {encoding}"):
                host.ledger.reserve(Request("job", "ada", "trusted", 5))


def test_closing_while_it_opens(postgres_dsn: str) -> None:
    """An asyncpg ledger that is closed while it opens leaves no connection behind."""

    async def run() -> None:
        repository = AsyncpgRepository(postgres_dsn)
        opening = asyncio.create_task(repository.open())
        await asyncio.sleep(0)  # it has begun, and waits for the server
        await repository.close()
        await opening
        with pytest.raises(ConfigError, match="was closed"):
            await repository.look("request", None)
        other = await asyncpg.connect(postgres_dsn)
        try:
            left = await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            await other.close()
        assert left == 0

    asyncio.run(run())

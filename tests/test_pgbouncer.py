"""Postgres through a pooler in transaction mode: every promise of the port, and the races."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress

import asyncpg
import psycopg
import pytest
from attrs import frozen
from psycopg import sql

from freetier import (
    AsyncFreeTier,
    Decision,
    FreeTier,
    FreeTierPolicy,
    Kind,
    Request,
    Settlement,
    StoreUnavailable,
)
from freetier.asyncpg import AsyncpgRepository
from freetier.errors import FreeTierError
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.repository import AsyncRepository, Repository
from freetier.testing import AsyncRepositoryContract, RepositoryContract
from freetier.testing.async_contract import Opening
from tests.pgbouncer import BACK_ENDS, Pooler, pgbouncer
from tests.postgres_server import Server, database_name
from tests.stores import SCHEMA, InATransaction, copied, migrated
from tests.writers import Clock, Door, Race, noon

pytestmark = pytest.mark.pooler

FIFTY_EACH = FreeTierPolicy(budgets={"trusted": 50}, seed_sats=1_000_000)
IDENTITIES = 40


@frozen
class Session:
    """What a back-end keeps from one client to the next."""

    lock_timeout: str
    prepared: int


UNTOUCHED = {Session("0", 0)}


@pytest.fixture(scope="module")
def pooler(postgres_server: Server) -> Iterator[Pooler]:
    with pgbouncer(postgres_server) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def template(postgres_server: Server) -> Iterator[str]:
    with migrated(postgres_server) as name:
        yield name


@pytest.fixture
def dsn(postgres_server: Server, pooler: Pooler, template: str) -> Iterator[str]:
    """Through the pooler, a database of its own with an empty ledger."""
    with copied(postgres_server, template) as direct:
        yield pooler.dsn(direct)


@pytest.fixture
def empty(pooler: Pooler, postgres_dsn: str) -> str:
    """Through the pooler, a database of its own with nothing in it."""
    return pooler.dsn(postgres_dsn)


class TestPsycopg(RepositoryContract):
    @pytest.fixture
    def repository(self, dsn: str) -> Iterator[Repository]:
        with PostgresRepository(dsn, schema=SCHEMA, through_pooler=True) as repository:
            yield repository


class TestPsycopgAsync(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        return AsyncPostgresRepository(dsn, schema=SCHEMA, through_pooler=True)


class TestAsyncpg(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        return AsyncpgRepository(dsn, schema=SCHEMA, through_pooler=True)


class TestPsycopgOnTheHostsConnection(RepositoryContract):
    @pytest.fixture
    def repository(self, dsn: str) -> Iterator[Repository]:
        with closing(psycopg.connect(dsn, autocommit=True)) as connection:
            yield PostgresRepository(connection, schema=SCHEMA)


class TestPsycopgInTheHostsTransaction(RepositoryContract):
    class Store(InATransaction, PostgresRepository):
        pass

    @pytest.fixture
    def repository(self, dsn: str) -> Iterator[Repository]:
        with closing(psycopg.connect(dsn)) as connection:
            repository = self.Store(connection, schema=SCHEMA)
            repository.savepoint = connection.transaction
            yield repository


class TestAsyncpgOnTheHostsConnection(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            connection = await asyncpg.connect(dsn)
            yield AsyncpgRepository(connection, schema=SCHEMA)
            await connection.close()

        return opening()


def sessions(dsn: str) -> set[Session]:
    """What all the back-ends have, whoever comes to them."""
    query = (
        b"SELECT current_setting('lock_timeout'), (SELECT count(*) FROM pg_prepared_statements),"
        b" pg_backend_pid()"
    )
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        rows = [connection.execute(query).fetchone() or () for _ in range(5 * BACK_ENDS)]
    assert len({process for _, _, process in rows}) == BACK_ENDS, "not all of them were asked"
    return {Session(timeout, prepared) for timeout, prepared, _ in rows}


@asynccontextmanager
async def psycopg_pooled(
    url: str, policy: FreeTierPolicy, clock: Clock
) -> AsyncIterator[AsyncFreeTier]:
    async with AsyncPostgresRepository(url, through_pooler=True) as repository:
        ledger = AsyncFreeTier(policy, repository, clock=clock)
        await ledger.seed()
        yield ledger


@asynccontextmanager
async def asyncpg_pooled(
    url: str, policy: FreeTierPolicy, clock: Clock
) -> AsyncIterator[AsyncFreeTier]:
    async with AsyncpgRepository(url, through_pooler=True) as repository:
        ledger = AsyncFreeTier(policy, repository, clock=clock)
        await ledger.seed()
        yield ledger


either = pytest.mark.parametrize("door", [psycopg_pooled, asyncpg_pooled])


async def draw_and_settle(ledger: AsyncFreeTier, me: int) -> list[tuple[Decision, Settlement]]:
    """Ask all that the others ask too; and for more, of identities that they draw for as well."""
    answers = []
    for number in range(IDENTITIES):
        await ledger.reserve(Request(f"mine-{number}-{me}", f"id-{number}", "trusted", 30))
        grant = await ledger.reserve(Request(f"ours-{number}", f"other-{number}", "trusted", 30))
        answers.append((grant.decision, await ledger.settle(f"ours-{number}", 4)))
    return answers


@pytest.mark.parametrize("door", [psycopg_pooled, asyncpg_pooled])
def test_races(empty: str, door: Door) -> None:
    """8 processes that all open, migrate and draw get one answer a request, never too much."""
    first, *others = Race(empty, door, processes=8, tasks=1).run(draw_and_settle, FIFTY_EACH)
    assert others == [first] * 7
    with PostgresRepository(empty, through_pooler=True) as repository:
        ledger = FreeTier(FIFTY_EACH, repository, clock=noon)
        assert ledger.verify().ok
        used: Counter[str] = Counter()
        for entry in ledger.journal(after=1):
            used[str(entry.identity)] += entry.used_change
    expected = {f"id-{number}": 50 for number in range(IDENTITIES)}
    assert used == expected | {f"other-{number}": 4 for number in range(IDENTITIES)}
    assert sessions(empty) == UNTOUCHED


def test_the_roles_timeout_holds(pooler: Pooler, postgres_dsn: str) -> None:
    """Nothing is set through a pooler: what the role has set bounds the wait for a lock."""
    with psycopg.connect(postgres_dsn) as holder:
        database = sql.Identifier(database_name(postgres_dsn))
        setting = "ALTER ROLE CURRENT_USER IN DATABASE {} SET lock_timeout = '100ms'"
        holder.execute(sql.SQL(setting).format(database))
        holder.commit()
        with PostgresRepository(
            pooler.dsn(postgres_dsn), timeout_s=1, through_pooler=True
        ) as repository:
            ledger = FreeTier(FIFTY_EACH, repository)
            ledger.seed()
            holder.execute("SELECT FROM freetier_pool FOR UPDATE")
            # Else it would hang until it is given up, and nobody would know what became of it.
            with pytest.raises(StoreUnavailable, match=r"lock timeout|no connection in time"):
                ledger.donate("gift", 1)


def test_statements_left_behind(empty: str) -> None:
    """Without `through_pooler`, psycopg's statements stay behind, and the next may fail."""
    with (
        suppress(FreeTierError),  # whether one is sought where it is depends on who comes when
        PostgresRepository(empty, timeout_s=1) as repository,
    ):
        for number in range(100):
            repository.find(Kind.DONATION, f"gift-{number}")
    assert {session.prepared for session in sessions(empty)} != {0}


def test_settings_left_behind(empty: str) -> None:
    """Without `through_pooler`, asyncpg's settings stay on a back-end for whoever comes next."""

    async def open_and_close() -> None:
        async with AsyncpgRepository(empty, timeout_s=7):
            pass

    asyncio.run(open_and_close())
    assert {session.lock_timeout for session in sessions(empty)} == {"0", "7s"}

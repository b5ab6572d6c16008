"""Every store on Postgres keeps every promise of the port, in a schema whose name needs quoting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import asyncpg
import psycopg
import pytest

from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.repository import AsyncRepository, Repository
from freetier.testing import AsyncRepositoryContract, RepositoryContract
from freetier.testing.async_contract import Opening
from tests.postgres_server import Server
from tests.stores import SCHEMA, InATransaction, InATransactionAsync, copied, migrated


@pytest.fixture(scope="module")
def template(postgres_server: Server) -> Iterator[str]:
    with migrated(postgres_server) as name:
        yield name


@pytest.fixture
def dsn(postgres_server: Server, template: str) -> Iterator[str]:
    """A database of its own with an empty ledger."""
    with copied(postgres_server, template) as dsn:
        yield dsn


class TestPsycopg(RepositoryContract):
    @pytest.fixture
    def repository(self, dsn: str) -> Iterator[Repository]:
        with PostgresRepository(dsn, schema=SCHEMA) as repository:
            yield repository


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


class TestPsycopgAsync(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        return AsyncPostgresRepository(dsn, schema=SCHEMA)


class TestPsycopgAsyncOnTheHostsConnection(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                yield AsyncPostgresRepository(connection, schema=SCHEMA)

        return opening()


class TestPsycopgAsyncInTheHostsTransaction(AsyncRepositoryContract):
    class Store(InATransactionAsync, AsyncPostgresRepository):
        pass

    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                repository = self.Store(connection, schema=SCHEMA)
                repository.savepoint = connection.transaction
                yield repository

        return opening()


class TestAsyncpg(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        return AsyncpgRepository(dsn, schema=SCHEMA)


class TestAsyncpgOnTheHostsConnection(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            connection = await asyncpg.connect(dsn)
            yield AsyncpgRepository(connection, schema=SCHEMA)
            await connection.close()

        return opening()


class TestAsyncpgInTheHostsTransaction(AsyncRepositoryContract):
    class Store(InATransactionAsync, AsyncpgRepository):
        pass

    @pytest.fixture
    def opening(self, dsn: str) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            connection = await asyncpg.connect(dsn)
            async with connection.transaction():
                repository = self.Store(connection, schema=SCHEMA)
                repository.savepoint = connection.transaction
                yield repository
            await connection.close()

        return opening()

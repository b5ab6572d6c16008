"""A host's SQLAlchemy connection over every driver keeps every promise of the port.

Which drivers and engines there are is for the installed SQLAlchemy to say: psycopg came with 2.0.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from freetier.migrations import migrate, migrate_async
from freetier.repository import AsyncRepository, Repository
from freetier.sqlalchemy import AsyncSQLAlchemyRepository, SQLAlchemyRepository
from freetier.testing import AsyncRepositoryContract, RepositoryContract
from freetier.testing.async_contract import Opening
from tests.postgres_server import Server
from tests.stores import SCHEMA, InATransaction, InATransactionAsync, copied, migrated

IS_2 = not sqlalchemy.__version__.startswith("1.")
ASYNC = ["asyncpg", "psycopg"] if IS_2 else ["asyncpg"]
FUTURE = [True] if IS_2 else [True, False]
"""Whether an engine is as in 2.0: it begins a transaction unasked, and commits none."""

autocommit_or_not = pytest.mark.parametrize(
    "isolation", ["AUTOCOMMIT", "READ COMMITTED"], ids=["autocommit", "transaction"]
)


@pytest.fixture(scope="module")
def template(postgres_server: Server) -> Iterator[str]:
    with migrated(postgres_server) as name:
        yield name


@pytest.fixture
def url(postgres_server: Server, template: str, driver: str) -> Iterator[str]:
    """A database of its own with an empty ledger, through this driver."""
    with copied(postgres_server, template) as dsn:
        yield dsn.replace("postgresql:", f"postgresql+{driver}:", 1)


@pytest.mark.parametrize("future", FUTURE)
class TestSQLite3(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path, future: Any) -> Iterator[Repository]:
        engine = sqlalchemy.create_engine(
            f"sqlite:///{tmp_path / 'host.db'}",
            future=future,
            connect_args={"check_same_thread": False},  # the race has one connection for all
        )
        with engine.connect() as connection:
            migrate(connection)
            yield SQLAlchemyRepository(connection)
        engine.dispose()


class TestAiosqlite(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, tmp_path: Path) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'host.db'}")
            async with engine.connect() as connection:
                await migrate_async(connection)
                yield AsyncSQLAlchemyRepository(connection)
            await engine.dispose()

        return opening()


if IS_2:

    @autocommit_or_not
    @pytest.mark.parametrize("driver", ["psycopg"])
    class TestPostgres(RepositoryContract):
        class Store(InATransaction, SQLAlchemyRepository):
            pass

        @pytest.fixture
        def repository(self, url: str, isolation: str) -> Iterator[Repository]:
            engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level=isolation)
            with engine.connect() as connection:
                repository = self.Store(connection, schema=SCHEMA)
                autocommit = isolation == "AUTOCOMMIT"
                repository.savepoint = nullcontext if autocommit else connection.begin_nested
                yield repository


@autocommit_or_not
@pytest.mark.parametrize("driver", ASYNC)
class TestPostgresAsync(AsyncRepositoryContract):
    class Store(InATransactionAsync, AsyncSQLAlchemyRepository):
        pass

    @pytest.fixture
    def opening(self, url: str, isolation: str) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            engine = create_async_engine(url, poolclass=NullPool, isolation_level=isolation)
            async with engine.connect() as connection:
                repository = self.Store(connection, schema=SCHEMA)
                autocommit = isolation == "AUTOCOMMIT"
                repository.savepoint = nullcontext if autocommit else connection.begin_nested
                yield repository

        return opening()

"""Every store of this library keeps every promise of the port: those in memory and on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Literal

import aiosqlite
import pytest

from freetier._async_memory import AsyncMemoryRepository
from freetier.memory import MemoryRepository
from freetier.migrations import migrate, migrate_async
from freetier.repository import AsyncRepository, Repository
from freetier.sqlite import AsyncSQLiteRepository, SQLiteRepository
from freetier.testing import AsyncRepositoryContract, RepositoryContract
from freetier.testing.async_contract import Opening

IsolationLevel = Literal["DEFERRED"] | None

autocommit_or_not = pytest.mark.parametrize(
    "isolation_level", [None, "DEFERRED"], ids=["autocommit", "transaction"]
)


class TestMemory(RepositoryContract):
    @pytest.fixture
    def repository(self) -> Repository:
        return MemoryRepository()


class TestSQLite(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Iterator[Repository]:
        with SQLiteRepository(tmp_path / "ledger.db") as repository:
            yield repository


@autocommit_or_not
class TestSQLiteOnTheHostsConnection(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path, isolation_level: IsolationLevel) -> Iterator[Repository]:
        # The race wants one connection for all its threads; which thread may use it is the host's
        # business.
        with closing(
            sqlite3.connect(
                tmp_path / "host.db", isolation_level=isolation_level, check_same_thread=False
            )
        ) as connection:
            migrate(connection)
            yield SQLiteRepository(connection)


class TestAsyncMemory(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            yield AsyncMemoryRepository()

        return opening()


class TestAsyncSQLite(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, tmp_path: Path) -> Opening:
        return AsyncSQLiteRepository(tmp_path / "ledger.db")


@autocommit_or_not
class TestAsyncSQLiteOnTheHostsConnection(AsyncRepositoryContract):
    @pytest.fixture
    def opening(self, tmp_path: Path, isolation_level: IsolationLevel) -> Opening:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncRepository]:
            host = aiosqlite.connect(tmp_path / "host.db", isolation_level=isolation_level)
            async with host as connection:
                await migrate_async(connection)
                yield AsyncSQLiteRepository(connection)

        return opening()


@pytest.mark.parametrize("contract", [RepositoryContract, AsyncRepositoryContract])
def test_a_promise_is_not_overridden_in_silence(contract: type) -> None:
    """A subclass that replaces a promise must say why, also when another base replaces it."""
    replaced = {"test_floor": lambda self: None}
    with pytest.raises(TypeError, match="test_floor"):
        type("Sloppy", (contract,), replaced)
    with pytest.raises(TypeError, match="test_floor"):
        type("Sloppy", (type("Mixin", (), replaced), contract), {})

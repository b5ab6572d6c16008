"""Every store of this library keeps every promise of the port."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from freetier.memory import MemoryRepository
from freetier.migrations import migrate
from freetier.repository import Repository
from freetier.sqlite import SQLiteRepository
from freetier.testing import RepositoryContract


class TestMemory(RepositoryContract):
    @pytest.fixture
    def repository(self) -> Repository:
        return MemoryRepository()


class TestSQLite(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Iterator[Repository]:
        with SQLiteRepository(tmp_path / "ledger.db") as repository:
            yield repository


class TestSQLiteOnTheHostsConnection(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Iterator[Repository]:
        # The race wants one connection for all its threads; which thread may use it is the host's
        # business.
        with closing(
            sqlite3.connect(tmp_path / "host.db", isolation_level=None, check_same_thread=False)
        ) as connection:
            migrate(connection)
            yield SQLiteRepository(connection)


def test_a_promise_is_not_overridden_in_silence() -> None:
    """A subclass that replaces a promise must say why."""
    with pytest.raises(TypeError, match="test_floor"):
        type("Sloppy", (RepositoryContract,), {"test_floor": lambda self: None})

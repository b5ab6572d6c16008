"""What every test may ask for: a clock that it sets, and a fresh ledger that runs by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import freetier
from freetier import _sorting
from freetier.testing import Clock
from tests import figures
from tests.postgres_server import Server, database_name, shared
from tests.tampering import Tampered, on_postgres, on_sqlite

hypothesis.settings.register_profile("freetier", deadline=None)
hypothesis.settings.load_profile("freetier")


@pytest.fixture
def clock() -> Clock:
    """Noon of Monday 5 January 2026, UTC, until the test moves it."""
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[freetier.FreeTier]:
    """An SQLite ledger with the default policy: 10,000 sats in the pool, none reserved."""
    path = tmp_path / "ledger.db"
    with freetier.open(path, policy=freetier.FreeTierPolicy(), clock=clock) as opened:
        yield opened


@pytest.fixture
def count_of(request: pytest.FixtureRequest) -> figures.Count:
    """Adds to a figure that the whole run is to reach."""

    def add(name: str, number: int) -> None:
        assert name in figures.TO_REACH
        request.node.user_properties.append((name, number))

    return add


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who may take longer than others begins first: at the end nobody waits for one alone."""

    def allowed_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return max(300, mark.args[0] if mark else 0)

    items.sort(key=allowed_s, reverse=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was counted, whichever process counted it."""
    if hasattr(config, "workerinput"):
        return  # the process that the workers report to says it, once
    counted = Counter[str]()
    for report in terminalreporter.stats.get("passed", []):
        for name, number in report.user_properties:
            if name in figures.TO_REACH:
                counted[name] += number
    figures.note(counted)
    if counted:
        terminalreporter.write_sep("-", "figures")
        for line in figures.lines(counted):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A real Postgres, which starts when a test first asks for it."""
    with shared() as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: Server) -> Iterator[str]:
    """A new, empty Postgres database, gone after the test."""
    dsn = postgres_server.create()
    yield dsn
    postgres_server.drop(database_name(dsn))


@pytest.fixture(params=["in memory", "through a file", "on Postgres"])
def tampered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tampered]:
    """A ledger without its guard, on each database, and with what `verify` sorts in files."""
    if request.param == "through a file":
        monkeypatch.setattr(_sorting, "PART", 2)
    if request.param == "on Postgres":
        with on_postgres(request.getfixturevalue("postgres_dsn")) as ledger:
            yield ledger
    else:
        with on_sqlite(request.getfixturevalue("tmp_path") / "ledger.db") as ledger:
            yield ledger

"""What every test may ask for: a clock that it sets, and a fresh ledger that runs by it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis
import pytest

import freetier

hypothesis.settings.register_profile("freetier", deadline=None)
hypothesis.settings.load_profile("freetier")


class Clock:
    """A callable that gives `now`, until the test sets or advances it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        """Move by `timedelta(**by)`; back, if that is negative."""
        self.now += timedelta(**by)


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

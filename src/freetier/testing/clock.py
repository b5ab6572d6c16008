"""A clock that a test sets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Clock:
    """Gives `now` when called, as `FreeTier(…, clock=Clock())` wants it; `advance` moves it."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The time that it was set to."""
        return self.now

    def advance(self, **duration: float) -> None:
        """Move by `timedelta(**duration)`; below 0 it runs back."""
        self.now += timedelta(**duration)

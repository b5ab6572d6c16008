"""A repository over anything that runs a `Query`: the port's methods, one line each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

from freetier import _sql
from freetier.entries import Entry, Grant, Kind, PoolStatus
from freetier.repository import (
    PAGE,
    SWEEP_LIMIT,
    Books,
    Deposit,
    Draw,
    Ending,
    Repository,
    View,
)
from freetier.values import Decision, Request

T = TypeVar("T")


class BlockingRepository(Repository, ABC):
    """The port in blocking code; a driver gives `run` and `close`."""

    @abstractmethod
    def run(self, query: _sql.Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""

    @abstractmethod
    def close(self) -> None:
        """Give back what was opened. Closing twice is fine."""

    def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        return self.run(_sql.look(request_id, now, identity=identity, tier=tier))

    def draw(self, draw: Draw) -> datetime | None:
        return self.run(_sql.draw(draw))

    def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        return self.run(_sql.note_gate(request, decision, at))

    def end(self, ending: Ending) -> datetime | None:
        return self.run(_sql.end(ending))

    def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        return self.run(_sql.sweep(now, limit))

    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        return self.run(_sql.deposit(deposit, now))

    def find(self, kind: Kind, key: str) -> Entry | None:
        return self.run(_sql.find(kind, key))

    def status(self, now: datetime | None) -> PoolStatus:
        return self.run(_sql.status(now))

    def open_grants(self, now: datetime | None, after: Grant | None = None) -> list[Grant]:
        return self.run(_sql.open_grants(now, after))

    def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        return self.run(_sql.entries(after, limit))

    def books(self) -> Books:
        return self.run(_sql.books())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

"""An async repository over anything that runs a `Query`: the port's methods, one line each."""

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
    AsyncRepository,
    Books,
    Deposit,
    Draw,
    Ending,
    View,
)
from freetier.values import Decision, Request

T = TypeVar("T")


class AwaitingRepository(AsyncRepository, ABC):
    """The port in async code; a driver gives `run` and `close`."""

    @abstractmethod
    async def run(self, query: _sql.Query[T]) -> T:
        """Run one statement, atomic by itself, and read its rows."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what was opened. Closing twice is fine."""

    async def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        return await self.run(_sql.look(request_id, now, identity=identity, tier=tier))

    async def draw(self, draw: Draw) -> datetime | None:
        return await self.run(_sql.draw(draw))

    async def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        return await self.run(_sql.note_gate(request, decision, at))

    async def end(self, ending: Ending) -> datetime | None:
        return await self.run(_sql.end(ending))

    async def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        return await self.run(_sql.sweep(now, limit))

    async def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        return await self.run(_sql.deposit(deposit, now))

    async def find(self, kind: Kind, key: str) -> Entry | None:
        return await self.run(_sql.find(kind, key))

    async def status(self, now: datetime | None) -> PoolStatus:
        return await self.run(_sql.status(now))

    async def open_grants(self, now: datetime | None, after: Grant | None = None) -> list[Grant]:
        return await self.run(_sql.open_grants(now, after))

    async def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        return await self.run(_sql.entries(after, limit))

    async def books(self) -> Books:
        return await self.run(_sql.books())

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

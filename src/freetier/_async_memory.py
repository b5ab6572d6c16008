"""The readable model for async code: what `freetier.open_async("memory:")` opens."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from freetier.entries import Entry, Grant, Kind, PoolStatus
from freetier.memory import MemoryRepository
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
from freetier.steps import Operation
from freetier.values import Decision, Request

T = TypeVar("T")


class AsyncMemoryRepository(AsyncRepository):
    """A ledger in memory, for async tests. It never waits; nothing outlives the object."""

    def __init__(self) -> None:
        self._store = MemoryRepository()

    async def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        return self._store.look(request_id, now, identity=identity, tier=tier)

    async def draw(self, draw: Draw) -> datetime | None:
        return self._store.draw(draw)

    async def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        return self._store.note_gate(request, decision, at)

    async def end(self, ending: Ending) -> datetime | None:
        return self._store.end(ending)

    async def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        return self._store.sweep(now, limit)

    async def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        return self._store.deposit(deposit, now)

    async def find(self, kind: Kind, key: str) -> Entry | None:
        return self._store.find(kind, key)

    async def status(self, now: datetime | None) -> PoolStatus:
        return self._store.status(now)

    async def open_grants(self, now: datetime | None, after: Grant | None = None) -> list[Grant]:
        return self._store.open_grants(now, after)

    async def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        return self._store.entries(after, limit)

    async def books(self) -> Books:
        return self._store.books()

    async def close(self) -> None:
        self._store.close()

    async def perform(self, operation: Operation[T]) -> T:
        return self._store.perform(operation)

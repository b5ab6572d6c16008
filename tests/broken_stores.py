"""Stores that each break one promise. The contract must catch every one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from attrs import evolve

from freetier._async_memory import AsyncMemoryRepository
from freetier.entries import Entry, Kind, PoolStatus
from freetier.memory import MemoryRepository, _expiry
from freetier.repository import PAGE, SWEEP_LIMIT, AsyncRepository, Deposit, Draw, Ending, View
from freetier.steps import Operation
from freetier.values import Decision, Request, utc_day

T = TypeVar("T")


class SkipsANumber(MemoryRepository):
    def _append(self, kind: Kind, key: str, at: datetime, **figures: Any) -> Entry:
        entry = super()._append(kind, key, at, **figures)
        if entry.seq > 3:
            self._journal[-1] = evolve(entry, seq=entry.seq + 1)
        return entry


class PagesOffByOne(MemoryRepository):
    def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        return super().entries(after + (after > 0), limit)


class TotalsBeforeInsteadOfAfter(MemoryRepository):
    def _append(self, kind: Kind, key: str, at: datetime, **figures: Any) -> Entry:
        entry = super()._append(kind, key, at, **figures)
        self._journal[-1] = evolve(entry, balance_sats=entry.balance_sats - entry.balance_change)
        return entry


class ForgetsAnEndedRequest(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        key = draw.request.request_id
        if ("ending", key) in self._entry:
            del self._entry["draw", key], self._entry["ending", key]
        return super().draw(draw)


class IgnoresTheFloor(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        return super().draw(evolve(draw, caps=evolve(draw.caps, floor_sats=0)))


class BudgetOffByOne(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        caps = evolve(draw.caps, budget_sats=draw.caps.budget_sats + 1)
        return super().draw(evolve(draw, caps=caps))


class IgnoresTheCeiling(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        return super().draw(evolve(draw, caps=evolve(draw.caps, tier_ceiling_sats=None)))


class IgnoresTheRelease(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        return super().draw(evolve(draw, caps=evolve(draw.caps, release_sats=None)))


class IgnoresTheShare(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        return super().draw(evolve(draw, caps=evolve(draw.caps, pool_share_bp=None)))


class EndsTwice(MemoryRepository):
    def end(self, ending: Ending) -> datetime | None:
        draw = self._entry.get(("draw", ending.request_id))
        if draw is not None and draw.kind is Kind.RESERVE and ending.kind is Kind.RELEASE:
            self._entry.pop(("ending", draw.key), None)
            if draw not in self._open:
                self._open.append(draw)
        return super().end(ending)


class SettlesAfterExpiry(MemoryRepository):
    def end(self, ending: Ending) -> datetime | None:
        draw = self._entry.get(("draw", ending.request_id))
        if draw is not None and ending.kind is Kind.SETTLE and draw.expires_at is not None:
            longer = evolve(draw, expires_at=draw.expires_at + timedelta(days=1))
            self._entry["draw", draw.key] = longer
            longest = (longer if each is draw else each for each in self._open)
            self._open = sorted(longest, key=_expiry)
        return super().end(ending)


class ExpiryGivesTheAllowanceBack(MemoryRepository):
    def _append(self, kind: Kind, key: str, at: datetime, **figures: Any) -> Entry:
        if kind is Kind.EXPIRE:
            figures["used"] = figures["reserved"]
        return super()._append(kind, key, at, **figures)


class SettlingKeepsTheAllowance(MemoryRepository):
    def _append(self, kind: Kind, key: str, at: datetime, **figures: Any) -> Entry:
        if kind is Kind.SETTLE:
            figures["used"] = 0
        return super()._append(kind, key, at, **figures)


class SettlesWhatItIsTold(MemoryRepository):
    def end(self, ending: Ending) -> datetime | None:
        draw = self._entry.get(("draw", ending.request_id))
        if draw in self._open and ending.kind is Kind.SETTLE:
            self._entry["draw", draw.key] = evolve(draw, absorb_sats=10**6)
        return super().end(ending)


class LatePaysBelowTheFloor(MemoryRepository):
    def end(self, ending: Ending) -> datetime | None:
        return super().end(evolve(ending, floor_sats=-1000))


class HoldsUntilSwept(MemoryRepository):
    def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        view = super().look(request_id, now, identity=identity, tier=tier)
        snapshot = evolve(view.snapshot, reserved_sats=self._reserved)
        return evolve(view, snapshot=snapshot)


class StatusCountsTheExpired(MemoryRepository):
    def status(self, now: datetime | None) -> PoolStatus:
        return evolve(super().status(now), open_grants=len(self._open))


class SweepsTheNewestFirst(MemoryRepository):
    def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        at = self._time(now)
        due = sorted(self._due(at), key=lambda draw: draw.expires_at or at, reverse=True)
        for draw in due[:limit]:
            self.end(Ending(Kind.EXPIRE, draw.key, at))
        return len(due[:limit])


class LosesTheRemainder(MemoryRepository):
    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        self._carry = 0
        return super().deposit(deposit, now)


class CreditsTwice(MemoryRepository):
    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        self._entry.pop((Kind.CREDIT, deposit.key), None)
        return super().deposit(deposit, now)


class SeedsTwice(MemoryRepository):
    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        self._entry.pop((Kind.SEED, deposit.key), None)
        return super().deposit(deposit, now)


class AdjustsIntoWhatIsReserved(MemoryRepository):
    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        reserved, self._reserved = self._reserved, 0
        try:
            return super().deposit(deposit, now)
        finally:
            self._reserved = reserved


class ForgetsGates(MemoryRepository):
    def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        return True


class DrawsAfterAGate(MemoryRepository):
    def draw(self, draw: Draw) -> datetime | None:
        self._gates.pop(draw.request.request_id, None)
        return super().draw(draw)


class TimeRunsBack(MemoryRepository):
    def _time(self, now: datetime | None) -> datetime:
        return (now or datetime.now(UTC)).astimezone(UTC)


class EndsOnTheDayOfTheEnding(MemoryRepository):
    def _append(self, kind: Kind, key: str, at: datetime, **figures: Any) -> Entry:
        if "day" in figures:
            figures["day"] = utc_day(at)
        return super()._append(kind, key, at, **figures)


class CountsAllDaysAsToday(MemoryRepository):
    def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        view = super().look(request_id, now, identity=identity, tier=tier)
        ever = sum(sats for (_, _, name), sats in self._used.items() if name == identity)
        return evolve(view, snapshot=evolve(view.snapshot, identity_used_sats=ever))


class ChecksThenWrites(MemoryRepository):
    """What two statements without a lock do: others get between the look and the write."""

    def draw(self, draw: Draw) -> datetime | None:
        left = self._balance - self._reserved - draw.decision.absorb_sats
        if left < draw.caps.floor_sats or ("draw", draw.request.request_id) in self._entry:
            return None
        time.sleep(0.002)
        return super().draw(evolve(draw, caps=evolve(draw.caps, floor_sats=0)))


BROKEN: tuple[Callable[[], MemoryRepository], ...] = tuple(
    kind
    for kind in list(globals().values())
    if isinstance(kind, type)
    and issubclass(kind, MemoryRepository)
    and kind is not MemoryRepository
)


class InThreads(AsyncMemoryRepository):
    """A blocking store made async: each operation in a thread, so that they overlap."""

    def __init__(self, store: MemoryRepository) -> None:
        self._store = store

    async def perform(self, operation: Operation[T]) -> T:
        return await asyncio.to_thread(self._store.perform, operation)


class Awaiting(AsyncMemoryRepository):
    """The model, called step by step, as a store with a server is."""

    async def perform(self, operation: Operation[T]) -> T:
        return await AsyncRepository.perform(self, operation)


class LetsOthersIn(Awaiting):
    """Awaits between the look and the write, with no lock over both."""

    async def draw(self, draw: Draw) -> datetime | None:
        view = await self.look(draw.request.request_id, draw.at)
        await asyncio.sleep(0)
        left = view.snapshot.available_sats - draw.decision.absorb_sats
        if view.grant is not None or left < draw.caps.floor_sats:
            return None
        return await super().draw(evolve(draw, caps=evolve(draw.caps, floor_sats=0)))


class AnswersBeforeItWrites(Awaiting):
    """Forgets to await."""

    async def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        self._noting = asyncio.create_task(super().note_gate(request, decision, at))
        return True


class MixesUpItsTasks(Awaiting):
    """Keeps what belongs to one task where the next one puts its own."""

    async def draw(self, draw: Draw) -> datetime | None:
        self._drawing = draw
        await asyncio.sleep(0)
        return await super().draw(self._drawing)


BROKEN_ASYNC = (LetsOthersIn, AnswersBeforeItWrites, MixesUpItsTasks)


@asynccontextmanager
async def opening(store: AsyncRepository) -> AsyncIterator[AsyncRepository]:
    """The store, opened and closed as the port says."""
    yield await store.open()
    await store.close()

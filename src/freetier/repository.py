"""The port: what a store promises to the service, whatever it is made of.

A store keeps the journal and what follows from it. It decides nothing: it shows (`look`), and it
writes a proposed entry or refuses it, in one atomic step that is exact among any number of
processes. A refusal writes nothing and raises nothing; the service looks again.

Every method that takes `now` uses it as the clock, or the store's own clock where it is None.
The store's time never runs back: it is the later of the clock and the last entry.

The promises, each held by a test of `freetier.testing.RepositoryContract` with its number:

 1. The journal is append-only, and `seq` runs 1 … n without a gap.
 2. An entry has the pool's totals after it, which follow from the entry before. A deposit gives
    its entry as it stands, a draw and an ending when they were written.
 3. A request is drawn for once, under one id, for ever; a second draw is refused.
 4. A draw that the pool cannot pay above its floor is refused.
 5. A draw over the identity's budget, the tier's ceiling or the day's release is refused.
 6. A draw over its share of what is available is refused.
 7. A grant has one ending; a second one is refused.
 8. A grant past its expiry can only expire, and then settle late, once.
 9. Settling gives back what was not needed, to pool and allowance; releasing gives back both;
    expiring gives back to the pool alone.
10. A late settlement draws at most what the pool has above its floor.
11. `look` shows a grant past its expiry as expired and leaves it out of reserved, swept or not.
12. `sweep` expires what is due, the oldest first, at most as many as it was told.
13. A payment is credited once; credits are exact over time, the remainder carried.
14. There is one seed; a donation's and an adjustment's key is used once.
15. The pool never goes below what is reserved, whoever adjusts it.
16. A gate is noted once; a request is either noted or drawn for, never both.
17. Time in the journal never runs back, and a draw's day is the UTC date of its time.
18. An ending and a late settlement count for the day of their grant.
19. What a look shows as used is what the journal says for that day.
20. Callers that race for the last sats never get more than there are.
21. An ending whose figures exceed its grant's is not written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, Self, TypeVar

from attrs import field, frozen

from freetier.entries import Entry, Grant, Kind, PoolStatus
from freetier.steps import Operation, perform, perform_async
from freetier.values import Caps, Decision, Request, Settlement, Snapshot

T = TypeVar("T")

SWEEP_LIMIT = 64
"""The most grants that one call expires."""
PAGE = 500
"""The most rows that one read returns."""


@frozen
class View:
    """What `look` shows: the snapshot, what is known of the request, how many grants are due."""

    snapshot: Snapshot
    grant: Grant | None
    due: int


@frozen
class Draw:
    """A proposed `reserve` (held until `expires_at`) or `grant` (final; `expires_at` is None)."""

    kind: Kind
    request: Request
    decision: Decision
    caps: Caps
    at: datetime
    expires_at: datetime | None


@frozen
class Ending:
    """A proposed `settle`, `release`, `expire` or `late` for an existing grant.

    `settlement` is None for a release and an expiry. `floor_sats` binds a late settlement.
    """

    kind: Kind
    request_id: str
    at: datetime
    settlement: Settlement | None = None
    floor_sats: int = 0


@frozen
class Deposit:
    """A proposed `seed`, `credit`, `donation` or `adjustment`.

    `sats` is what moves, below 0 only for an adjustment. For a credit it is what was paid, and
    the store works out the share, since only the store knows the carried remainder.
    """

    kind: Kind
    key: str
    sats: int
    credit_share_bp: int | None = None
    sponsor: str | None = None
    note: str | None = None


@frozen
class Books:
    """The derived tables at one instant, right after entry `seq`, for `verify` to hold against it.

    `used` is keyed by (days since 1970, scope, name), `open_grants` by request id with (expiry in
    microseconds since 1970, sats held).
    """

    seq: int
    at: datetime
    balance_sats: int
    reserved_sats: int
    credit_carry: int
    totals: Mapping[Kind, int] = field(hash=False)
    used: Mapping[tuple[int, str, str], int] = field(hash=False)
    open_grants: Mapping[str, tuple[int, int]] = field(hash=False)


class Repository(Protocol):
    """A store in blocking code. Safe to use from several threads. Subclass it: `perform` is given.

    Raises `StoreUnavailable`, `OutcomeUnknown`, `StoreReadOnly`, `StoreFull`, `SchemaError` and
    `IntegrityError`, as `freetier.errors` describes them.
    """

    @abstractmethod
    def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        """The pool, what `identity` and `tier` used today, and the grant that this id has."""

    @abstractmethod
    def draw(self, draw: Draw) -> datetime | None:
        """Write a reserve or a grant; its time. None when a limit is short or the id is known."""

    @abstractmethod
    def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        """Note that a known identity was gated. False when the id is known. Moves no sats."""

    @abstractmethod
    def end(self, ending: Ending) -> datetime | None:
        """Write an ending; its time. None when the grant cannot end so, or a late one be paid."""

    @abstractmethod
    def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        """Expire at most `limit` of the grants that are due; how many it did."""

    @abstractmethod
    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        """Write sats in (or out). None when the key is known or the pool would leave its bounds."""

    @abstractmethod
    def find(self, kind: Kind, key: str) -> Entry | None:
        """The entry of this kind with this key."""

    @abstractmethod
    def status(self, now: datetime | None) -> PoolStatus:
        """The pool, in one cheap read; without `budgets`, which the policy knows."""

    @abstractmethod
    def open_grants(self, now: datetime | None, after: Grant | None = None) -> list[Grant]:
        """A page of the grants held at `now`, the first to expire first, from after `after` on."""

    @abstractmethod
    def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        """A page of the journal, in order, from after seq `after` on."""

    @abstractmethod
    def books(self) -> Books:
        """The derived tables, all of one instant."""

    @abstractmethod
    def close(self) -> None:
        """Give back what was opened. Closing twice is fine."""

    def perform(self, operation: Operation[T]) -> T:
        """Run a whole operation; a store may do those of several callers together."""
        return perform(operation.begin(), self)


class AsyncRepository(Protocol):
    """A store in async code: the methods of `Repository`, awaited. Safe to use from several tasks.

    A task that is cancelled while it waits leaves no lock, no transaction and no connection
    behind; what it was about to write is written whole or not at all. Subclass it: `perform` is
    given.
    """

    @abstractmethod
    async def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        """See `Repository.look`."""

    @abstractmethod
    async def draw(self, draw: Draw) -> datetime | None:
        """See `Repository.draw`."""

    @abstractmethod
    async def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        """See `Repository.note_gate`."""

    @abstractmethod
    async def end(self, ending: Ending) -> datetime | None:
        """See `Repository.end`."""

    @abstractmethod
    async def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        """See `Repository.sweep`."""

    @abstractmethod
    async def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        """See `Repository.deposit`."""

    @abstractmethod
    async def find(self, kind: Kind, key: str) -> Entry | None:
        """See `Repository.find`."""

    @abstractmethod
    async def status(self, now: datetime | None) -> PoolStatus:
        """See `Repository.status`."""

    @abstractmethod
    async def open_grants(self, now: datetime | None, after: Grant | None = None) -> list[Grant]:
        """See `Repository.open_grants`."""

    @abstractmethod
    async def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        """See `Repository.entries`."""

    @abstractmethod
    async def books(self) -> Books:
        """See `Repository.books`."""

    async def open(self) -> Self:
        """Connect; called once before the first call. Nothing, unless a store needs it."""
        return self

    @abstractmethod
    async def close(self) -> None:
        """See `Repository.close`."""

    async def perform(self, operation: Operation[T]) -> T:
        """See `Repository.perform`."""
        return await perform_async(operation.begin(), self)


def page_after(seq: int) -> Callable[[Repository], list[Entry]]:
    """The step that reads the entries after `seq`, as many as `PAGE`."""
    return lambda store: store.entries(seq)

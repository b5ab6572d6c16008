"""The doors for hosts, blocking and async: run an operation's steps. No rule lives here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Self, TypeVar

from freetier.audit import Report
from freetier.checkpoint import Checkpoint
from freetier.entries import Credit, Entry, Grant, PoolStatus
from freetier.errors import InvalidInput
from freetier.operations import Listing, OnUnavailable, Operations
from freetier.policy import FreeTierPolicy
from freetier.reconciling import Reconciliation
from freetier.repository import AsyncRepository, Repository
from freetier.sealing import Head
from freetier.values import Decision, Request, Settlement

T = TypeVar("T")


class FreeTier:
    """A policy over a ledger. Safe to use from several threads; a context manager that closes it.

    Every method is atomic and may be repeated with the same key: the first answer stands. Raises
    `InvalidInput` before any I/O for a bad argument, and the store's errors (`freetier.errors`).

    clock: gives the time as an aware `datetime`; None is the store's own clock. For tests.
    on_unavailable: "gate" makes `decide`, `reserve` and `record_grant` answer with the full price,
        bound by `Limit.UNAVAILABLE`, where they would raise `StoreUnavailable`.
    """

    def __init__(
        self,
        policy: FreeTierPolicy,
        repository: Repository,
        *,
        clock: Callable[[], datetime] | None = None,
        on_unavailable: OnUnavailable = "raise",
    ) -> None:
        self._operations = Operations(policy, repository, clock, on_unavailable)
        if iscoroutinefunction(repository.look):
            raise InvalidInput("repository", repository, "a blocking repository")
        self.repository = repository

    @property
    def policy(self) -> FreeTierPolicy:
        """What decides."""
        return self._operations.policy

    def decide(self, request: Request) -> Decision:
        """What `reserve` would answer now, or what it did answer. Writes nothing.

        Raises `InvalidInput` for an unknown tier, `Conflict` when the id was used for another
        identity, tier or price, `StoreUnavailable`.
        """
        return self.repository.perform(self._operations.decide(request))

    def reserve(self, request: Request, *, ttl: timedelta | None = None) -> Grant:
        """Decide, and hold what the pool promises for `ttl` (the policy's, 15 minutes, if None).

        `ttl` is from a microsecond to 366 days. The same request again gets the same grant and
        draws nothing (rule 5). A gate holds nothing: it is noted for a known identity, and
        written nowhere for an anonymous one. Raises as `decide` does, and `OutcomeUnknown`.
        """
        return self.repository.perform(self._operations.reserve(request, ttl))

    def record_grant(self, request: Request) -> Grant:
        """Decide on a cost that is already known, and pay it at once: the session flow.

        Like `reserve` and `settle` at the price in one step: the grant is settled. A request that
        was reserved before keeps its first grant, open or not. Raises as `reserve` does.
        """
        return self.repository.perform(self._operations.record_grant(request))

    def settle(self, request_id: str, actual_sats: int | None = None) -> Settlement:
        """End a grant on what the work really cost, None if unknown (rules 6 and 7).

        Settled after it expired, it is `late`. The same figures again get the same settlement.
        A gate settles by arithmetic alone. Raises `UnknownRequest` (also for an anonymous gate and
        a price of 0, which are written nowhere: use `grant.decision.settle`), `Conflict` when it
        ended otherwise.
        """
        return self.repository.perform(self._operations.settle(request_id, actual_sats))

    def release(self, request_id: str) -> Grant:
        """Call a grant off: the pool and the identity's allowance get everything back.

        Releasing again gives the same grant. Raises `UnknownRequest`, and `Conflict` when it was
        settled or has expired.
        """
        return self.repository.perform(self._operations.release(request_id))

    def credit(self, payment_hash: str, paid_sats: int) -> Credit:
        """Put the policy's share of a paid invoice into the pool, once a payment (rule 9).

        `paid_sats` is from 1. Credited is the share rounded down; the rest is carried to the next
        credit. Raises `Conflict` when the payment was credited with another amount.
        """
        return self.repository.perform(self._operations.credit(payment_hash, paid_sats))

    def donate(self, key: str, sats: int, *, sponsor: str = "", note: str = "") -> Entry:
        """Put a sponsor's sats (from 1) into the pool, once a key. Raises `Conflict`."""
        return self.repository.perform(self._operations.donate(key, sats, sponsor, note))

    def adjust(self, key: str, sats: int, *, note: str) -> Entry:
        """Correct the pool by `sats`, up or down but not 0, once a key; `note` says why.

        Raises `Conflict`, and `InvalidInput` when it would take the pool below what is reserved.
        """
        return self.repository.perform(self._operations.adjust(key, sats, note))

    def seed(self) -> Entry:
        """Put the policy's seed into the pool, once; the entry that did. `freetier.open` calls it.

        A ledger that was seeded before keeps its seed, whatever the policy says now.
        """
        return self.repository.perform(self._operations.seed())

    def sweep(self) -> int:
        """Expire up to 64 grants that are due; how many it did. Never needed, always harmless."""
        return self.repository.perform(self._operations.sweep())

    def pool_status(self) -> PoolStatus:
        """The pool now, by the same formula as `decide`."""
        return self.repository.perform(self._operations.pool_status())

    def grant(self, request_id: str) -> Grant:
        """The grant of a request, as it stands now. Raises `UnknownRequest`."""
        return self.repository.perform(self._operations.grant(request_id))

    def open_grants(self) -> Iterator[Grant]:
        """The grants held now, the first to expire first; read in pages."""
        return self._listed(self._operations.open_grants())

    def journal(self, after: int = 0) -> Iterator[Entry]:
        """The entries with a `seq` above `after`, in order; read in pages."""
        return self._listed(self._operations.journal(after))

    def verify(self, *, head: Head | None = None, checkpoint: Checkpoint | None = None) -> Report:
        """Prove every balance from the journal; the report names what is broken.

        `head` is an earlier one of this journal: it is then also proved that nothing up to there
        was changed. `checkpoint` is an earlier report's, kept where nobody could change it: only
        what came after it is read and proved. Raises `InvalidInput`, also for a head from before
        the checkpoint, and `IntegrityError` where a table cannot be read at all.
        """
        return self.repository.perform(self._operations.verify(head, checkpoint))

    def seal(self, *, since: Head | None = None) -> Head:
        """The head of the journal now, to be kept elsewhere, and given to `verify` one day.

        From the first entry on, or from an earlier head that is trusted. Writes nothing. Raises
        `IntegrityError` when the journal is shorter than that, or has a gap.
        """
        return self.repository.perform(self._operations.seal(since))

    def reconcile(self, paid: Iterable[tuple[str, int]]) -> Reconciliation:
        """Which of these payments, each a payment hash and the sats paid, lack their credit.

        Writes nothing. Raises `InvalidInput`, also for one payment with two amounts.
        """
        return self.repository.perform(self._operations.reconcile(paid))

    def close(self) -> None:
        """Close the ledger. Closing twice is fine."""
        self.repository.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _listed(self, page_after: Listing[T]) -> Iterator[T]:
        last: T | None = None
        while page := self.repository.perform(page_after(last)):
            yield from page
            last = page[-1]


class AsyncFreeTier:
    """`FreeTier` for async code: the same methods, awaited; what lists is for `async for`.

    Safe to use from several tasks of one event loop; an async context manager that closes the
    ledger. A task may be cancelled at any await: ask again with the same key to learn the truth.
    """

    def __init__(
        self,
        policy: FreeTierPolicy,
        repository: AsyncRepository,
        *,
        clock: Callable[[], datetime] | None = None,
        on_unavailable: OnUnavailable = "raise",
    ) -> None:
        self._operations = Operations(policy, repository, clock, on_unavailable)
        if not iscoroutinefunction(repository.look):
            raise InvalidInput("repository", repository, "an async repository")
        self.repository = repository

    @property
    def policy(self) -> FreeTierPolicy:
        """What decides."""
        return self._operations.policy

    async def decide(self, request: Request) -> Decision:
        """See `FreeTier.decide`."""
        return await self.repository.perform(self._operations.decide(request))

    async def reserve(self, request: Request, *, ttl: timedelta | None = None) -> Grant:
        """See `FreeTier.reserve`."""
        return await self.repository.perform(self._operations.reserve(request, ttl))

    async def record_grant(self, request: Request) -> Grant:
        """See `FreeTier.record_grant`."""
        return await self.repository.perform(self._operations.record_grant(request))

    async def settle(self, request_id: str, actual_sats: int | None = None) -> Settlement:
        """See `FreeTier.settle`."""
        return await self.repository.perform(self._operations.settle(request_id, actual_sats))

    async def release(self, request_id: str) -> Grant:
        """See `FreeTier.release`."""
        return await self.repository.perform(self._operations.release(request_id))

    async def credit(self, payment_hash: str, paid_sats: int) -> Credit:
        """See `FreeTier.credit`."""
        return await self.repository.perform(self._operations.credit(payment_hash, paid_sats))

    async def donate(self, key: str, sats: int, *, sponsor: str = "", note: str = "") -> Entry:
        """See `FreeTier.donate`."""
        return await self.repository.perform(self._operations.donate(key, sats, sponsor, note))

    async def adjust(self, key: str, sats: int, *, note: str) -> Entry:
        """See `FreeTier.adjust`."""
        return await self.repository.perform(self._operations.adjust(key, sats, note))

    async def seed(self) -> Entry:
        """See `FreeTier.seed`."""
        return await self.repository.perform(self._operations.seed())

    async def sweep(self) -> int:
        """See `FreeTier.sweep`."""
        return await self.repository.perform(self._operations.sweep())

    async def pool_status(self) -> PoolStatus:
        """See `FreeTier.pool_status`."""
        return await self.repository.perform(self._operations.pool_status())

    async def grant(self, request_id: str) -> Grant:
        """See `FreeTier.grant`."""
        return await self.repository.perform(self._operations.grant(request_id))

    def open_grants(self) -> AsyncIterator[Grant]:
        """See `FreeTier.open_grants`; to be read with `async for`."""
        return self._listed(self._operations.open_grants())

    def journal(self, after: int = 0) -> AsyncIterator[Entry]:
        """See `FreeTier.journal`; to be read with `async for`."""
        return self._listed(self._operations.journal(after))

    async def verify(
        self, *, head: Head | None = None, checkpoint: Checkpoint | None = None
    ) -> Report:
        """See `FreeTier.verify`."""
        return await self.repository.perform(self._operations.verify(head, checkpoint))

    async def seal(self, *, since: Head | None = None) -> Head:
        """See `FreeTier.seal`."""
        return await self.repository.perform(self._operations.seal(since))

    async def reconcile(self, paid: Iterable[tuple[str, int]]) -> Reconciliation:
        """See `FreeTier.reconcile`."""
        return await self.repository.perform(self._operations.reconcile(paid))

    async def close(self) -> None:
        """Close the ledger. Closing twice is fine."""
        await self.repository.close()

    async def __aenter__(self) -> Self:
        try:
            await self.repository.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _listed(self, page_after: Listing[T]) -> AsyncIterator[T]:
        last: T | None = None
        while page := await self.repository.perform(page_after(last)):
            for row in page:
                yield row
            last = page[-1]

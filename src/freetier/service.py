"""The door for hosts: check the arguments, read the clock, run the steps. No rule lives here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from attrs import evolve

from freetier import admission
from freetier.audit import Report, audit
from freetier.errors import InvalidInput, StoreUnavailable, UnknownRequest, shown
from freetier.policy import FreeTierPolicy
from freetier.repository import SWEEP_LIMIT, Deposit, Repository
from freetier.values import (
    MAX_SATS,
    MAX_TTL_S,
    Credit,
    Decision,
    Entry,
    Grant,
    Kind,
    PoolStatus,
    Request,
    Settlement,
    check_id,
    check_note,
    check_sats,
    check_time,
)

T = TypeVar("T")
_MAX_SEQ = 2**63

OnUnavailable = Literal["raise", "gate"]


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
        check_options(policy, clock, on_unavailable)
        if not callable(getattr(repository, "look", None)):
            raise InvalidInput("repository", repository, "a Repository")
        self.policy = policy
        self.repository = repository
        self._clock = clock
        self._gates = on_unavailable == "gate"

    def decide(self, request: Request) -> Decision:
        """What `reserve` would answer now, or what it did answer. Writes nothing.

        Raises `InvalidInput` for an unknown tier, `Conflict` when the id was used for another
        identity, tier or price, `StoreUnavailable`.
        """
        _check_request(request)
        try:
            return self._run(admission.decide(self.policy, request, self._now()))
        except StoreUnavailable:
            if not self._gates:
                raise
            return admission.gated(request, self._now() or datetime.now(UTC)).decision

    def reserve(self, request: Request, *, ttl: timedelta | None = None) -> Grant:
        """Decide, and hold what the pool promises for `ttl` (the policy's, 15 minutes, if None).

        `ttl` is from a microsecond to 366 days. The same request again gets the same grant and
        draws nothing (rule 5). A gate holds nothing: it is noted for a known identity, and
        written nowhere for an anonymous one. Raises as `decide` does, and `OutcomeUnknown`.
        """
        _check_request(request)
        ttl = _check_ttl(timedelta(seconds=self.policy.grant_ttl_s) if ttl is None else ttl)
        return self._admit(request, ttl)

    def record_grant(self, request: Request) -> Grant:
        """Decide on a cost that is already known, and pay it at once: the session flow.

        Like `reserve` and `settle` at the price in one step: the grant is settled. A request that
        was reserved before keeps its first grant, open or not. Raises as `reserve` does.
        """
        _check_request(request)
        return self._admit(request, None)

    def settle(self, request_id: str, actual_sats: int | None = None) -> Settlement:
        """End a grant on what the work really cost, None if unknown (rules 6 and 7).

        Settled after it expired, it is `late`. The same figures again get the same settlement.
        A gate settles by arithmetic alone. Raises `UnknownRequest` (also for an anonymous gate and
        a price of 0, which are written nowhere: use `grant.decision.settle`), `Conflict` when it
        ended otherwise.
        """
        check_id("request_id", request_id)
        if actual_sats is not None:
            check_sats("actual_sats", actual_sats)
        return self._run(admission.settle(self.policy, request_id, actual_sats, self._now()))

    def release(self, request_id: str) -> Grant:
        """Call a grant off: the pool and the identity's allowance get everything back.

        Releasing again gives the same grant. Raises `UnknownRequest`, and `Conflict` when it was
        settled or has expired.
        """
        check_id("request_id", request_id)
        return self._run(admission.release(request_id, self._now()))

    def credit(self, payment_hash: str, paid_sats: int) -> Credit:
        """Put the policy's share of a paid invoice into the pool, once a payment (rule 9).

        `paid_sats` is from 1. Credited is the share rounded down; the rest is carried to the next
        credit. Raises `Conflict` when the payment was credited with another amount.
        """
        check_id("payment_hash", payment_hash)
        check_sats("paid_sats", paid_sats, least=1)
        return self._run(admission.credit(self.policy, payment_hash, paid_sats, self._now()))

    def donate(self, key: str, sats: int, *, sponsor: str = "", note: str = "") -> Entry:
        """Put a sponsor's sats (from 1) into the pool, once a key. Raises `Conflict`."""
        check_sats("sats", sats, least=1)
        return self._deposit(Kind.DONATION, key, sats, sponsor, note)

    def adjust(self, key: str, sats: int, *, note: str) -> Entry:
        """Correct the pool by `sats`, up or down but not 0, once a key; `note` says why.

        Raises `Conflict`, and `InvalidInput` when it would take the pool below what is reserved.
        """
        check_sats("sats", sats, least=-MAX_SATS)
        if sats == 0:
            raise InvalidInput("sats", sats, "a number of sats that is not 0")
        check_id("note", note)
        return self._deposit(Kind.ADJUSTMENT, key, sats, "", note)

    def seed(self) -> Entry:
        """Put the policy's seed into the pool, once; the entry that did. `freetier.open` calls it.

        A ledger that was seeded before keeps its seed, whatever the policy says now.
        """
        return self._run(admission.seed(self.policy, self._now()))

    def sweep(self) -> int:
        """Expire up to 64 grants that are due; how many it did. Never needed, always harmless."""
        return self.repository.sweep(self._now(), SWEEP_LIMIT)

    def pool_status(self) -> PoolStatus:
        """The pool now, by the same formula as `decide`."""
        return evolve(self.repository.status(self._now()), budgets=dict(self.policy.budgets))

    def grant(self, request_id: str) -> Grant:
        """The grant of a request, as it stands now. Raises `UnknownRequest`."""
        check_id("request_id", request_id)
        grant = self.repository.look(request_id, self._now()).grant
        if grant is None:
            raise UnknownRequest(f"no grant was written for request {shown(request_id)}")
        return grant

    def open_grants(self) -> Iterator[Grant]:
        """The grants held now, the first to expire first; read in pages."""
        now = self._now()
        last: Grant | None = None
        while page := self.repository.open_grants(now, last):
            yield from page
            last = page[-1]

    def journal(self, after: int = 0) -> Iterator[Entry]:
        """The entries with a `seq` above `after`, in order; read in pages."""
        if type(after) is not int or not 0 <= after < _MAX_SEQ:
            raise InvalidInput("after", after, "a seq from 0")
        return self._pages(after)

    def verify(self) -> Report:
        """Prove every balance from the journal; the report names what is broken.

        Raises `IntegrityError` where a table cannot be read at all.
        """
        return audit(self._pages, self.repository.books)

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

    def _admit(self, request: Request, ttl: timedelta | None) -> Grant:
        now = self._now()
        try:
            return self._run(admission.admit(self.policy, request, now, ttl=ttl))
        except StoreUnavailable:
            if not self._gates:
                raise
            return admission.gated(request, now or datetime.now(UTC))

    def _run(self, steps: admission.Steps[T]) -> T:
        result: Any = None
        try:
            while True:
                result = steps.send(result)(self.repository)
        except StopIteration as done:
            value: T = done.value
            return value

    def _now(self) -> datetime | None:
        return None if self._clock is None else check_time("clock()", self._clock())

    def _deposit(self, kind: Kind, key: str, sats: int, sponsor: str, note: str) -> Entry:
        check_id("key", key)
        deposit = Deposit(
            kind, key, sats, sponsor=check_note("sponsor", sponsor), note=check_note("note", note)
        )
        return self._run(admission.deposit(deposit, self._now()))

    def _pages(self, after: int) -> Iterator[Entry]:
        while page := self.repository.entries(after):
            yield from page
            after = page[-1].seq


def check_options(policy: object, clock: object, on_unavailable: object) -> None:
    """Raise `InvalidInput` unless a `FreeTier` can be made of these."""
    if not isinstance(policy, FreeTierPolicy):
        raise InvalidInput("policy", policy, "a FreeTierPolicy")
    if clock is not None and not callable(clock):
        raise InvalidInput("clock", clock, "a callable that gives an aware datetime, or None")
    if on_unavailable not in ("raise", "gate"):
        raise InvalidInput("on_unavailable", on_unavailable, "'raise' or 'gate'")


def _check_request(request: object) -> None:
    if not isinstance(request, Request):
        raise InvalidInput("request", request, "a freetier.Request")


def _check_ttl(ttl: object) -> timedelta:
    if isinstance(ttl, timedelta) and timedelta(0) < ttl <= timedelta(seconds=MAX_TTL_S):
        return ttl
    raise InvalidInput("ttl", ttl, "a timedelta from a microsecond to 366 days")

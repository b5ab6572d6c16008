"""What a host may ask for: its arguments checked, the clock read, given back as an `Operation`.

`FreeTier` and `AsyncFreeTier` are two doors to this; how steps run is all that they differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

from freetier import admission
from freetier.audit import Report, audit
from freetier.checkpoint import Checkpoint
from freetier.entries import Credit, Entry, Grant, Kind, PoolStatus
from freetier.errors import InvalidInput, StoreUnavailable
from freetier.policy import FreeTierPolicy
from freetier.reconciling import Reconciliation, checked_payments, reconcile
from freetier.repository import SWEEP_LIMIT, Deposit
from freetier.sealing import START, Head, seal
from freetier.steps import Operation, Steps, ask
from freetier.values import (
    MAX_SATS,
    MAX_STORED,
    MAX_TTL_S,
    Decision,
    Request,
    Settlement,
    check_id,
    check_note,
    check_sats,
    check_time,
    check_type,
)

T = TypeVar("T")
Clock = Callable[[], datetime]
OnUnavailable = Literal["raise", "gate"]
Listing = Callable[[T | None], Operation[list[T]]]
"""Gives the page after its argument, the first one after None; the last page is empty."""


class Operations:
    """The methods of `FreeTier`, as operations. Each raises `InvalidInput` before it is begun."""

    def __init__(
        self,
        policy: FreeTierPolicy,
        repository: object,
        clock: Clock | None,
        on_unavailable: OnUnavailable,
    ) -> None:
        check_options(policy, clock, on_unavailable)
        if not callable(getattr(repository, "perform", None)):
            raise InvalidInput("repository", repository, "a repository")
        self.policy = policy
        self._clock = clock
        self._gates = on_unavailable == "gate"

    def decide(self, request: Request) -> Operation[Decision]:
        """See `FreeTier.decide`; so for each method."""
        _check_request(request)
        now = self._now()
        return _reading(
            lambda: self._or(
                admission.decide(self.policy, request, now), lambda: _gated(request, now).decision
            )
        )

    def reserve(self, request: Request, ttl: timedelta | None) -> Operation[Grant]:
        _check_request(request)
        held = _check_ttl(timedelta(seconds=self.policy.grant_ttl_s) if ttl is None else ttl)
        return self._admit(request, held)

    def record_grant(self, request: Request) -> Operation[Grant]:
        _check_request(request)
        return self._admit(request, None)

    def settle(self, request_id: str, actual_sats: int | None) -> Operation[Settlement]:
        check_id("request_id", request_id)
        if actual_sats is not None:
            check_sats("actual_sats", actual_sats)
        now = self._now()
        return _writing(lambda: admission.settle(self.policy, request_id, actual_sats, now))

    def release(self, request_id: str) -> Operation[Grant]:
        check_id("request_id", request_id)
        now = self._now()
        return _writing(lambda: admission.release(request_id, now))

    def credit(self, payment_hash: str, paid_sats: int) -> Operation[Credit]:
        check_id("payment_hash", payment_hash)
        check_sats("paid_sats", paid_sats, least=1)
        now = self._now()
        return _writing(lambda: admission.credit(self.policy, payment_hash, paid_sats, now))

    def donate(self, key: str, sats: int, sponsor: str, note: str) -> Operation[Entry]:
        check_sats("sats", sats, least=1)
        return self._deposit(Kind.DONATION, key, sats, sponsor, note)

    def adjust(self, key: str, sats: int, note: str) -> Operation[Entry]:
        check_sats("sats", sats, least=-MAX_SATS)
        if sats == 0:
            raise InvalidInput("sats", sats, "a number of sats that is not 0")
        check_id("note", note)
        return self._deposit(Kind.ADJUSTMENT, key, sats, "", note)

    def seed(self) -> Operation[Entry]:
        now = self._now()
        return _writing(lambda: admission.seed(self.policy, now))

    def sweep(self) -> Operation[int]:
        now = self._now()
        return _writing(lambda: ask(lambda store: store.sweep(now, SWEEP_LIMIT)))

    def pool_status(self) -> Operation[PoolStatus]:
        now = self._now()
        return _reading(lambda: admission.status(self.policy, now))

    def grant(self, request_id: str) -> Operation[Grant]:
        check_id("request_id", request_id)
        now = self._now()
        return _reading(lambda: admission.grant(request_id, now))

    def open_grants(self) -> Listing[Grant]:
        now = self._now()
        return lambda last: _reading(lambda: ask(lambda store: store.open_grants(now, last)))

    def journal(self, after: int) -> Listing[Entry]:
        if type(after) is not int or not 0 <= after <= MAX_STORED:
            raise InvalidInput("after", after, "a seq from 0")
        return lambda last: _reading(
            lambda: ask(lambda store: store.entries(after if last is None else last.seq))
        )

    def verify(self, head: Head | None, checkpoint: Checkpoint | None) -> Operation[Report]:
        if head is not None:
            check_type("head", head, Head)
        if checkpoint is not None:
            check_type("checkpoint", checkpoint, Checkpoint)
        return _reading(lambda: audit(head, checkpoint))

    def seal(self, since: Head | None) -> Operation[Head]:
        start = START if since is None else since
        check_type("since", start, Head)
        return _reading(lambda: seal(start))

    def reconcile(self, paid: Iterable[tuple[str, int]]) -> Operation[Reconciliation]:
        payments = checked_payments(paid)
        return _reading(lambda: reconcile(payments))

    def _admit(self, request: Request, ttl: timedelta | None) -> Operation[Grant]:
        now = self._now()
        return _writing(
            lambda: self._or(
                admission.admit(self.policy, request, now, ttl=ttl), lambda: _gated(request, now)
            )
        )

    def _or(self, steps: Steps[T], gated: Callable[[], T]) -> Steps[T]:
        """`steps`; or `gated`, if the store cannot answer and the host would rather charge."""
        try:
            return (yield from steps)
        except StoreUnavailable:
            if not self._gates:
                raise
            return gated()

    def _deposit(
        self, kind: Kind, key: str, sats: int, sponsor: str, note: str
    ) -> Operation[Entry]:
        check_id("key", key)
        deposit = Deposit(
            kind, key, sats, sponsor=check_note("sponsor", sponsor), note=check_note("note", note)
        )
        now = self._now()
        return _writing(lambda: admission.deposit(deposit, now))

    def _now(self) -> datetime | None:
        return None if self._clock is None else check_time("clock()", self._clock())


def _reading(begin: Callable[[], Steps[T]]) -> Operation[T]:
    return Operation(begin, writes=False)


def _writing(begin: Callable[[], Steps[T]]) -> Operation[T]:
    return Operation(begin, writes=True)


def check_options(policy: object, clock: object, on_unavailable: object) -> None:
    """Raise `InvalidInput` unless a `FreeTier` can be made of these."""
    check_type("policy", policy, FreeTierPolicy)
    if clock is not None and not callable(clock):
        raise InvalidInput("clock", clock, "a callable that gives an aware datetime, or None")
    if on_unavailable not in ("raise", "gate"):
        raise InvalidInput("on_unavailable", on_unavailable, "'raise' or 'gate'")


def _gated(request: Request, now: datetime | None) -> Grant:
    # The store has the clock, and does not answer.
    return admission.gated(request, now or datetime.now(UTC))


def _check_request(request: object) -> None:
    if not isinstance(request, Request):
        raise InvalidInput("request", request, "a freetier.Request")


def _check_ttl(ttl: object) -> timedelta:
    if isinstance(ttl, timedelta) and timedelta(0) < ttl <= timedelta(seconds=MAX_TTL_S):
        return ttl
    raise InvalidInput("ttl", ttl, "a timedelta from a microsecond to 366 days")

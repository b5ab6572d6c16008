"""What a host may ask for: its arguments checked, the clock read, given back as steps.

`FreeTier` and `AsyncFreeTier` are two doors to this; how steps run is all that they differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

from freetier import admission
from freetier.audit import Report, audit
from freetier.checkpoint import Checkpoint, check_checkpoint
from freetier.errors import InvalidInput, StoreUnavailable
from freetier.policy import FreeTierPolicy
from freetier.reconciling import Reconciliation, checked_payments, reconcile
from freetier.repository import SWEEP_LIMIT, Deposit
from freetier.sealing import START, Head, check_head, seal
from freetier.steps import Steps, ask
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
Clock = Callable[[], datetime]
OnUnavailable = Literal["raise", "gate"]
Listing = Callable[[T | None], Steps[list[T]]]
"""Gives the page after its argument, the first one after None; the last page is empty."""

_MAX_SEQ = 2**63


class Operations:
    """The methods of `FreeTier`, as steps. Each raises `InvalidInput` before its first step."""

    def __init__(
        self,
        policy: FreeTierPolicy,
        repository: object,
        clock: Clock | None,
        on_unavailable: OnUnavailable,
    ) -> None:
        check_options(policy, clock, on_unavailable)
        if not callable(getattr(repository, "look", None)):
            raise InvalidInput("repository", repository, "a repository")
        self.policy = policy
        self._clock = clock
        self._gates = on_unavailable == "gate"

    def decide(self, request: Request) -> Steps[Decision]:
        """See `FreeTier.decide`; so for each method."""
        _check_request(request)
        now = self._now()
        decided = admission.decide(self.policy, request, now)
        return self._or(decided, lambda: _gated(request, now).decision)

    def reserve(self, request: Request, ttl: timedelta | None) -> Steps[Grant]:
        _check_request(request)
        held = _check_ttl(timedelta(seconds=self.policy.grant_ttl_s) if ttl is None else ttl)
        return self._admit(request, held)

    def record_grant(self, request: Request) -> Steps[Grant]:
        _check_request(request)
        return self._admit(request, None)

    def settle(self, request_id: str, actual_sats: int | None) -> Steps[Settlement]:
        check_id("request_id", request_id)
        if actual_sats is not None:
            check_sats("actual_sats", actual_sats)
        return admission.settle(self.policy, request_id, actual_sats, self._now())

    def release(self, request_id: str) -> Steps[Grant]:
        check_id("request_id", request_id)
        return admission.release(request_id, self._now())

    def credit(self, payment_hash: str, paid_sats: int) -> Steps[Credit]:
        check_id("payment_hash", payment_hash)
        check_sats("paid_sats", paid_sats, least=1)
        return admission.credit(self.policy, payment_hash, paid_sats, self._now())

    def donate(self, key: str, sats: int, sponsor: str, note: str) -> Steps[Entry]:
        check_sats("sats", sats, least=1)
        return self._deposit(Kind.DONATION, key, sats, sponsor, note)

    def adjust(self, key: str, sats: int, note: str) -> Steps[Entry]:
        check_sats("sats", sats, least=-MAX_SATS)
        if sats == 0:
            raise InvalidInput("sats", sats, "a number of sats that is not 0")
        check_id("note", note)
        return self._deposit(Kind.ADJUSTMENT, key, sats, "", note)

    def seed(self) -> Steps[Entry]:
        return admission.seed(self.policy, self._now())

    def sweep(self) -> Steps[int]:
        now = self._now()
        return ask(lambda store: store.sweep(now, SWEEP_LIMIT))

    def pool_status(self) -> Steps[PoolStatus]:
        return admission.status(self.policy, self._now())

    def grant(self, request_id: str) -> Steps[Grant]:
        check_id("request_id", request_id)
        return admission.grant(request_id, self._now())

    def open_grants(self) -> Listing[Grant]:
        now = self._now()
        return lambda last: ask(lambda store: store.open_grants(now, last))

    def journal(self, after: int) -> Listing[Entry]:
        if type(after) is not int or not 0 <= after < _MAX_SEQ:
            raise InvalidInput("after", after, "a seq from 0")
        return lambda last: ask(lambda store: store.entries(after if last is None else last.seq))

    def verify(self, head: Head | None, checkpoint: Checkpoint | None) -> Steps[Report]:
        return audit(
            None if head is None else check_head("head", head),
            None if checkpoint is None else check_checkpoint(checkpoint),
        )

    def seal(self, since: Head | None) -> Steps[Head]:
        return seal(START if since is None else check_head("since", since))

    def reconcile(self, paid: Iterable[tuple[str, int]]) -> Steps[Reconciliation]:
        return reconcile(checked_payments(paid))

    def _admit(self, request: Request, ttl: timedelta | None) -> Steps[Grant]:
        now = self._now()
        admitted = admission.admit(self.policy, request, now, ttl=ttl)
        return self._or(admitted, lambda: _gated(request, now))

    def _or(self, steps: Steps[T], gated: Callable[[], T]) -> Steps[T]:
        """`steps`; or `gated`, if the store cannot answer and the host would rather charge."""
        try:
            return (yield from steps)
        except StoreUnavailable:
            if not self._gates:
                raise
            return gated()

    def _deposit(self, kind: Kind, key: str, sats: int, sponsor: str, note: str) -> Steps[Entry]:
        check_id("key", key)
        deposit = Deposit(
            kind, key, sats, sponsor=check_note("sponsor", sponsor), note=check_note("note", note)
        )
        return admission.deposit(deposit, self._now())

    def _now(self) -> datetime | None:
        return None if self._clock is None else check_time("clock()", self._clock())


def check_options(policy: object, clock: object, on_unavailable: object) -> None:
    """Raise `InvalidInput` unless a `FreeTier` can be made of these."""
    if not isinstance(policy, FreeTierPolicy):
        raise InvalidInput("policy", policy, "a FreeTierPolicy")
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

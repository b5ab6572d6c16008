"""One write's way, without I/O: look, propose, record; refused, look again.

Each operation is a generator of steps (`freetier.steps`), the same for blocking and async hosts.

A refusal means that somebody else got there first, so every look-again sees the ledger further
on. Nobody holds a lock while Python thinks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import evolve

from freetier.entries import Credit, Entry, Grant, GrantState, Kind, PoolStatus
from freetier.errors import Conflict, InvalidInput, StoreUnavailable, UnknownRequest, shown
from freetier.policy import FreeTierPolicy
from freetier.repository import Deposit, Draw, Ending, View
from freetier.steps import Step, Steps
from freetier.values import (
    MAX_SATS,
    WHOLE_BP,
    Decision,
    Limit,
    Request,
    Serve,
    Settlement,
    Snapshot,
)

ATTEMPTS = 100
"""How often one call is refused before it says that the store is too contended.

A refusal while expired grants still hold sats does not count: the call sweeps, 64 at a time, until
there are none, and each turn gets further.
"""


def decide(policy: FreeTierPolicy, request: Request, now: datetime | None) -> Steps[Decision]:
    """The decision as of now; the first one again, for a request that has one. Writes nothing."""
    policy.check_tier("tier", request.tier)
    view: View = yield _look(request, now)
    if view.grant is not None:
        return _first_answer(view.grant, request).decision
    return policy.decide(request, view.snapshot)


def admit(
    policy: FreeTierPolicy, request: Request, now: datetime | None, *, ttl: timedelta | None
) -> Steps[Grant]:
    """Decide, and write it down: held for `ttl`, or paid at once where `ttl` is None."""
    policy.check_tier("tier", request.tier)
    refusals = 0
    while refusals < ATTEMPTS:
        view: View = yield _look(request, now)
        if view.grant is not None:
            return _first_answer(view.grant, request)
        at = view.snapshot.at
        decision = policy.decide(request, view.snapshot)
        grant = _grant(request, decision, at, ttl)
        if grant.state is GrantState.UNHELD:
            if (yield from _noted(request, decision, at)):
                return grant
        else:
            yield from _swept(view, now)
            written: datetime | None = yield _draw(policy, grant, request)
            if written is not None:
                return grant if written == at else evolve(grant, reserved_at=written)
        refusals += not view.due
    raise _contended(f"request {shown(request.request_id)}")


def settle(
    policy: FreeTierPolicy, request_id: str, actual_sats: int | None, now: datetime | None
) -> Steps[Settlement]:
    """End a grant on the real cost; late if it expired. The same figures again: the same answer."""
    refusals = 0
    while refusals < ATTEMPTS:
        view: View = yield lambda store: store.look(request_id, now)
        grant = _known(view, request_id)
        settlement = grant.decision.settle(actual_sats)
        if grant.settlement is not None:
            if grant.settlement.actual_sats == settlement.actual_sats:
                return grant.settlement
            raise Conflict(
                f"request {shown(request_id)} was settled at {grant.settlement.actual_sats} sats, "
                f"not {settlement.actual_sats}"
            )
        match grant.state:
            case GrantState.UNHELD:
                return settlement
            case GrantState.OPEN:
                kind = Kind.SETTLE
            case GrantState.EXPIRED:
                kind = Kind.LATE
                settlement = _late(settlement, policy.pool_room(view.snapshot))
                # Swept or not, it is over: the ending comes first, the late settlement after it.
                yield _end(Ending(Kind.EXPIRE, request_id, view.snapshot.at))
                yield from _swept(view, now)
            case _:
                raise Conflict(f"request {shown(request_id)} was {grant.state}")
        ending = Ending(kind, request_id, view.snapshot.at, settlement, policy.floor_sats)
        if (yield _end(ending)) is not None:
            return settlement
        refusals += not view.due
    raise _contended(f"settling {shown(request_id)}")


def release(request_id: str, now: datetime | None) -> Steps[Grant]:
    """Give a grant back, to pool and allowance. Again: the same answer."""
    for _ in range(ATTEMPTS):
        view: View = yield lambda store: store.look(request_id, now)
        grant = _known(view, request_id)
        if grant.state in (GrantState.RELEASED, GrantState.UNHELD):
            return grant
        if grant.state is not GrantState.OPEN:
            raise Conflict(f"request {shown(request_id)} was {grant.state}")
        if (yield _end(Ending(Kind.RELEASE, request_id, view.snapshot.at))) is not None:
            return evolve(grant, state=GrantState.RELEASED)
    raise _contended(f"releasing {shown(request_id)}")


def credit(
    policy: FreeTierPolicy, payment_hash: str, paid_sats: int, now: datetime | None
) -> Steps[Credit]:
    """Put the share of a paid invoice into the pool, once."""
    proposed = Deposit(Kind.CREDIT, payment_hash, paid_sats, policy.credit_share_bp)
    entry: Entry = yield from _once(proposed, now, lambda found: found.paid_sats == paid_sats)
    return Credit(payment_hash, paid_sats, entry.balance_change)


def deposit(proposed: Deposit, now: datetime | None) -> Steps[Entry]:
    """Write a donation or an adjustment, once."""

    def same(found: Entry) -> bool:
        return (found.balance_change, found.sponsor or "", found.note or "") == (
            proposed.sats,
            proposed.sponsor or "",
            proposed.note or "",
        )

    return (yield from _once(proposed, now, same))


def seed(policy: FreeTierPolicy, now: datetime | None) -> Steps[Entry]:
    """Write the seed, unless there is one, whatever its amount."""
    found: Entry | None = yield lambda store: store.find(Kind.SEED, "seed")
    if found is not None:
        return found
    proposed = Deposit(Kind.SEED, "seed", policy.seed_sats)
    return (yield from _once(proposed, now, lambda _: True))


def gated(request: Request, at: datetime) -> Grant:
    """The grant of a host that would rather charge than fail: the full price, noted nowhere.

    A price of 0 stays free.
    """
    price = request.price_sats
    if price:
        decision = Decision(Serve.GATE, price, 0, price, Limit.UNAVAILABLE, {Limit.UNAVAILABLE: 0})
    else:
        decision = Decision(Serve.FREE, 0, 0, 0, None, {})
    return _grant(request, decision, at, None)


def _once(proposed: Deposit, now: datetime | None, same: Callable[[Entry], bool]) -> Steps[Entry]:
    """Write a deposit, or find the one that used its key; `Conflict` unless that is the same."""
    refusals = 0
    while refusals < ATTEMPTS:
        entry: Entry | None = yield lambda store: store.deposit(proposed, now)
        if entry is not None:
            return entry
        entry = yield lambda store: store.find(proposed.kind, proposed.key)
        if entry is not None:
            if same(entry):
                return entry
            raise Conflict(
                f"{proposed.kind} {shown(proposed.key)} was written before, with other figures"
            )
        view: View = yield lambda store: store.look(proposed.key, now)
        _check_fits(proposed, view.snapshot)
        yield from _swept(view, now)
        refusals += not view.due
    raise _contended(f"{proposed.kind} {shown(proposed.key)}")


def grant(request_id: str, now: datetime | None) -> Steps[Grant]:
    """The grant of a request, as it stands."""
    view: View = yield lambda store: store.look(request_id, now)
    return _known(view, request_id)


def status(policy: FreeTierPolicy, now: datetime | None) -> Steps[PoolStatus]:
    """The pool, with the policy's budgets."""
    found: PoolStatus = yield lambda store: store.status(now)
    return evolve(found, budgets=dict(policy.budgets))


def _swept(view: View, now: datetime | None) -> Steps[None]:
    """Expire what is due: its sats count as available, and the guard agrees once it is swept."""
    if view.due:
        yield lambda store: store.sweep(now)


def _check_fits(proposed: Deposit, snapshot: Snapshot) -> None:
    """Raise unless the pool has the room, down to what is reserved and up to all there is."""
    least, most = -snapshot.available_sats, MAX_SATS - snapshot.balance_sats
    if proposed.credit_share_bp is not None:
        share_sats = -(-proposed.sats * proposed.credit_share_bp // WHOLE_BP)
        if share_sats > most:
            raise InvalidInput("paid_sats", proposed.sats, f"a share of at most {most} sats")
    elif not least <= proposed.sats <= most:
        raise InvalidInput("sats", proposed.sats, f"{least} to {most}, as the pool stands")


def _look(request: Request, now: datetime | None) -> Step:
    return lambda store: store.look(
        request.request_id, now, identity=request.identity, tier=request.tier
    )


def _end(ending: Ending) -> Step:
    return lambda store: store.end(ending)


def _draw(policy: FreeTierPolicy, grant: Grant, request: Request) -> Step:
    kind = Kind.RESERVE if grant.expires_at else Kind.GRANT
    caps = policy.caps(request, grant.reserved_at)
    draw = Draw(kind, request, grant.decision, caps, grant.reserved_at, grant.expires_at)
    return lambda store: store.draw(draw)


def _noted(request: Request, decision: Decision, at: datetime) -> Steps[bool]:
    """Note a gate; True where there is nothing to note, False where the id is taken meanwhile."""
    if decision.serve is not Serve.GATE or request.identity is None:
        return True
    noted: bool = yield lambda store: store.note_gate(request, decision, at)
    return noted


def _grant(request: Request, decision: Decision, at: datetime, ttl: timedelta | None) -> Grant:
    if not decision.absorb_sats:
        state, expires_at, settlement = GrantState.UNHELD, None, None
    elif ttl is None:
        state, expires_at, settlement = GrantState.SETTLED, None, decision.settle()
    else:
        state, expires_at, settlement = GrantState.OPEN, at + ttl, None
    return Grant(
        request.request_id,
        request.identity,
        request.tier,
        decision,
        state,
        at,
        expires_at,
        settlement,
    )


def _first_answer(grant: Grant, request: Request) -> Grant:
    """The grant that was given, if this is the request it was given for."""
    asked = (request.identity, request.tier, request.price_sats)
    if asked == (grant.identity, grant.tier, grant.decision.price_sats):
        return grant
    raise Conflict(
        f"request {shown(request.request_id)} was asked before by {shown(grant.identity)}, "
        f"tier {grant.tier}, for {grant.decision.price_sats} sats; now by "
        f"{shown(request.identity)}, tier {request.tier}, for {request.price_sats}"
    )


def _known(view: View, request_id: str) -> Grant:
    if view.grant is None:
        raise UnknownRequest(f"no grant was written for request {shown(request_id)}")
    return view.grant


def _late(settlement: Settlement, room: int) -> Settlement:
    """The settlement as far as the pool still pays it."""
    absorbed = min(settlement.absorbed_sats, room)
    return evolve(
        settlement,
        absorbed_sats=absorbed,
        late=True,
        uncovered_sats=settlement.absorbed_sats - absorbed,
    )


def _contended(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{what}: refused {ATTEMPTS} times in a row")

"""The readable model: the whole ledger in dictionaries, under one lock.

It is the specification that the SQL stores are held to, in random interleavings, and a ledger for
tests. It keeps what it is told until the process ends.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from datetime import UTC, date, datetime
from itertools import takewhile
from typing import Any

from freetier.entries import Entry, Grant, GrantState, Kind, PoolStatus
from freetier.journal import amount, once, settlement, state
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
from freetier.values import (
    EPOCH,
    MAX_SATS,
    WHOLE_BP,
    Decision,
    Request,
    Serve,
    Snapshot,
    to_us,
    utc_day,
)

_BLANK: dict[str, Any] = dict.fromkeys(field.name for field in Entry.__attrs_attrs__)


class MemoryRepository(Repository):
    """A ledger in memory. Safe to use from several threads; nothing outlives the object."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._journal: list[Entry] = []
        self._entry: dict[tuple[str, str], Entry] = {}  # by (what there is one of, key)
        self._open: list[Entry] = []  # the draws that hold sats, the first to expire first
        self._gates: dict[str, Grant] = {}
        self._used: dict[tuple[date, str, str], int] = defaultdict(int)
        self._totals = dict.fromkeys(Kind, 0)
        self._balance = 0
        self._reserved = 0
        self._carry = 0

    def look(
        self,
        request_id: str,
        now: datetime | None,
        *,
        identity: str | None = None,
        tier: str | None = None,
    ) -> View:
        """The pool, what `identity` and `tier` used today, and the grant that this id has."""
        with self._lock:
            at = self._time(now)
            due = self._due(at)
            day = utc_day(at)
            snapshot = Snapshot(
                at=at,
                balance_sats=self._balance,
                reserved_sats=self._reserved - _held(due),
                identity_used_sats=self._used.get((day, "identity", identity or ""), 0),
                tier_used_sats=self._used.get((day, "tier", tier or ""), 0),
                pool_used_sats=self._used.get((day, "pool", ""), 0),
            )
            return View(snapshot, self._grant(request_id, at), len(due))

    def draw(self, draw: Draw) -> datetime | None:
        """Write a reserve or a grant; its time. None when a limit is short or the id is known."""
        with self._lock:
            at = self._time(draw.at)
            key, absorb, caps = draw.request.request_id, draw.decision.absorb_sats, draw.caps
            available = self._balance - self._reserved
            held = draw.kind is Kind.RESERVE
            if (
                ("draw", key) in self._entry
                or key in self._gates
                or utc_day(at) != utc_day(draw.at)
                or (draw.expires_at is not None and draw.expires_at <= at)
                or available - absorb < caps.floor_sats
                or (
                    caps.pool_share_bp is not None
                    and absorb > available * caps.pool_share_bp // WHOLE_BP
                )
                or any(
                    cap is not None and self._used.get((utc_day(at), scope, name), 0) + absorb > cap
                    for scope, name, cap in (
                        ("identity", draw.request.identity or "", caps.budget_sats),
                        ("tier", draw.request.tier, caps.tier_ceiling_sats),
                        ("pool", "", caps.release_sats),
                    )
                )
            ):
                return None
            return self._append(
                draw.kind,
                key,
                at,
                balance=0 if held else -absorb,
                reserved=absorb if held else 0,
                used=absorb,
                identity=draw.request.identity,
                tier=draw.request.tier,
                day=utc_day(at),
                price_sats=draw.request.price_sats,
                absorb_sats=absorb,
                charge_sats=draw.decision.charge_sats,
                budget_sats=caps.budget_sats,
                tier_ceiling_sats=caps.tier_ceiling_sats,
                release_sats=caps.release_sats,
                floor_sats=caps.floor_sats,
                pool_share_bp=caps.pool_share_bp,
                bound_by=draw.decision.bound_by,
                rooms=dict(draw.decision.rooms),
                resets_at=draw.decision.resets_at,
                expires_at=draw.expires_at,
            ).at

    def note_gate(self, request: Request, decision: Decision, at: datetime) -> bool:
        """Note that a known identity was gated. False when the id is known. Moves no sats."""
        with self._lock:
            key = request.request_id
            if key in self._gates or ("draw", key) in self._entry:
                return False
            self._gates[key] = Grant(
                key, request.identity, request.tier, decision, GrantState.UNHELD, at
            )
            return True

    def end(self, ending: Ending) -> datetime | None:
        """Write an ending; its time. None when the grant cannot end so, or a late one be paid."""
        with self._lock:
            key, kind = ending.request_id, ending.kind
            at = self._time(ending.at)
            draw = self._entry.get(("draw", key))
            if draw is None or draw.expires_at is None or draw.absorb_sats is None:
                return None
            absorbed = ending.settlement.absorbed_sats if ending.settlement else 0
            if not _in_figures_of(draw, ending):
                return None
            late = kind is Kind.LATE
            if late:
                ended = self._entry.get(("ending", key))
                expired = ended is not None and ended.kind is Kind.EXPIRE
                left = self._balance - self._reserved - absorbed
                short = absorbed > 0 and left < ending.floor_sats
                if not expired or ("late", key) in self._entry or short:
                    return None
            elif ("ending", key) in self._entry or (kind is Kind.EXPIRE) != (at >= draw.expires_at):
                return None
            return self._append(
                kind,
                key,
                at,
                balance=-absorbed,
                reserved=0 if late else -draw.absorb_sats,
                used=0 if kind is Kind.EXPIRE else absorbed - draw.absorb_sats,
                identity=draw.identity,
                tier=draw.tier,
                day=draw.day,
                price_sats=draw.price_sats,
                absorb_sats=absorbed,
                **_settled(ending),
            ).at

    def sweep(self, now: datetime | None, limit: int = SWEEP_LIMIT) -> int:
        """Expire at most `limit` of the grants that are due; how many it did."""
        with self._lock:
            at = self._time(now)
            due = self._due(at)[:limit]
            for draw in due:
                self.end(Ending(Kind.EXPIRE, draw.key, at))
            return len(due)

    def deposit(self, deposit: Deposit, now: datetime | None) -> Entry | None:
        """Write sats in (or out). None when the key is known or the pool would leave its bounds."""
        with self._lock:
            sats, carry, paid = deposit.sats, None, None
            if deposit.credit_share_bp is not None:
                paid = deposit.sats
                sats, carry = divmod(paid * deposit.credit_share_bp + self._carry, WHOLE_BP)
            known = (deposit.kind, deposit.key) in self._entry
            if known or not self._reserved <= self._balance + sats <= MAX_SATS:
                return None
            return self._append(
                deposit.kind,
                deposit.key,
                self._time(now),
                balance=sats,
                paid_sats=paid,
                credit_share_bp=deposit.credit_share_bp,
                credit_carry=carry,
                sponsor=deposit.sponsor,
                note=deposit.note,
            )

    def find(self, kind: Kind, key: str) -> Entry | None:
        """The entry of this kind with this key."""
        with self._lock:
            entry = self._entry.get((once(kind), key))
            return entry if entry is not None and entry.kind is kind else None

    def status(self, now: datetime | None) -> PoolStatus:
        """The pool, in one cheap read; without `budgets`, which the policy knows."""
        with self._lock:
            at = self._time(now)
            due = self._due(at)
            gates = [g for g in self._gates.values() if utc_day(g.reserved_at) == utc_day(at)]
            return PoolStatus(
                as_of=at,
                balance_sats=self._balance,
                reserved_sats=self._reserved - _held(due),
                open_grants=len(self._open) - len(due),
                absorbed_today_sats=self._used.get((utc_day(at), "pool", ""), 0),
                gated_today=len(gates),
                gated_today_sats=sum(gate.decision.price_sats for gate in gates),
                totals=dict(self._totals),
            )

    def open_grants(self, now: datetime | None, after: Grant | None = None) -> list[Grant]:
        """A page of the grants held at `now`, the first to expire first, from after `after` on."""
        with self._lock:
            at = self._time(now)
            since = (after.expires_at or EPOCH, after.request_id) if after else (EPOCH, "")
            first = max(len(self._due(at)), bisect_right(self._open, since, key=_expiry))
            held = self._open[first : first + PAGE]
            return [grant for draw in held if (grant := self._grant(draw.key, at))]

    def entries(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        """A page of the journal, in order, from after seq `after` on."""
        with self._lock:
            first = max(after, 0)
            return self._journal[first : first + limit]

    def books(self) -> Books:
        """The derived tables, all of one instant."""
        with self._lock:
            return Books(
                seq=len(self._journal),
                at=self._journal[-1].at if self._journal else EPOCH,
                balance_sats=self._balance,
                reserved_sats=self._reserved,
                credit_carry=self._carry,
                totals=dict(self._totals),
                used={
                    ((day - EPOCH.date()).days, scope, name): sats
                    for (day, scope, name), sats in self._used.items()
                },
                open_grants={
                    draw.key: (to_us(draw.expires_at or EPOCH), draw.absorb_sats or 0)
                    for draw in self._open
                },
            )

    def close(self) -> None:
        """Nothing to give back."""

    def _time(self, now: datetime | None) -> datetime:
        """The later of the clock and the last entry, in UTC."""
        at = (now or datetime.now(UTC)).astimezone(UTC)
        return max(at, self._journal[-1].at) if self._journal else at

    def _due(self, at: datetime) -> list[Entry]:
        return list(takewhile(lambda draw: _expiry(draw)[0] <= at, self._open))

    def _append(
        self,
        kind: Kind,
        key: str,
        at: datetime,
        *,
        balance: int,
        reserved: int = 0,
        used: int = 0,
        **figures: object,
    ) -> Entry:
        """Write an accepted entry, and bring up to date what follows from it."""
        self._balance += balance
        self._reserved += reserved
        figures |= {"balance_change": balance, "reserved_change": reserved, "used_change": used}
        figures |= {"balance_sats": self._balance, "reserved_sats": self._reserved}
        figures |= {"seq": len(self._journal) + 1, "kind": kind, "key": key, "at": at}
        entry = Entry(**{**_BLANK, **figures})
        self._journal.append(entry)
        self._entry[once(kind), key] = entry
        match kind:
            case Kind.RESERVE:
                insort(self._open, entry, key=_expiry)
            case Kind.SETTLE | Kind.RELEASE | Kind.EXPIRE:
                drawn = self._entry["draw", key]
                del self._open[bisect_left(self._open, _expiry(drawn), key=_expiry)]
            case Kind.CREDIT:
                self._carry = entry.credit_carry or 0
        if used and entry.day is not None:
            self._used[entry.day, "identity", entry.identity or ""] += used
            self._used[entry.day, "tier", entry.tier or ""] += used
            self._used[entry.day, "pool", ""] += used
        self._totals[kind] += amount(entry)
        return entry

    def _grant(self, key: str, at: datetime) -> Grant | None:
        """The grant of this id as of `at`, from its draw, its ending and its late settlement."""
        draw = self._entry.get(("draw", key))
        if draw is None:
            return self._gates.get(key)
        decision = Decision(
            Serve.PARTIAL if draw.charge_sats else Serve.FREE,
            draw.price_sats or 0,
            draw.absorb_sats or 0,
            draw.charge_sats or 0,
            draw.bound_by,
            dict(draw.rooms or {}),
            draw.resets_at,
        )
        ended, late = self._entry.get(("ending", key)), self._entry.get(("late", key))
        settled = None
        if draw.kind is Kind.GRANT:
            settled = decision.settle()
        elif late is not None:
            settled = settlement(decision, *_paid(late))
        elif ended is not None and ended.kind is Kind.SETTLE:
            settled = settlement(decision, *_paid(ended))
        return Grant(
            request_id=key,
            identity=draw.identity,
            tier=draw.tier or "",
            decision=decision,
            state=state(
                draw.kind,
                None if ended is None else ended.kind,
                due=_expiry(draw)[0] <= at,
            ),
            reserved_at=draw.at,
            expires_at=draw.expires_at,
            settlement=settled,
        )


def _expiry(draw: Entry) -> tuple[datetime, str]:
    return draw.expires_at or EPOCH, draw.key


def _in_figures_of(draw: Entry, ending: Ending) -> bool:
    """Whether an ending has the figures that its kind has, within those of its draw."""
    settled = ending.settlement
    if settled is None:
        return ending.kind in (Kind.RELEASE, Kind.EXPIRE)
    pool_part = settled.absorbed_sats + settled.uncovered_sats
    return (
        ending.kind in (Kind.SETTLE, Kind.LATE)
        and 0 <= settled.absorbed_sats <= pool_part <= (draw.absorb_sats or 0)
        and min(settled.charged_sats, settled.refund_sats, settled.overrun_sats) >= 0
        and settled.charged_sats + settled.refund_sats == draw.charge_sats
    )


def _held(draws: list[Entry]) -> int:
    return sum(draw.absorb_sats or 0 for draw in draws)


def _settled(ending: Ending) -> dict[str, int]:
    """What an ending records of its settlement."""
    if ending.settlement is None:
        return {}
    figures = {
        "charge_sats": ending.settlement.charged_sats,
        "refund_sats": ending.settlement.refund_sats,
        "overrun_sats": ending.settlement.overrun_sats,
    }
    if ending.kind is Kind.LATE:
        figures["uncovered_sats"] = ending.settlement.uncovered_sats
        figures["floor_sats"] = ending.floor_sats
    return figures


def _paid(entry: Entry) -> tuple[int, int, int, int, int | None]:
    """What a settle or a late entry recorded."""
    return (
        entry.absorb_sats or 0,
        entry.charge_sats or 0,
        entry.refund_sats or 0,
        entry.overrun_sats or 0,
        entry.uncovered_sats,
    )

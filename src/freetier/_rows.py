"""Rows → values. Pure; the columns come in the order in which `_sql` selects them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from types import NoneType
from typing import Any, TypeVar

from attrs import astuple, fields

from freetier import journal
from freetier.entries import Entry, Grant, GrantState, Kind, MisfiledEntry, PoolStatus
from freetier.errors import IntegrityError, SchemaError, shown
from freetier.repository import Books, View
from freetier.values import EPOCH, Decision, Limit, Serve, Snapshot, from_us, to_us

T = TypeVar("T")
Row = Sequence[Any]

_DAY_US = 86_400_000_000
_EPOCH_DAY = EPOCH.date()
_LIMITS: Mapping[str, str] = {limit.value: limit for limit in Limit}
_AT_US, _EXPIRES_AT_US = 10, 11
_NO_ENDING = (None,) * 11
_NAMED = {"balances": NoneType, "identity": str, "tier": str, "pool": str, "open": str}
"""The parts of the books, and what a row of each is named by."""


def one(rows: Sequence[Row]) -> Row:
    """The single row of a read that starts from the pool's row."""
    if len(rows) == 1:
        return rows[0]
    raise SchemaError(f"freetier_pool has {len(rows)} rows for this pool, expected 1")


def view(row: Row) -> View:
    return _readable("the pool, or what was asked before,", _view, row)


def _view(row: Row) -> View:
    now_us, balance, reserved, due_sats, due, *used = row[:8]
    snapshot = Snapshot(from_us(now_us), *_pool(balance, reserved, due_sats), *used)
    noted, drawn = row[8:16], row[16:]
    if drawn[0] is not None:
        return View(snapshot, grant(drawn, now_us), due)
    return View(snapshot, _gated(noted) if noted[0] is not None else None, due)


def grant(row: Row, now_us: int) -> Grant:
    """The grant that a draw, its ending and its late settlement tell of, as of `now_us`."""
    kind, key, identity, tier, price, absorb, charge = row[:7]
    bound_by, rooms, resets_at_us, at_us, expires_at_us = row[7:12]
    ending, late = row[12:17], row[17:23]
    serve = Serve.PARTIAL if charge else Serve.FREE
    decision = _decision(serve, price, absorb, charge, bound_by, rooms, resets_at_us)
    settlement = None
    if kind == Kind.GRANT:
        settlement = decision.settle()
    elif ending[0] == Kind.SETTLE:
        settlement = journal.settlement(decision, *ending[1:])
    elif late[0] is not None:
        settlement = journal.settlement(decision, *late[1:])
    return Grant(
        request_id=key,
        identity=identity,
        tier=tier,
        decision=decision,
        state=journal.state(
            Kind(kind),
            None if ending[0] is None else Kind(ending[0]),
            due=expires_at_us is not None and expires_at_us <= now_us,
        ),
        reserved_at=from_us(at_us),
        expires_at=None if expires_at_us is None else from_us(expires_at_us),
        settlement=settlement,
    )


def open_grants(rows: Sequence[Row]) -> list[Grant]:
    return [_readable("an open grant", _open_grant, row) for row in rows]


def entry(row: Row) -> Entry:
    seq = row[0]
    return _readable(f"entry {seq if type(seq) is int else shown(seq)}", _entry, row)


def entries(rows: Sequence[Row]) -> list[Entry]:
    """The entries; those that are filed wrong as such."""
    return [_filed(row) for row in rows]


def filed_or_none(rows: Sequence[Row]) -> Entry | None:
    """See `entries`."""
    return _filed(rows[0]) if rows else None


def entry_or_none(rows: Sequence[Row]) -> Entry | None:
    return entry(rows[0]) if rows else None


def written(rows: Sequence[Row]) -> datetime | None:
    """When the entry was written; None where it was refused."""
    return from_us(rows[0][0]) if rows else None


def status(row: Row) -> PoolStatus:
    return _readable("the pool", _status, row)


def _status(row: Row) -> PoolStatus:
    now_us, balance, reserved, due_sats, open_count, used, gated, gated_sats = row[:8]
    balance, reserved = _pool(balance, reserved, due_sats)
    return PoolStatus(
        as_of=from_us(now_us),
        balance_sats=balance,
        reserved_sats=reserved,
        open_grants=open_count,
        absorbed_today_sats=used,
        gated_today=gated,
        gated_today_sats=gated_sats,
        totals=dict(zip(Kind, row[8:], strict=True)),
    )


def books(rows: Sequence[Row]) -> Books:
    used: dict[tuple[int, str, str], int] = {}
    open_: dict[str, tuple[int, int]] = {}
    for part, number, sats, reserved, carry, name, at_us, *totals in rows:
        figures = (number, sats, reserved, carry, at_us, *totals)
        if _NAMED.get(part) is not type(name) or {*map(type, figures)} != {int}:
            raise IntegrityError(f"the books of {part!r}, {shown(name)}, cannot be read")
        if name is None:
            continue
        counter = (number, part, name)
        if name in open_ if part == "open" else counter in used:
            raise IntegrityError(f"the books of {part!r} have {shown(name)} twice")
        if part == "open":
            open_[name] = (number, sats)
        else:
            used[counter] = sats
    pool = one([row for row in rows if row[0] == "balances"])
    return Books(
        seq=pool[1],
        at=_readable("freetier_pool", from_us, pool[6]),
        balance_sats=pool[2],
        reserved_sats=pool[3],
        credit_carry=pool[4],
        totals=dict(zip(Kind, pool[7:], strict=True)),
        used=used,
        open_grants=open_,
    )


def rooms_to_text(rooms: Mapping[str, int]) -> str:
    """As JSON; `json.dumps` takes three times as long for so few."""
    pairs = [f"{encode_basestring_ascii(name)}: {left}" for name, left in rooms.items()]
    return f"{{{', '.join(pairs)}}}"


def day_number(at: datetime) -> int:
    """Days since 1970 at `at`."""
    return to_us(at) // _DAY_US


def _open_grant(row: Row) -> Grant:
    *draw, due_us = row
    if draw[_EXPIRES_AT_US] != due_us:  # by which the next page goes on
        raise ValueError(f"{shown(draw[1])} is due at another time than it was reserved until")
    return grant((*draw, *_NO_ENDING), draw[_AT_US])


def _entry(row: Row) -> Entry:
    if wrong := _ill_typed(tuple(map(type, row))):
        raise TypeError(wrong)
    values = list(row)
    for column, read in _READ.items():
        if row[column] is not None:
            values[column] = read(row[column])
    return Entry(*values)


@lru_cache(maxsize=256)
def _ill_typed(types: tuple[type, ...]) -> str | None:
    """Of the types of a row, the first that no schema of ours would hold; None if there is none."""
    for found, (name, due, may_miss) in zip(types, _COLUMNS, strict=True):
        if found is not due and not (may_miss and found is NoneType):
            return f"{name} is {found.__name__}"
    return None


def _filed(row: Row) -> Entry:
    found = entry(row[:-1])
    if row[-1] == journal.once(found.kind):
        return found
    return MisfiledEntry(*astuple(found, recurse=False))


def _readable(where: str, read: Callable[[Any], T], value: Any) -> T:
    """What `read` makes of a value that the schema would not have let in otherwise."""
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"{where} cannot be read: {error}") from error


def _limit(name: str) -> str:
    """The `Limit` of this name, or the name of a host's own."""
    return _LIMITS.get(name, name)


def _day(number: int) -> date:
    return _EPOCH_DAY + timedelta(days=number)


def _rooms(text: str) -> dict[str, int]:
    rooms = json.loads(text)
    if not isinstance(rooms, dict):
        raise TypeError("rooms are no object")
    for name, sats in rooms.items():
        name.encode()  # JSON can spell what is no text
        if type(sats) is not int:
            raise TypeError(f"the room of {name!r} is no whole number")
    return {_limit(name): sats for name, sats in rooms.items()}


def _pool(balance: int, reserved: int, due_sats: int) -> tuple[int, int]:
    """Balance, and reserved without what is due; never clamped."""
    if 0 <= due_sats <= reserved <= balance:
        return balance, reserved - due_sats
    raise IntegrityError(
        f"the pool's row says balance {balance}, reserved {reserved}, due {due_sats}: run verify"
    )


def _decision(
    serve: Serve,
    price: int,
    absorb: int,
    charge: int,
    bound_by: str | None,
    rooms: str,
    resets_at_us: int | None,
) -> Decision:
    return Decision(
        serve,
        price,
        absorb,
        charge,
        None if bound_by is None else _limit(bound_by),
        _rooms(rooms),
        None if resets_at_us is None else from_us(resets_at_us),
    )


def _gated(row: Row) -> Grant:
    key, identity, tier, price, bound_by, rooms, resets_at_us, at_us = row
    decision = _decision(Serve.GATE, price, 0, price, bound_by, rooms, resets_at_us)
    return Grant(key, identity, tier, decision, GrantState.UNHELD, from_us(at_us))


_COLUMNS = [
    (
        field.name,
        str if str(field.type).startswith(("str", "Kind", "Mapping")) else int,
        str(field.type).endswith("None"),
    )
    for field in fields(Entry)
]
"""The name and the type of each figure of an entry, as it is stored; whether it may be missing."""

_READ: Mapping[int, Callable[[Any], object]] = {
    1: Kind,
    3: from_us,  # at
    6: _day,  # day
    19: _limit,  # bound_by
    20: _rooms,  # rooms
    21: from_us,  # resets_at
    22: from_us,  # expires_at
}

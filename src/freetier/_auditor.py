"""What `verify` adds up, entry by entry, and holds against the books. Entries in, problems out."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from attrs import define, field, frozen

from freetier._ending import faults_of_an_ending
from freetier._sorting import Sorter
from freetier.checkpoint import Checkpoint
from freetier.entries import Entry, Kind, MisfiledEntry
from freetier.journal import DEPOSITS, DRAWS, amount, once
from freetier.repository import Books
from freetier.sealing import START, Head, linked
from freetier.values import EPOCH, MAX_SATS, WHOLE_BP, to_us, utc_day

INVARIANTS: Mapping[int, str] = {
    1: "conservation: the balance is the sum of its changes",
    2: "holds: reserved is the sum of its changes, and of the open grants",
    3: "never negative: 0 <= reserved <= balance after every entry",
    4: "running totals meet, and seq is 1 ... n without a gap",
    5: "each kind of entry moves what the design says",
    6: "used is never below 0, never above the caps of a draw, and the counters equal the sums",
    7: "once: one seed, one entry a key, credits exact with the carried rest",
    8: "endings: at most one a grant, then at most one late settlement of an expired one",
    9: "time never runs back; a draw's day is its UTC date, an ending's is its grant's",
    10: "absorb + charge = price; refund <= charge; absorbed <= absorb",
    11: "nothing in the journal was changed",
}
SEALED = 11
"""The invariant that shows only against a head that was kept: any journal agrees with itself."""


_NOT_SEALED: Final = "up to here it is not the journal that was sealed"


@frozen
class Problem:
    """One invariant, the first entry that breaks it (None: no single entry does), and how."""

    invariant: int
    seq: int | None
    detail: str


Key = tuple[str, str, int]
"""A key, what there is only one of under it, and the seq of the entry that was it."""
Late = tuple[str, int, Entry]
"""A key and a seq, with a grant that expired there, or with a late settlement."""


@define
class Auditor:
    """The running totals, as the entries so far give them."""

    against: Head | None
    keys: Sorter[Key]
    lates: Sorter[Late]
    digest: bytes = bytes.fromhex(START.digest)
    sealed: bool = False  # the entry of `against` was there
    problems: dict[int, Problem] = field(factory=dict)
    count: int = 0
    seq: int = 0
    at: datetime = EPOCH
    said_sats: int = 0  # the balance, as the last entry has it
    balance: int = 0
    reserved: int = 0
    carry: int = 0
    totals: dict[Kind, int] = field(factory=lambda: dict.fromkeys(Kind, 0))
    used: dict[tuple[int, str, str], int] = field(factory=lambda: defaultdict(int))
    held: dict[str, Entry] = field(factory=dict)

    def resume(self, checkpoint: Checkpoint, last: Entry | None) -> None:
        """Go on from a checkpoint; `last` is the entry that stands where it was taken."""
        head, books = checkpoint.head, checkpoint.books
        self.digest, self.count, self.seq = bytes.fromhex(head.digest), head.seq, head.seq
        self.at, self.carry = books.at, books.credit_carry
        self.said_sats = self.balance = books.balance_sats
        self.reserved = books.reserved_sats
        self.totals = dict(books.totals)
        self.used.update(books.used)
        if head.seq:
            then = (head.seq, books.at, books.balance_sats, books.reserved_sats)
            there = last and (last.seq, last.at, last.balance_sats, last.reserved_sats) == then
            self._check(SEALED, last, bool(there), f"entry {head.seq} is not the checkpoint's")

    def hold(self, key: str, held: tuple[int, int], grant: Entry | None) -> None:
        """Take up a grant that was open at the checkpoint, if it is still the one that it was."""
        if grant is not None and held == _held(grant) and _is_filed(grant):
            self.held[key] = grant
        else:
            self._check(SEALED, grant, False, f"grant {key!r} is not the checkpoint's")

    def take(self, entry: Entry) -> None:
        self.count += 1
        self._order(entry)
        self._check(7, entry, _is_filed(entry), "nothing finds it by its key, {!r}", entry.key)
        if entry.kind in DRAWS or entry.kind in DEPOSITS:  # of endings there is invariant 8
            self.keys.add((key_of(entry), once(entry.kind), entry.seq))
        if entry.kind in DRAWS:
            self._draw(entry)
        elif entry.kind in DEPOSITS:
            self._deposit(entry)
        else:
            self._ending(entry)
        self._totals(entry)
        self._seal(entry)
        self.seq, self.at, self.said_sats = entry.seq, entry.at, entry.balance_sats

    def close(self, books: Books) -> None:
        """Look through what was sorted, and hold the derived tables against the sums."""
        self._uniqueness()
        self._late_settlements()
        if self.against is not None and not self.sealed:
            same = self.against == START
            self._check(SEALED, None, same, f"there is no entry {self.against.seq}, the head's")
        self._check(1, None, books.balance_sats == self.balance, "the pool's row differs")
        self._check(1, None, dict(books.totals) == self.totals, "the pool's totals differ")
        self._check(2, None, books.reserved_sats == self.reserved, "the pool's row differs")
        held = {key: _held(grant) for key, grant in self.held.items()}
        self._check(2, None, dict(books.open_grants) == held, "the open grants differ")
        self._check(4, None, books.seq == self.count, f"{self.count} entries, seq {books.seq}")
        for key in sorted(books.used.keys() | self.used.keys()):
            if books.used.get(key, 0) != self.used.get(key, 0):
                number, scope, name = key
                counter = f"the counter of {scope} {name!r} on {_day(number)}"
                self._check(6, None, False, f"{counter} differs")
        same = books.at == self.at
        self._check(9, None, same, f"the pool's row says {books.at}, the journal {self.at}")
        self._check(7, None, books.credit_carry == self.carry, "the carried remainder differs")

    def _check(
        self, invariant: int, entry: Entry | None, holds: bool, detail: str, *figures: object
    ) -> None:
        if not holds:
            # Only now: to write out what nobody will read takes longer than the rest of a proof.
            told = detail.format(*figures) if figures else detail
            self._note(Problem(invariant, None if entry is None else entry.seq, told))

    def _note(self, problem: Problem) -> None:
        """Keep it, unless one of an earlier entry is known; what was sorted is not seen in turn."""
        known = self.problems.get(problem.invariant)
        if known is None or (known.seq or 0) > (problem.seq or sys.maxsize):
            self.problems[problem.invariant] = problem

    def _order(self, entry: Entry) -> None:
        self._check(4, entry, entry.seq == self.count, "seq {} stands at {}", entry.seq, self.count)
        self._check(9, entry, entry.at >= self.at, "{} is before {}", entry.at, self.at)

    def _seal(self, entry: Entry) -> None:
        self.digest = linked(self.digest, entry)
        if self.against is not None and entry.seq == self.against.seq:
            self.sealed = True
            same = self.digest.hex() == self.against.digest
            self._check(SEALED, entry, same, _NOT_SEALED)

    def _uniqueness(self) -> None:
        before = None
        for key, only, seq in self.keys:
            if (key, only) == before:
                self._note(Problem(7, seq, f"a second {only} of {key!r}"))
            before = key, only

    def _late_settlements(self) -> None:
        expired: dict[str, Entry] = {}
        for key, _, entry in self.lates:
            if entry.kind is Kind.LATE:
                self._ends(entry, expired.pop(key, None))
            else:
                expired = {key: entry}

    def _moves(self, entry: Entry, balance: int, reserved: int, used: int) -> None:
        moved = (entry.balance_change, entry.reserved_change, entry.used_change)
        due = (balance, reserved, used)
        self._check(5, entry, moved == due, "{} moved {}, not {}", entry.kind, moved, due)

    def _deposit(self, entry: Entry) -> None:
        self._moves(entry, entry.balance_change, 0, 0)
        if entry.kind is not Kind.ADJUSTMENT:
            self._check(5, entry, entry.balance_change >= 0, f"{entry.kind} below 0")
        if entry.kind is Kind.CREDIT:
            rest = (entry.paid_sats or 0) * (entry.credit_share_bp or 0) + self.carry
            exact = (entry.balance_change, entry.credit_carry) == divmod(rest, WHOLE_BP)
            self._check(
                7,
                entry,
                exact,
                "credited {}, carried {}; it is {} and {}",
                entry.balance_change,
                entry.credit_carry,
                *divmod(rest, WHOLE_BP),
            )
            self.carry = entry.credit_carry or 0

    def _draw(self, entry: Entry) -> None:
        absorb, charge = entry.absorb_sats or 0, entry.charge_sats or 0
        self._check(10, entry, absorb > 0 and charge >= 0, "absorbs nothing or charges below 0")
        self._check(10, entry, absorb + charge == entry.price_sats, "absorb + charge is not price")
        self._check(9, entry, entry.day == utc_day(entry.at), "day {} of {}", entry.day, entry.at)
        after = entry.balance_sats - entry.reserved_sats
        self._check(6, entry, after >= (entry.floor_sats or 0), "left {}, below the floor", after)
        if entry.pool_share_bp is not None:
            share = (after + absorb) * entry.pool_share_bp // WHOLE_BP
            self._check(6, entry, absorb <= share, f"absorbs {absorb}, its share is {share}")
        if entry.kind is Kind.RESERVE:
            self._moves(entry, 0, absorb, absorb)
            later = entry.expires_at is not None and entry.expires_at > entry.at
            self._check(5, entry, later, "expires before it begins")
            self.held[entry.key] = entry
        else:
            self._moves(entry, -absorb, 0, absorb)

    def _ending(self, entry: Entry) -> None:
        if entry.kind is Kind.LATE:
            self.lates.add((entry.key, entry.seq, entry))
            return
        grant = self.held.pop(entry.key, None)
        self._ends(entry, grant)
        if grant is not None and entry.kind is Kind.EXPIRE:
            self.lates.add((entry.key, entry.seq, grant))

    def _ends(self, entry: Entry, grant: Entry | None) -> None:
        if grant is None:
            self._check(
                8, entry, False, f"{entry.kind} of {entry.key!r}, which is not there to end"
            )
            return
        absorb, charge = grant.absorb_sats or 0, grant.charge_sats or 0
        absorbed = entry.absorb_sats or 0
        match entry.kind:
            case Kind.SETTLE:
                self._moves(entry, -absorbed, -absorb, absorbed - absorb)
            case Kind.RELEASE:
                self._moves(entry, 0, -absorb, -absorb)
            case Kind.EXPIRE:
                self._moves(entry, 0, -absorb, 0)
            case _:
                self._moves(entry, -absorbed, 0, absorbed - absorb)
        in_time = grant.expires_at is not None and entry.at < grant.expires_at
        self._check(
            8,
            entry,
            in_time == (entry.kind in (Kind.SETTLE, Kind.RELEASE)),
            f"{entry.kind} on the wrong side of its expiry",
        )
        self._check(9, entry, entry.day == grant.day, f"day {entry.day}, its grant's {grant.day}")
        same = (entry.identity, entry.tier, entry.price_sats)
        self._check(
            8,
            entry,
            same == (grant.identity, grant.tier, grant.price_sats),
            "not the identity, tier and price of its grant",
        )
        for invariant, detail in faults_of_an_ending(entry, absorb, charge):
            self._check(invariant, entry, False, detail)

    def _totals(self, entry: Entry) -> None:
        self.balance += entry.balance_change
        self.reserved += entry.reserved_change
        self.totals[entry.kind] += amount(entry)
        before = self.said_sats
        balance, reserved, change = entry.balance_sats, entry.reserved_sats, entry.balance_change
        meets = balance == before + change
        self._check(4, entry, meets, "balance {}, changed by {}, is {}", before, change, balance)
        same = balance == self.balance
        self._check(1, entry, same, "balance {}, the sum is {}", balance, self.balance)
        same = reserved == self.reserved
        self._check(2, entry, same, "reserved {}, the sum is {}", reserved, self.reserved)
        within = 0 <= self.reserved <= self.balance <= MAX_SATS
        self._check(3, entry, within, "reserved {}, balance {}", self.reserved, self.balance)
        if entry.used_change and entry.day is not None:
            self._used(entry, (entry.day - EPOCH.date()).days)

    def _used(self, entry: Entry, day: int) -> None:
        for scope, name, cap in (
            ("identity", entry.identity or "", entry.budget_sats),
            ("tier", entry.tier or "", entry.tier_ceiling_sats),
            ("pool", "", entry.release_sats),
        ):
            self.used[day, scope, name] += entry.used_change
            used = self.used[day, scope, name]
            self._check(6, entry, used >= 0, "{} {!r} used {}", scope, name, used)
            over = entry.kind in DRAWS and cap is not None and used > cap
            self._check(6, entry, not over, "{} {!r} used {} of {}", scope, name, used, cap)


def _day(number: int) -> str:
    """The date, or the number of days since 1970 where no calendar has it."""
    try:
        return str(EPOCH.date() + timedelta(number))
    except OverflowError:
        return str(number)


def key_of(entry: Entry) -> str:
    """Under what there is one entry of its kind: there is one seed, whatever its key."""
    return "seed" if entry.kind is Kind.SEED else entry.key


def _is_filed(entry: Entry) -> bool:
    return not isinstance(entry, MisfiledEntry)


def _held(grant: Entry) -> tuple[int, int]:
    """An open grant as the books have it."""
    return to_us(grant.expires_at or EPOCH), grant.absorb_sats or 0

"""`verify`: every balance proved from the journal, in one pass. Entries in, a report out.

The numbers are those of `docs/explanation/design.md`. For each invariant the first entry that
breaks it is named; a broken entry does not hide the next invariant's.

What memory holds grows with the open grants and the counters, not with the journal: what has to be
seen by key, far apart as it may be, is sorted by key in a temporary file.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from operator import itemgetter

from attrs import define, field, frozen

from freetier._ending import faults_of_an_ending
from freetier._sorting import Sorter
from freetier.journal import DEPOSITS, DRAWS, amount, once
from freetier.repository import Books, Repository
from freetier.sealing import START, Head, linked
from freetier.steps import Steps
from freetier.values import EPOCH, MAX_SATS, WHOLE_BP, Entry, Kind, to_us, utc_day

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


_LAST_DAY = 2_932_897  # of the year 9999


@frozen
class Problem:
    """One invariant, the first entry that breaks it (None: no single entry does), and how."""

    invariant: int
    seq: int | None
    detail: str


@frozen
class Report:
    """What `verify` found: `ok` when there are no problems.

    `head` seals the entries that were read; `against` is the earlier head that they were held
    against, None if there was none to hold them against.
    """

    entries: int
    balance_sats: int
    reserved_sats: int
    problems: tuple[Problem, ...]
    head: Head = START
    against: Head | None = None

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.problems


def audit(against: Head | None = None) -> Steps[Report]:
    """Hold the journal against the books, and against an earlier head of its own.

    The books are read after the journal: an entry that the pool's row does not know was planted.
    What was written between the two reads is read then.
    """
    with ExitStack() as held:
        keys: Sorter[_Key] = held.enter_context(Sorter(lambda row: row))
        lates: Sorter[_Late] = held.enter_context(Sorter(itemgetter(0, 1)))
        auditor = _Auditor(against, keys, lates)
        yield from _read(auditor)
        books: Books = yield lambda store: store.books()
        yield from _read(auditor, until=books.seq)
        auditor.close(books)
    problems = tuple(sorted(auditor.problems.values(), key=lambda problem: problem.invariant))
    head = Head(auditor.last.seq if auditor.last else 0, auditor.digest.hex())
    return Report(auditor.count, books.balance_sats, books.reserved_sats, problems, head, against)


def _read(auditor: _Auditor, until: int = sys.maxsize) -> Steps[None]:
    """Take the entries that come after the last one, page by page, as far as `until`."""
    while page := (yield auditor.next_page):
        for entry in page:
            if entry.seq > until:
                return
            auditor.take(entry)


_Key = tuple[str, str, int]
"""A key, what there is only one of under it, and the seq of the entry that was it."""
_Late = tuple[str, int, Entry]
"""A key and a seq, with a grant that expired there, or with a late settlement."""


@define
class _Auditor:
    """The running totals, as the entries so far give them."""

    against: Head | None
    keys: Sorter[_Key]
    lates: Sorter[_Late]
    digest: bytes = bytes.fromhex(START.digest)
    problems: dict[int, Problem] = field(factory=dict)
    count: int = 0
    balance: int = 0
    reserved: int = 0
    carry: int = 0
    last: Entry | None = None
    totals: dict[Kind, int] = field(factory=lambda: dict.fromkeys(Kind, 0))
    used: dict[tuple[int, str, str], int] = field(factory=lambda: defaultdict(int))
    held: dict[str, Entry] = field(factory=dict)

    def next_page(self, store: Repository) -> list[Entry]:
        return store.entries(0 if self.last is None else self.last.seq)

    def take(self, entry: Entry) -> None:
        self.count += 1
        self._order(entry)
        if entry.kind in DRAWS or entry.kind in DEPOSITS:  # of endings there is invariant 8
            key = "seed" if entry.kind is Kind.SEED else entry.key
            self.keys.add((key, once(entry.kind), entry.seq))
        if entry.kind in DRAWS:
            self._draw(entry)
        elif entry.kind in DEPOSITS:
            self._deposit(entry)
        else:
            self._ending(entry)
        self._totals(entry)
        self._seal(entry)
        self.last = entry

    def close(self, books: Books) -> None:
        """Look through what was sorted, and hold the derived tables against the sums."""
        self._uniqueness()
        self._late_settlements()
        reached = self.against is None or self.against.seq <= self.count
        self._check(SEALED, None, reached, f"it ends at entry {self.count}, before the head")
        self._check(1, None, books.balance_sats == self.balance, "the pool's row differs")
        self._check(1, None, dict(books.totals) == self.totals, "the pool's totals differ")
        self._check(2, None, books.reserved_sats == self.reserved, "the pool's row differs")
        held = {
            key: (to_us(grant.expires_at or EPOCH), grant.absorb_sats)
            for key, grant in self.held.items()
        }
        self._check(2, None, dict(books.open_grants) == held, "the open grants differ")
        self._check(4, None, books.seq == self.count, f"{self.count} entries, seq {books.seq}")
        for key in sorted(books.used.keys() | self.used.keys()):
            if books.used.get(key, 0) != self.used.get(key, 0):
                number, scope, name = key
                day = str(EPOCH.date() + timedelta(number)) if number < _LAST_DAY else number
                self._check(6, None, False, f"the counter of {scope} {name!r} on {day} differs")
        at = EPOCH if self.last is None else self.last.at
        self._check(9, None, books.at == at, f"the pool's row says {books.at}, the journal {at}")
        self._check(7, None, books.credit_carry == self.carry, "the carried remainder differs")

    def _check(self, invariant: int, entry: Entry | None, holds: bool, detail: str) -> None:
        if not holds:
            self._note(Problem(invariant, None if entry is None else entry.seq, detail))

    def _note(self, problem: Problem) -> None:
        """Keep it, unless one of an earlier entry is known; what was sorted is not seen in turn."""
        known = self.problems.get(problem.invariant)
        if known is None or (known.seq or 0) > (problem.seq or sys.maxsize):
            self.problems[problem.invariant] = problem

    def _order(self, entry: Entry) -> None:
        self._check(4, entry, entry.seq == self.count, f"seq {entry.seq} stands at {self.count}")
        if self.last is not None:
            self._check(9, entry, entry.at >= self.last.at, f"{entry.at} is before {self.last.at}")

    def _seal(self, entry: Entry) -> None:
        self.digest = linked(self.digest, entry)
        if self.against is not None and entry.seq == self.against.seq:
            same = self.digest.hex() == self.against.digest
            self._check(SEALED, entry, same, "up to here it is not the journal that was sealed")

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
        self._check(5, entry, moved == due, f"{entry.kind} moved {moved}, not {due}")

    def _deposit(self, entry: Entry) -> None:
        self._moves(entry, entry.balance_change, 0, 0)
        if entry.kind is not Kind.ADJUSTMENT:
            self._check(5, entry, entry.balance_change >= 0, f"{entry.kind} below 0")
        if entry.kind is Kind.CREDIT:
            rest = (entry.paid_sats or 0) * (entry.credit_share_bp or 0) + self.carry
            exact = (entry.balance_change, entry.credit_carry) == divmod(rest, WHOLE_BP)
            self._check(7, entry, exact, f"credited {entry.balance_change}, not {rest // WHOLE_BP}")
            self.carry = entry.credit_carry or 0

    def _draw(self, entry: Entry) -> None:
        absorb, charge = entry.absorb_sats or 0, entry.charge_sats or 0
        self._check(10, entry, absorb > 0 and charge >= 0, "absorbs nothing or charges below 0")
        self._check(10, entry, absorb + charge == entry.price_sats, "absorb + charge is not price")
        self._check(9, entry, entry.day == utc_day(entry.at), f"day {entry.day} of {entry.at}")
        after = entry.balance_sats - entry.reserved_sats
        self._check(6, entry, after >= (entry.floor_sats or 0), f"left {after}, below the floor")
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
        before = self.last.balance_sats if self.last else 0
        self._check(
            4,
            entry,
            entry.balance_sats == before + entry.balance_change,
            f"balance {before}, changed by {entry.balance_change}, is {entry.balance_sats}",
        )
        self._check(
            1,
            entry,
            entry.balance_sats == self.balance,
            f"balance {entry.balance_sats}, the sum is {self.balance}",
        )
        self._check(
            2,
            entry,
            entry.reserved_sats == self.reserved,
            f"reserved {entry.reserved_sats}, the sum is {self.reserved}",
        )
        self._check(
            3,
            entry,
            0 <= self.reserved <= self.balance <= MAX_SATS,
            f"reserved {self.reserved}, balance {self.balance}",
        )
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
            self._check(6, entry, used >= 0, f"{scope} {name!r} used {used}")
            over = entry.kind in DRAWS and cap is not None and used > cap
            self._check(6, entry, not over, f"{scope} {name!r} used {used} of {cap}")

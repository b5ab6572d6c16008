"""`verify`: every balance proved from the journal, in one pass. Entries in, a report out.

The numbers are those of `docs/explanation/design.md`. For each invariant the first entry that
breaks it is named; a broken entry does not hide the next invariant's.

What memory holds grows with the open grants and the counters, not with the journal: what has to be
seen by key, far apart as it may be, is sorted by key in a temporary file.
"""

from __future__ import annotations

import sys
from operator import itemgetter
from typing import Final

from attrs import field, frozen

from freetier._auditor import INVARIANTS, SEALED, Auditor, Key, Late, Problem, key_of
from freetier._sorting import Sorter
from freetier.checkpoint import Checkpoint
from freetier.entries import Entry, Kind
from freetier.errors import InvalidInput
from freetier.journal import DRAWS, ENDINGS, once
from freetier.repository import Books, Repository
from freetier.sealing import START, Head
from freetier.steps import Step, Steps
from freetier.values import MAX_STORED

__all__ = ["INVARIANTS", "SEALED", "Problem", "Report", "audit"]


_BEFORE_ALL: Final = -MAX_STORED - 2
"""Below every `seq` that a database could hold: an entry planted before the first is read too."""


@frozen
class Report:
    """What `verify` found: `ok` when there are no problems.

    `head` seals the entries; `against` is the earlier head that they were held against, None if
    there was none. `trusted` of the entries were not read: they are as the checkpoint says that was
    given. `checkpoint` is where a later `verify` may go on, None when something is broken.
    """

    entries: int
    balance_sats: int
    reserved_sats: int
    problems: tuple[Problem, ...]
    head: Head = START
    against: Head | None = None
    trusted: int = 0
    checkpoint: Checkpoint | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.problems


def audit(against: Head | None = None, since: Checkpoint | None = None) -> Steps[Report]:
    """Hold the journal against the books, and against an earlier head of its own.

    The books are read after the journal: an entry that the pool's row does not know was planted.
    What was written between the two reads is read then. What lies before a checkpoint is trusted,
    and looked up by its key where a later entry goes on from it, or repeats it.
    """
    if since is not None and against is not None and against.seq <= since.head.seq:
        expected = f"a head after entry {since.head.seq}; up to there the checkpoint is trusted"
        raise InvalidInput("head", str(against), expected)
    with Sorter[Key](lambda row: row) as keys, Sorter[Late](itemgetter(0, 1)) as lates:
        auditor = Auditor(against, keys, lates)
        if since is not None:
            yield from _resume(auditor, since)
        yield from _read(auditor, since)
        books: Books = yield lambda store: store.books()
        yield from _read(auditor, since, until=books.seq)
        auditor.close(books)
    problems = tuple(sorted(auditor.problems.values(), key=lambda problem: problem.invariant))
    head = Head(max(auditor.seq, 0), auditor.digest.hex())  # below 0 is a problem, not a head
    return Report(
        entries=auditor.count,
        balance_sats=books.balance_sats,
        reserved_sats=books.reserved_sats,
        problems=problems,
        head=head,
        against=against,
        trusted=0 if since is None else since.head.seq,
        checkpoint=None if problems else Checkpoint(head, books),
    )


def _resume(auditor: Auditor, since: Checkpoint) -> Steps[None]:
    before = since.head.seq - 1
    last = (yield lambda store: store.entries(before, 1)) if since.head.seq else []
    auditor.resume(since, last[0] if last else None)
    for key, held in since.books.open_grants.items():
        auditor.hold(key, held, (yield _finding(Kind.RESERVE, key)))


def _read(auditor: Auditor, since: Checkpoint | None, until: int = sys.maxsize) -> Steps[None]:
    """Take the entries that come after the last one, page by page, as far as `until`."""

    def next_page(store: Repository) -> list[Entry]:
        return store.entries(auditor.seq if auditor.count else _BEFORE_ALL)

    while page := (yield next_page):
        for entry in page:
            if entry.seq > until:
                return
            if since is not None:
                yield from _look_up(auditor, entry, since.head.seq)
            auditor.take(entry)


def _look_up(auditor: Auditor, entry: Entry, until: int) -> Steps[None]:
    """Take what lies before the checkpoint and has to do with an entry that comes after it."""
    if entry.kind is Kind.LATE:
        expired = yield _finding(Kind.EXPIRE, entry.key)
        settled = yield _finding(Kind.LATE, entry.key)
        grant = yield _finding(Kind.RESERVE, entry.key)
        over = settled is not None and settled.seq <= until
        if expired is not None and expired.seq <= until and grant is not None and not over:
            auditor.lates.add((entry.key, expired.seq, grant))
    elif entry.kind not in ENDINGS:
        for kind in DRAWS if entry.kind in DRAWS else (entry.kind,):
            known = yield _finding(kind, key_of(entry))
            if known is not None and known.seq <= until:
                auditor.keys.add((key_of(entry), once(kind), known.seq))


def _finding(kind: Kind, key: str) -> Step:
    return lambda store: store.find(kind, key)

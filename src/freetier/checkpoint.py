"""Where a proof may go on another day: what a journal added up to at one of its entries."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from freetier.entries import Kind
from freetier.errors import InvalidInput
from freetier.repository import Books
from freetier.sealing import START, Head, parse_head
from freetier.values import check_type, from_us, to_us


@frozen
class Checkpoint:
    """The head of a journal that was proved, and its books right after that entry.

    It is as good as the place where it was kept: what lies before it is not read again.
    Raises `InvalidInput`.
    """

    head: Head
    books: Books

    def __attrs_post_init__(self) -> None:
        check_type("head", self.head, Head)
        check_type("books", self.books, Books)
        if self.head.seq == 0 and self.head != START:
            raise InvalidInput("head", str(self.head), "the head of a journal")
        if self.books.seq != self.head.seq:
            raise InvalidInput("books", self.books.seq, f"the books after entry {self.head.seq}")

    def __str__(self) -> str:
        """As JSON, for `parse_checkpoint`."""
        books = self.books
        return json.dumps(
            {
                "head": str(self.head),
                "at_us": to_us(books.at),
                "balance_sats": books.balance_sats,
                "reserved_sats": books.reserved_sats,
                "credit_carry": books.credit_carry,
                "totals": {kind.value: sats for kind, sats in books.totals.items()},
                "used": [[*counter, sats] for counter, sats in sorted(books.used.items())],
                "open_grants": [[key, *held] for key, held in sorted(books.open_grants.items())],
            }
        )


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint that `str(checkpoint)` gave. Raises `InvalidInput`."""
    try:
        read = json.loads(text)
        head = parse_head(read["head"])
        books = Books(
            seq=head.seq,
            at=from_us(_whole(read["at_us"])),
            balance_sats=_whole(read["balance_sats"]),
            reserved_sats=_whole(read["reserved_sats"]),
            credit_carry=_whole(read["credit_carry"]),
            totals={kind: _whole(read["totals"][kind.value]) for kind in Kind},
            used={
                (_whole(day), _text(scope), _text(name)): _whole(sats)
                for day, scope, name, sats in read["used"]
            },
            open_grants={
                _text(key): (_whole(expires_at_us), _whole(sats))
                for key, expires_at_us, sats in read["open_grants"]
            },
        )
        return Checkpoint(head, books)
    except (InvalidInput, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        expected = "a checkpoint, as `verify` gives it"
        raise InvalidInput("checkpoint", text, expected) from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if type(value) is not str or "\0" in value:
        raise TypeError(value)
    value.encode()  # JSON can spell what is no text
    return value

"""A seal over the journal: a hash chain whose head stands for every entry up to one. Pure.

The digest of entry n is SHA-256 of the digest before it and of the entry as a JSON array; that of
no entry is fixed. So whoever keeps a head, or reads it where it was published, can tell that the
journal up to there is still the same, to the last figure. Nothing is stored: a head is worked out
when it is asked for, and costs the writers nothing.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256

from attrs import frozen

from freetier.entries import Entry
from freetier.errors import IntegrityError, InvalidInput
from freetier.repository import page_after
from freetier.steps import Steps
from freetier.values import EPOCH, MAX_STORED, check_type, to_us

_AS_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_HEAD = re.compile(r"([0-9]{1,19}):([0-9a-f]{64})", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@frozen
class Head:
    """The end of a sealed journal: its last `seq`, and the digest of all of it, in hex.

    Raises `InvalidInput`.
    """

    seq: int
    digest: str

    def __attrs_post_init__(self) -> None:
        if type(self.seq) is not int or not 0 <= self.seq <= MAX_STORED:
            raise InvalidInput("seq", self.seq, f"a seq from 0 to {MAX_STORED}")
        check_type("digest", self.digest, str)
        if not _DIGEST.fullmatch(self.digest):
            raise InvalidInput("digest", self.digest, "64 lowercase hex digits")

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"


START = Head(0, sha256(b"freetier journal 1").hexdigest())
"""The head of a journal without an entry."""


def parse_head(text: str) -> Head:
    """The head that `str(head)` gave. Raises `InvalidInput`."""
    match = _HEAD.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidInput("head", text, "SEQ:DIGEST, as `seal` gives it")
    return Head(int(match[1]), match[2])


def linked(digest: bytes, entry: Entry) -> bytes:
    """The digest of the journal up to `entry`, from that of the journal before it."""
    return sha256(digest + canonical(entry)).digest()


def canonical(entry: Entry) -> bytes:
    """An entry as the chain has it, the same on every database: a JSON array in UTF-8.

    The figures in the order of `Entry`, times in microseconds and days in days since 1970, what
    does not apply as null.
    """
    figures = [
        entry.seq,
        entry.kind,
        entry.key,
        to_us(entry.at),
        entry.identity,
        entry.tier,
        None if entry.day is None else (entry.day - EPOCH.date()).days,
        entry.price_sats,
        entry.absorb_sats,
        entry.charge_sats,
        entry.paid_sats,
        entry.refund_sats,
        entry.overrun_sats,
        entry.uncovered_sats,
        entry.budget_sats,
        entry.tier_ceiling_sats,
        entry.release_sats,
        entry.floor_sats,
        entry.pool_share_bp,
        entry.bound_by,
        None if entry.rooms is None else sorted(entry.rooms.items()),
        None if entry.resets_at is None else to_us(entry.resets_at),
        None if entry.expires_at is None else to_us(entry.expires_at),
        entry.credit_share_bp,
        entry.credit_carry,
        entry.sponsor,
        entry.note,
        entry.balance_change,
        entry.reserved_change,
        entry.used_change,
        entry.balance_sats,
        entry.reserved_sats,
    ]
    return _AS_JSON(figures).encode()


def seal(since: Head) -> Steps[Head]:
    """The head of the journal as it stands, from one that is trusted."""
    if since.seq:
        first = yield page_after(since.seq - 1)
        if not first or first[0].seq != since.seq:
            raise IntegrityError(f"the journal has no entry {since.seq}, which was sealed")
    seq, digest = since.seq, bytes.fromhex(since.digest)
    while page := (yield page_after(seq)):
        for entry in page:
            if entry.seq != seq + 1:
                raise IntegrityError(f"entry {entry.seq} comes after entry {seq}")
            seq, digest = entry.seq, linked(digest, entry)
    return Head(seq, digest.hex())

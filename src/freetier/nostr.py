"""Who sent a request, by Nostr: a proof of a key (NIP-98), and how keys are written (NIP-19).

A proof of a key is not a tier: anybody can make any number of keys. Which tier a key has is for
the host to say. Needs the extra `nostr` (coincurve, bech32).
"""

from __future__ import annotations

import base64
import re
import threading
from datetime import UTC, datetime
from hashlib import sha256
from heapq import heappop, heappush
from typing import Protocol

from bech32 import bech32_decode, bech32_encode, convertbits

from freetier._nostr_event import on_curve, read_event
from freetier.errors import InvalidInput, NotAuthenticated, StoreUnavailable
from freetier.values import check_time, from_us, to_us

KIND = 27235
"""The kind of the event that proves a request (NIP-98)."""
WINDOW_S = 60
"""How far `created_at` may be from now, before or after, in seconds (NIP-98)."""
MAX_HEADER_LENGTH = 65_536
"""The longest header that is looked at, in characters."""
MAX_CAPACITY = 100_000_000
_SECOND_US = 1_000_000
_METHOD = re.compile(r"[!-~]+")
_ABSOLUTE = re.compile(r"https?://.+", re.IGNORECASE | re.DOTALL)
_HEX_KEY = re.compile(r"[0-9A-Fa-f]{64}")
# 52 letters hold the 32 bytes, 6 the checksum; 1, b, i and o are not used (BIP-173).
_NPUB = re.compile(r"npub1[02-9ac-hj-np-z]{58}|NPUB1[02-9AC-HJ-NP-Z]{58}")


class Seen(Protocol):
    """What remembers the proofs that were used, so that none is used twice.

    `first_time(event_id, now=…, until=…)` is True the first time that it is called with this id,
    else False. It must be one atomic step, and remember the id at least as long as it is not
    after `until`, the last moment at which the proof could be used again. `now` is the verifier's
    time. What it raises, `verify_nip98` lets through.
    """

    def first_time(self, event_id: str, *, now: datetime, until: datetime) -> bool:
        """Whether this id is seen for the first time; from now on it is not."""


class SeenEvents:
    """`Seen` in the memory of one process. Safe to use from several threads.

    It forgets an id only when it is past its `until`, and never holds more than `capacity` (1 to
    100,000,000; each takes about 300 bytes). Raises `InvalidInput`.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        if type(capacity) is not int or not 1 <= capacity <= MAX_CAPACITY:
            raise InvalidInput("capacity", capacity, f"a whole number from 1 to {MAX_CAPACITY}")
        self._capacity = capacity
        self._lock = threading.Lock()
        self._ids: set[str] = set()
        self._by_until: list[tuple[datetime, str]] = []  # a heap: the next to forget is first
        self._forgotten = datetime.min.replace(tzinfo=UTC)

    def first_time(self, event_id: str, *, now: datetime, until: datetime) -> bool:
        """Whether this id is seen for the first time; from now on it is not.

        Raises `StoreUnavailable` when it is full: there is room again when the oldest proof is
        out of its window, at most two minutes later.
        """
        with self._lock:
            while self._by_until and self._by_until[0][0] < now:
                self._forgotten, forgotten = heappop(self._by_until)
                self._ids.remove(forgotten)
            # What may have been forgotten counts as seen: a clock that is set back opens no gap.
            if event_id in self._ids or until <= self._forgotten:
                return False
            if len(self._ids) >= self._capacity:
                raise StoreUnavailable(
                    f"{self._capacity} proofs are within their window, of two minutes at most"
                )
            self._ids.add(event_id)
            heappush(self._by_until, (until, event_id))
            return True


SEEN = SeenEvents()
"""What `verify_nip98` remembers unless it is told otherwise: the proofs used in this process."""


def verify_nip98(
    header: str | None,
    *,
    url: str,
    method: str,
    body: bytes | None = None,
    now: datetime | None = None,
    seen: Seen | None = SEEN,
) -> str:
    """The public key (64 lowercase hex digits) that signed this request, by NIP-98.

    `header` is the value of `Authorization`, None if there is none. `url` is absolute and with
    its query, as callers know it. `body` is the body as it was sent, None or empty if there is
    none. `now` is aware, None is this machine's clock. The proof must be made within 60 seconds
    of `now`, before or after, and for this very URL, method and body; NIP-98 leaves the hash of
    the body to the server, here it is a must. `seen` remembers it, last of all, so that only
    real proofs are remembered; with None the same proof may be used again within its window.

    Raises `NotAuthenticated` for whatever the header is, and `InvalidInput` for another argument.
    """
    at = to_us(_check_request(header, url, method, body, now, seen))
    event = read_event(_decoded(header))
    if event.kind != KIND:
        raise NotAuthenticated(f"the event's kind is not {KIND}")
    if abs(at - event.created_at * _SECOND_US) > WINDOW_S * _SECOND_US:
        raise NotAuthenticated(f"the event was not made within {WINDOW_S} seconds of now")
    if event.tagged("u") != [url]:
        raise NotAuthenticated("the event has not one tag u that is the request's URL")
    if [_upper(tag) for tag in event.tagged("method")] != [method.upper()]:
        raise NotAuthenticated("the event has not one tag method that is the request's method")
    hashes = event.tagged("payload")
    # Only where there is no body may its hash be missing.
    if (body or hashes) and hashes != [sha256(body or b"").hexdigest()]:
        raise NotAuthenticated("the event has not one tag payload that is the body's SHA-256")
    event.check_signature()
    until = from_us((event.created_at + WINDOW_S) * _SECOND_US)
    # Only True counts: a `Seen` that answers anything else, such as a coroutine, has not looked.
    if seen is not None and seen.first_time(event.id, now=from_us(at), until=until) is not True:
        raise NotAuthenticated("the event was used before")
    return event.pubkey


def canonical_pubkey(text: str) -> str:
    """A public key as NIP-01 writes it, 64 lowercase hex digits, from hex of any case or `npub1…`.

    Raises `InvalidInput` for anything else, also for a key that is not on the curve (BIP-340) and
    for a broken checksum (NIP-19). The error does not show `text`: it may be a secret key.
    """
    return _key("text", text).hex()


def npub(pubkey: str) -> str:
    """A public key for people to read: `npub1…` (NIP-19), from what `canonical_pubkey` takes.

    Raises `InvalidInput`.
    """
    return bech32_encode("npub", convertbits(_key("pubkey", pubkey), 8, 5) or ())


def _check_request(
    header: object, url: object, method: object, body: object, now: object, seen: object
) -> datetime:
    """The time to judge by. What is not shown in the error may hold a caller's secret."""
    if header is not None and type(header) is not str:
        raise InvalidInput("header", type(header), "text, or None")
    if type(url) is not str or not _ABSOLUTE.fullmatch(url):
        raise InvalidInput("url", url, "an absolute URL of http or https")
    if type(method) is not str or not _METHOD.fullmatch(method):
        raise InvalidInput("method", method, "an HTTP method")
    if body is not None and type(body) is not bytes:
        raise InvalidInput("body", type(body), "bytes, or None")
    if seen is not None and not callable(getattr(seen, "first_time", None)):
        raise InvalidInput("seen", seen, "a Seen, or None")
    return datetime.now(UTC) if now is None else check_time("now", now)


def _decoded(header: str | None) -> bytes:
    """What the header holds in base64, with or without the `=` at the end: NIP-98 shows none."""
    if header is None:
        raise NotAuthenticated("there is no Authorization header")
    if len(header) > MAX_HEADER_LENGTH:
        raise NotAuthenticated(f"the header has more than {MAX_HEADER_LENGTH} characters")
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "nostr":
        raise NotAuthenticated("the header's scheme is not Nostr")
    encoded = encoded.strip(" ")
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        decoded = b""
    full = base64.b64encode(decoded).decode()
    if encoded not in (full, full.rstrip("=")):  # one way to write it, no other
        raise NotAuthenticated("the header is not base64 after its scheme")
    return decoded


def _upper(method: str | None) -> str | None:
    """Only of ASCII: elsewhere two letters may have one capital."""
    return method.upper() if method is not None and method.isascii() else method


def _key(argument: str, text: object) -> bytes:
    key: bytes | None = None
    if type(text) is str and _HEX_KEY.fullmatch(text):
        key = bytes.fromhex(text)
    elif type(text) is str and _NPUB.fullmatch(text):
        key = _from_npub(text)
    if key is not None and on_curve(key):
        return key
    raise InvalidInput(argument, _hidden(text), "a public key: 64 hex digits or npub1…")


def _from_npub(text: str) -> bytes | None:
    _, words = bech32_decode(text)  # None if the checksum is wrong
    octets = convertbits(words, 5, 8, False) if words else None  # None if what is left is not 0
    return bytes(octets) if octets else None


def _hidden(text: object) -> str:
    """What an error says of a text that may be a secret key."""
    if type(text) is not str:
        return f"{type(text).__name__}, not shown"
    if text.strip().lower().startswith("nsec1"):
        return "a secret key, not shown"
    return f"{len(text)} characters, not shown"

"""A signed event as NIP-01 defines it: read from text that anybody may have written."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any

from attrs import frozen
from coincurve import PublicKeyXOnly

from freetier.errors import NotAuthenticated

_HEX = {
    name: re.compile(f"[0-9a-f]{{{n}}}") for name, n in (("id", 64), ("pubkey", 64), ("sig", 128))
}
# All that NIP-01 escapes. Other control characters stay as they are, unlike in JSON.
_ESCAPES = str.maketrans(
    {
        "\n": r"\n",
        '"': r"\"",
        "\\": r"\\",
        "\r": r"\r",
        "\t": r"\t",
        "\b": r"\b",
        "\f": r"\f",
    }
)


@frozen
class Event:
    """An event whose fields have the types and lengths of NIP-01. Its signature may be anything.

    `id`, `pubkey` and `sig` are lowercase hex of 32, 32 and 64 bytes; `created_at` is in seconds
    since 1970 began.
    """

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: str

    def tagged(self, name: str) -> list[str | None]:
        """The value of each tag of this name, in order; None for a tag without one."""
        return [tag[1] if len(tag) > 1 else None for tag in self.tags if tag[0] == name]

    def check_signature(self) -> None:
        """Raise `NotAuthenticated` unless `pubkey` signed `id`, and `id` is of what is said."""
        try:
            said = self._serialised().encode()
        except UnicodeEncodeError:
            raise NotAuthenticated("the event has half a character, which is not text") from None
        if sha256(said).hexdigest() != self.id:
            raise NotAuthenticated("the event's id is not the hash of what it says")
        signer, message, signature = map(bytes.fromhex, (self.pubkey, self.id, self.sig))
        if not signed(signer, message, signature):
            raise NotAuthenticated("the signature is not by the event's pubkey")

    def _serialised(self) -> str:
        tags = ",".join(f"[{','.join(map(_quoted, tag))}]" for tag in self.tags)
        numbers = f"{self.created_at},{self.kind}"
        return f'[0,"{self.pubkey}",{numbers},[{tags}],{_quoted(self.content)}]'


def read_event(raw: bytes) -> Event:
    """The event in `raw`, JSON in UTF-8. Fields that NIP-01 does not name are not looked at.

    Raises `NotAuthenticated` for anything else, and for a name that an object has twice: readers
    disagree on which of the two counts.
    """
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):  # of any depth, with integers of any length
        raise NotAuthenticated("the event is not JSON with each name once, in UTF-8") from None
    if type(found) is not dict:
        raise NotAuthenticated("the event is not a JSON object")
    for name, digits in _HEX.items():
        if type(found.get(name)) is not str or not digits.fullmatch(found[name]):
            raise NotAuthenticated(f"the event's {name} is not lowercase hex of the right length")
    for name in ("created_at", "kind"):
        if type(found.get(name)) is not int:
            raise NotAuthenticated(f"the event's {name} is not a whole number")
    if type(found.get("content")) is not str:
        raise NotAuthenticated("the event's content is not text")
    tags = found.get("tags")
    if type(tags) is not list or not all(map(_is_tag, tags)):
        raise NotAuthenticated("the event's tags are not lists of one or more texts")
    return Event(
        id=found["id"],
        pubkey=found["pubkey"],
        created_at=found["created_at"],
        kind=found["kind"],
        tags=tuple(map(tuple, tags)),
        content=found["content"],
        sig=found["sig"],
    )


def on_curve(pubkey: bytes) -> bool:
    """Whether these 32 bytes are the x of a point on the curve, as BIP-340 asks of a key."""
    try:
        PublicKeyXOnly(pubkey)
    except ValueError:
        return False
    return True


def signed(pubkey: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is by `pubkey` (32 bytes) over `message`, by BIP-340."""
    return on_curve(pubkey) and PublicKeyXOnly(pubkey).verify(signature, message)


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _is_tag(tag: object) -> bool:
    return type(tag) is list and len(tag) > 0 and all(type(text) is str for text in tag)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

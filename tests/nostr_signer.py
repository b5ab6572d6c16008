"""What a caller does: make an event, sign it, put it in a header. Written without the library."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from coincurve import PrivateKey, PublicKeyXOnly

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
SECRET = bytes(31) + b"\x07"
PUBKEY = PublicKeyXOnly.from_secret(SECRET).format().hex()
URL = "https://host.example/jobs?kind=5050&q=%C3%A9"


def pubkey_of(secret: bytes) -> str:
    """The public key, in hex."""
    return PublicKeyXOnly.from_secret(secret).format().hex()


def signed(serialised: str, secret: bytes = SECRET) -> dict[str, str]:
    """The id and the signature of an event that is serialised so. Always the same."""
    digest = sha256(serialised.encode()).digest()
    return {"id": digest.hex(), "sig": PrivateKey(secret).sign_schnorr(digest, bytes(32)).hex()}


def proof(
    url: str = URL,
    method: str = "GET",
    body: bytes = b"",
    *,
    created_at: int = NOW_S,
    kind: int = 27235,
    tags: Sequence[Sequence[str]] | None = None,
    content: str = "",
    secret: bytes = SECRET,
) -> dict[str, Any]:
    """A signed event for a request. `tags` are instead of those that NIP-98 asks for."""
    if tags is None:
        hashes = [["payload", sha256(body).hexdigest()]] if body else []
        tags = [["u", url], ["method", method], *hashes]
    # Outside of control characters, what NIP-01 escapes is what JSON must.
    pubkey = pubkey_of(secret)
    what = [0, pubkey, created_at, kind, tags, content]
    event = {"created_at": created_at, "kind": kind, "tags": tags, "content": content}
    serialised = json.dumps(what, ensure_ascii=False, separators=(",", ":"))
    return {"pubkey": pubkey, **event, **signed(serialised, secret)}


def header(event: object) -> str:
    """The header with an event, or with text that only looks like one."""
    text = event if isinstance(event, str) else json.dumps(event)
    return "Nostr " + base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()

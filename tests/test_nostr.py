"""NIP-98: a header proves a key for one request, once. NIP-19: how keys are written."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freetier import InvalidInput, NotAuthenticated
from freetier.nostr import SeenEvents, verify_nip98

from .nostr_signer import NOW, NOW_S, PUBKEY, URL, header, proof

TAGS = [["u", URL], ["method", "GET"]]
EMPTY = ["payload", sha256(b"").hexdigest()]


def verify(proved: str | None, **but: Any) -> str:
    """Whose request it is: a GET of URL at NOW, but for what is said. No proof was seen before."""
    usual: dict[str, Any] = {"url": URL, "method": "GET", "now": NOW, "seen": SeenEvents()}
    return verify_nip98(proved, **usual | but)


def refused(proved: str | None, **but: Any) -> str:
    """Why it is nobody's."""
    with pytest.raises(NotAuthenticated) as caught:
        verify(proved, **but)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
requests = st.fixed_dictionaries(
    {
        "url": texts.map("https://host.example/".__add__),
        "method": st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "M-SEARCH"]),
        "body": st.binary(),
    }
)
# What a JSON reader may meet, and a little of what it may not.
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(requests, st.integers(0, 2**35))
def test_what_was_signed_verifies(request: Any, at: int) -> None:
    """A proof for this URL, method, body and time gives the key that signed it."""
    proved = header(proof(**request, created_at=at))
    assert verify(proved, **request, now=datetime.fromtimestamp(at, UTC)) == PUBKEY


@given(requests, st.data())
def test_what_was_not_signed_is_refused(request: Any, data: st.DataObject) -> None:
    """With another URL, method, body or time, or a digit changed in the event, it is refused."""
    event = proof(**request)
    changed = data.draw(st.sampled_from(["url", "method", "body", "now", "id", "pubkey", "sig"]))
    match changed:
        case "url":
            request["url"] += data.draw(st.text(min_size=1))
        case "method":
            request["method"] = "HEAD"
        case "body":
            request["body"] = data.draw(st.binary().filter(lambda b: b != request["body"]))
        case "now":
            off = data.draw(st.integers(61, 10**9)) * data.draw(st.sampled_from([1, -1]))
            request["now"] = NOW + timedelta(seconds=off)
        case _:
            at = data.draw(st.integers(0, len(event[changed]) - 1))
            digit = data.draw(st.sampled_from(sorted({*"0123456789abcdef"} - {event[changed][at]})))
            event[changed] = event[changed][:at] + digit + event[changed][at + 1 :]
    refused(header(event), **request)


@pytest.mark.parametrize("scheme", ["Nostr ", "nostr ", "NOSTR ", "Nostr   "])
@pytest.mark.parametrize("end", ["", "  "])
def test_the_scheme_has_no_case(scheme: str, end: str) -> None:
    """The scheme may be in any case, with any number of blanks after it."""
    assert verify(header(proof()).replace("Nostr ", scheme) + end) == PUBKEY


@pytest.mark.parametrize("content", ["", "a", "ab"])
def test_base64_may_be_unpadded(content: str) -> None:
    """The `=` at the end may be left out, as NIP-98's own example does."""
    proved = header(proof(content=content))
    assert verify(proved) == verify(proved.rstrip("=")) == PUBKEY


@pytest.mark.parametrize(
    "make",
    [
        lambda good: None,
        lambda good: "",
        lambda good: "Nostr",
        lambda good: "Nostr ",
        lambda good: "Nostr =",
        lambda good: good.replace("Nostr", "Bearer"),
        lambda good: good.replace("Nostr ", ""),
        lambda good: good.replace("Nostr ", "Nostr\t"),
        lambda good: " " + good,
        lambda good: good[:-2],
        lambda good: good.rstrip("=") + "=====",
        lambda good: good[:40] + " " + good[40:],
        lambda good: good[:40] + "\n" + good[40:],
        lambda good: good[:40] + "=" + good[40:],
        lambda good: good + "-_",
        lambda good: good + "é",
        lambda good: good + "\ud800",
        lambda good: good + " " * 65_536,
        lambda good: "Nostr " + "A" * 10**6,
    ],
)
def test_a_header_of_another_form(make: Callable[[str], str | None]) -> None:
    """No header, another scheme, what is not base64 or too long: refused."""
    refused(make(header(proof())))


def test_base64_has_one_form() -> None:
    """Bits that base64 leaves over are 0: no two texts stand for the same event."""
    good = header(proof(content="ab")).rstrip("=")
    for last in "RSTUVWXYZabcdef":  # they differ from Q in such bits alone
        other = good[:-1] + last
        assert good[-1] == "Q"
        assert base64.b64decode(other[6:] + "==") == base64.b64decode(good[6:] + "==")
        refused(other)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 40_000,
        "[" * 24_000 + "]" * 24_000,
        '{"a":' * 9000 + "1" + "}" * 9000,
        '{"tags":' + "[" * 20_000 + "]" * 20_000 + "}",
        "",
        "null",
        "[]",
        '"Nostr"',
        "{",
        "\ufeff" + json.dumps(proof()),
        json.dumps(proof()) + "{}",
        json.dumps(proof())[:-1] + ',"kind":27235}',
        json.dumps(proof())[:-1] + ',"x":{"a":1,"a":1}}',
        json.dumps(proof())[:-1] + ',"x":NaN}',
        json.dumps(proof())[:-1] + ',"x":-Infinity}',
        json.dumps(proof()).replace(str(NOW_S), f"{NOW_S}.0"),
        json.dumps(proof()).replace(str(NOW_S), "1e400"),
        json.dumps(proof()).replace(str(NOW_S), "9" * 4000),
        json.dumps(proof()).replace(str(NOW_S), "-" + "9" * 40_000),
        json.dumps(proof()).replace('"content": ""', '"content": "\\ud800"'),
        json.dumps(proof()).replace('"content": ""', '"content": "\n"'),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_text_of_another_form(text: str) -> None:
    """What is not an event in strict JSON is refused: too deep, too long, a name twice, NaN."""
    refused(header(text))


def test_only_utf_8() -> None:
    """JSON in another encoding than UTF-8 is refused."""
    assert verify(header(json.dumps(proof(), ensure_ascii=False))) == PUBKEY
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig"):
        encoded = base64.b64encode(json.dumps(proof()).encode(encoding)).decode()
        refused(f"Nostr {encoded}")


@given(st.text() | st.text().map("Nostr ".__add__) | st.binary() | anything)
def test_no_header_is_too_strange(value: Any) -> None:
    """Any text, any bytes in base64 and any JSON is refused, and nothing else is raised."""
    if isinstance(value, bytes):
        refused("Nostr " + base64.b64encode(value).decode())
    elif isinstance(value, str):
        refused(value)
    refused(header(json.dumps(value)) if not isinstance(value, bytes) else None)


@given(st.dictionaries(st.sampled_from(sorted(proof())), anything, min_size=1))
def test_no_field_is_too_strange(strange: dict[str, Any]) -> None:
    """An event with any JSON in a field's place is refused, and nothing else is raised."""
    if proof() | strange != proof():
        refused(header(proof() | strange))


@pytest.mark.parametrize("kind", [0, 1, 27234, 27236])
def test_the_kind(kind: int) -> None:
    """An event of another kind, signed for something else, proves no request."""
    assert "kind" in refused(header(proof(kind=kind)))


@pytest.mark.parametrize("seconds", [-60, -59.5, 0, 60])
def test_within_60_seconds(seconds: float) -> None:
    """A proof counts up to 60 seconds before and after it was made."""
    assert verify(header(proof()), now=NOW + timedelta(seconds=seconds)) == PUBKEY


@pytest.mark.parametrize("seconds", [-61, -60.000001, 60.000001, 3600])
def test_beyond_60_seconds(seconds: float) -> None:
    """A microsecond past the 60 seconds it counts no more."""
    assert "60 seconds" in refused(header(proof()), now=NOW + timedelta(seconds=seconds))


def test_the_hosts_clock() -> None:
    """Without `now` the clock of this machine counts, and a time zone changes nothing."""
    at = int(datetime.now(UTC).timestamp())
    assert verify(header(proof(created_at=at)), now=None) == PUBKEY
    refused(header(proof(created_at=at - 120)), now=None)
    assert verify(header(proof()), now=NOW.astimezone(timezone(timedelta(hours=9)))) == PUBKEY


@pytest.mark.parametrize(
    "url",
    [
        URL.lower().replace("k", "K"),
        URL.replace("https", "http"),
        URL + "&",
        URL + "#",
        URL.partition("?")[0],
        URL.replace("%C3%A9", "é"),
        URL.replace("host.example", "host.example:443"),
    ],
)
def test_the_url_is_exact(url: str) -> None:
    """The URL counts character by character, with its query."""
    assert "URL" in refused(header(proof(url=url)))


@pytest.mark.parametrize("signed", ["post", "POST", "Post"])
@pytest.mark.parametrize("method", ["post", "POST"])
def test_the_method_has_no_case(signed: str, method: str) -> None:
    """The method's case does not count, but only of the letters of ASCII."""
    assert verify(header(proof(method=signed)), method=method) == PUBKEY
    assert "method" in refused(header(proof(method="po\u017ft")), method=method)
    assert "\u017f".upper() == "S"


@pytest.mark.parametrize("name", ["u", "method"])
def test_tags_come_once(name: str) -> None:
    """A tag `u` and a tag `method` must be there, once, with a value; more values do no harm."""
    (this,), others = ([t for t in TAGS if (t[0] == name) is so] for so in (True, False))
    refused(header(proof(tags=others)))
    refused(header(proof(tags=[*TAGS, this])))
    refused(header(proof(tags=[*TAGS, [name, "other"]])))
    refused(header(proof(tags=[*TAGS, [name]])))
    refused(header(proof(tags=[*others, [name]])))
    refused(header(proof(tags=[*others, [name.upper(), this[1]]])))
    assert verify(header(proof(tags=[*others, [*this, "more"], ["t", "x"]]))) == PUBKEY


def test_a_body_must_be_signed() -> None:
    """A body needs one tag `payload` with its SHA-256; where there is none, the tag may say so."""
    digest = sha256(b"{}").hexdigest()
    for payload in ([], [EMPTY], [["payload"]], [["payload", digest.upper()]]):
        assert "payload" in refused(header(proof(tags=[*TAGS, *payload])), body=b"{}")
    refused(header(proof(body=b"{}", tags=[*TAGS, *[["payload", digest]] * 2])), body=b"{}")
    for empty in (None, b""):
        assert verify(header(proof(tags=[*TAGS, EMPTY])), body=empty) == PUBKEY
        refused(header(proof(body=b"{}")), body=empty)
        refused(header(proof(tags=[*TAGS, EMPTY, EMPTY])), body=empty)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *product(["header"], [b"Nostr", 5, ["Nostr"]]),
        *product(["url"], [None, b"https://a/", 5, "", "/jobs", "host/jobs", "https://"]),
        *product(["method"], [None, b"GET", 5, "", "GET ", "GÉT"]),
        *product(["body"], ["", "{}", 5, bytearray(b"{}"), {}]),
        *product(["now"], [5, "now", NOW.replace(tzinfo=None), NOW.date()]),
        *product(["seen"], [True, set(), print]),
    ],
    ids=repr,
)
def test_a_mistake_of_the_host(argument: str, value: Any) -> None:
    """An argument that is not what the function takes is named, before the header is read."""
    but = {} if argument == "header" else {argument: value}
    with pytest.raises(InvalidInput) as caught:
        verify(value if argument == "header" else "no header", **but)
    assert caught.value.argument == argument


def test_a_header_is_not_shown() -> None:
    """No error shows the header: it may be a password, meant for somebody else."""
    assert "cGFzcw" not in refused("Basic cGFzcw==")
    assert "cGFzcw" not in refused("Nostr cGFzcw==")
    with pytest.raises(InvalidInput) as caught:
        verify(b"Basic cGFzcw==")  # type: ignore[arg-type]
    assert "cGFzcw" not in repr(caught.value)

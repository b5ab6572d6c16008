"""Events: serialised and signed as NIP-01 and BIP-340 say, by their own examples."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freetier import NotAuthenticated
from freetier._nostr_event import read_event
from freetier._nostr_event import signed as is_signed

from .nostr_signer import PUBKEY, proof, signed

# test-vectors.csv of BIP-340 (github.com/bitcoin/bips, bip-0340), unchanged.
BIP_340 = Path(__file__).parent / "bip340_vectors.csv"

# Events printed in the NIPs (github.com/nostr-protocol/nips): their ids and signatures are real.
PUBLISHED: dict[str, dict[str, Any]] = {
    "NIP-13": {
        "id": "000006d8c378af1779d2feebc7603a125d99eca0ccf1085959b307f64e5dd358",
        "pubkey": "a48380f4cfcc1ad5378294fcac36439770f9c878dd880ffa94bb74ea54a6f243",
        "created_at": 1651794653,
        "kind": 1,
        "tags": [["nonce", "776797", "20"]],
        "content": "It's just me mining my own business",
        "sig": "284622fc0a3f4f1303455d5175f7ba962a3300d136085b9566801bc2e0699de0"
        "c7e31e44c81fb40ad9049173742e904713c3594a1da0fc5d2382a25c11aba977",
    },
    "NIP-53": {
        "id": "97aa81798ee6c5637f7b21a411f89e10244e195aa91cb341bf49f718e36c8188",
        "pubkey": "3f770d65d3a764a9c5cb503ae123e62ec7598ad035d836e2a810f3877a745b24",
        "created_at": 1687286726,
        "kind": 1311,
        "tags": [
            [
                "a",
                "30311:1597246ac22f7d1375041054f2a4986bd971d8d196d7997e48973263ac9879ec"
                ":demo-cf-stream",
                "",
                "root",
            ]
        ],
        "content": "Zaps to live streams is beautiful.",
        "sig": "997f62ddfc0827c121043074d50cfce7a528e978c575722748629a4137c45b75"
        "bdbc84170bedc723ef0a5a4c3daebf1fef2e93f5e2ddb98e5d685d022c30b622",
    },
}
NIP_98: dict[str, Any] = {
    "id": "fe964e758903360f28d8424d092da8494ed207cba823110be3a57dfe4b578734",
    "pubkey": "63fe6318dc58583cfe16810f86dd09e18bfd76aabc24a0081ce2856f330504ed",
    "content": "",
    "kind": 27235,
    "created_at": 1682327852,
    "tags": [["u", "https://api.snort.social/api/v1/n5sp/list"], ["method", "GET"]],
    "sig": "5ed9d8ec958bc854f997bdc24ac337d005af372324747efe4a00e24f4c30437f"
    "f4dd8308684bed467d9d6be3e5a517bb43b1732cc7d33949a3aaf86705c22184",
}


def vectors() -> list[Any]:
    with BIP_340.open(encoding="utf-8") as rows:
        return [
            pytest.param(row, id=f"{row['index']} {row['comment']}"[:60])
            for row in csv.DictReader(rows)
        ]


def check(event: object) -> None:
    read_event(json.dumps(event).encode()).check_signature()


@pytest.mark.parametrize("row", vectors())
def test_the_vectors_of_bip_340(row: dict[str, str]) -> None:
    """Each vector of BIP-340 verifies, or does not, as BIP-340 says."""
    pubkey, message, signature = (
        bytes.fromhex(row[name]) for name in ("public key", "message", "signature")
    )
    assert is_signed(pubkey, message, signature) is (row["verification result"] == "TRUE")


@pytest.mark.parametrize("nip", PUBLISHED)
def test_published_events(nip: str) -> None:
    """The ids and the signatures of events that the NIPs print are right."""
    check(PUBLISHED[nip])


def test_the_example_of_nip_98() -> None:
    """NIP-98's own example is refused: its id is that of an event with a tag `url`, not `u`.

    The draft was changed after the example was signed. With `url` id and signature are right.
    """
    with pytest.raises(NotAuthenticated, match="the event's id"):
        check(NIP_98)
    (_, url), method = NIP_98["tags"]
    check(NIP_98 | {"tags": [["url", url], method]})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\n", r"\n"),
        ('"', r"\""),
        ("\\", r"\\"),
        ("\r", r"\r"),
        ("\t", r"\t"),
        ("\b", r"\b"),
        ("\f", r"\f"),
        (r"\n", r"\\n"),
        ("/", "/"),
        ("é", "é"),
        ("💜", "💜"),
        ("\u2028", "\u2028"),
        ("\x7f", "\x7f"),
        ("\0", "\0"),
        ("\x01\x1f", "\x01\x1f"),
        ("", ""),
    ],
    ids=ascii,
)
def test_seven_characters_are_escaped(text: str, written: str) -> None:
    """In tags and content NIP-01 escapes seven characters, and leaves all others as they are."""
    fields = {"created_at": 5, "kind": 1, "tags": [["t", text], [text]], "content": text}
    shown = f'[0,"{PUBKEY}",5,1,[["t","{written}"],["{written}"]],"{written}"]'
    check({"pubkey": PUBKEY, **fields, **signed(shown)})


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\r\t\b\f"))


@given(
    created_at=st.integers(),
    kind=st.integers(0, 65535),
    tags=st.lists(st.lists(texts, min_size=1)),
    content=texts,
)
def test_the_id_is_the_hash_of_compact_json(**fields: Any) -> None:
    """What was signed as compact JSON in UTF-8 verifies, whatever it says."""
    check(proof(**fields))


@given(st.sampled_from(["id", "pubkey", "sig"]), st.integers(0, 127), st.sampled_from("0f"))
def test_one_digit_changed(field: str, at: int, digit: str) -> None:
    """A hex digit changed in the id, the pubkey or the signature is refused."""
    event = proof()
    at %= len(event[field])
    text = event[field][:at] + digit + event[field][at + 1 :]
    if text != event[field]:
        with pytest.raises(NotAuthenticated):
            check(event | {field: text})


@pytest.mark.parametrize("x", [0, 5, 2**256 - 1], ids=["zero", "beside", "beyond"])
def test_a_pubkey_off_the_curve(x: int) -> None:
    """A pubkey that is no point of the curve signs nothing, though the id is right."""
    pubkey = f"{x:064x}"
    digest = sha256(f'[0,"{pubkey}",5,1,[],""]'.encode()).hexdigest()
    event = {"pubkey": pubkey, "created_at": 5, "kind": 1, "tags": [], "content": ""}
    with pytest.raises(NotAuthenticated, match="signature"):
        check(event | {"id": digest, "sig": "0" * 128})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *product(("id", "pubkey", "sig"), (None, 5, "", [], "a")),
        *product(("created_at", "kind"), (None, True, 5.0, 1e300, "5", [])),
        ("id", proof()["id"].upper()),
        ("id", proof()["id"] + "\n"),
        ("pubkey", "\u0660" * 64),
        ("sig", proof()["sig"] + "00"),
        ("content", None),
        ("content", 5),
        ("tags", None),
        ("tags", {}),
        ("tags", "u"),
        ("tags", ["u"]),
        ("tags", [[]]),
        ("tags", [["u", None]]),
        ("tags", [["u", 5]]),
        ("tags", [["u", ["u"]]]),
    ],
    ids=ascii,
)
def test_fields_have_their_types(field: str, value: object) -> None:
    """A field of another type, length or alphabet is refused, and so is one that is missing."""
    event = proof()
    with pytest.raises(NotAuthenticated, match=f"event's {field}"):
        read_event(json.dumps(event | {field: value}).encode())
    with pytest.raises(NotAuthenticated, match=f"event's {field}"):
        read_event(json.dumps({name: event[name] for name in event if name != field}).encode())


@pytest.mark.parametrize("strange", [{"content": "\ud800"}, {"tags": [["u", "\udfff"]]}], ids=ascii)
def test_half_a_character(strange: dict[str, Any]) -> None:
    """Half of a surrogate pair has no form in UTF-8, so nobody can have signed it."""
    with pytest.raises(NotAuthenticated, match="half a character"):
        check(proof() | strange)


def test_other_fields_are_not_looked_at() -> None:
    """A field that NIP-01 does not name changes nothing."""
    check(proof() | {"relay": {"deep": [1.5, None]}})

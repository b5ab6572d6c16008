"""Public keys, in hex and as NIP-19 writes them; secret keys are never shown."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
from bech32 import bech32_encode, convertbits
from coincurve import PublicKeyXOnly
from hypothesis import given
from hypothesis import strategies as st

from freetier import InvalidInput, NotAuthenticated
from freetier.nostr import canonical_pubkey, npub

from .nostr_signer import PUBKEY

# The examples of NIP-19 (github.com/nostr-protocol/nips).
NIP_19 = {
    "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6": (
        "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
    ),
    "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg": (
        "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"
    ),
}
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
NSEC_HEX = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"
NPROFILE = (
    "nprofile1qqsrhuxx8l9ex335q7he0f09aej04zpazpl0ne2cgukyawd24mayt8gpp4mhxue69uhhytnc9e3k7mgpz4m"
    "hxue69uhkg6nzv9ejuumpv34kytnrdaksjlyr9p"
)
NPUB = next(iter(NIP_19))
CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def encoded(prefix: str, octets: bytes) -> str:
    return bech32_encode(prefix, convertbits(octets, 8, 5) or [])


def refused(text: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        canonical_pubkey(text)
    assert caught.value.argument == "text"
    return str(caught.value)


@pytest.mark.parametrize("written", NIP_19)
def test_the_examples_of_nip_19(written: str) -> None:
    """NIP-19's npubs are the keys that it says, both ways, in one case or the other."""
    key = NIP_19[written]
    assert npub(key) == npub(key.upper()) == npub(written) == written
    for form in (written, written.upper(), key, key.upper(), key[:30] + key[30:].upper()):
        assert canonical_pubkey(form) == key


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_every_key_has_two_forms(secret: bytes) -> None:
    """Any key goes to npub and back."""
    try:
        key = PublicKeyXOnly.from_secret(secret).format().hex()
    except ValueError:  # the few that are beyond the curve's order
        return
    assert canonical_pubkey(npub(key)) == canonical_pubkey(key) == key


@given(st.integers(5, 62), st.sampled_from(CHARSET))
def test_one_letter_changed(at: int, letter: str) -> None:
    """A letter changed anywhere in an npub breaks its checksum."""
    if NPUB[at] != letter:
        refused(NPUB[:at] + letter + NPUB[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        *(None, 5, True, bytes.fromhex(PUBKEY), PUBKEY.encode(), [PUBKEY]),
        *("", "npub1", "alice", PUBKEY[:-1], PUBKEY + "0", "0x" + PUBKEY, "\u0660" * 64),
        *(f" {PUBKEY}", f"{PUBKEY}\n", "02" + PUBKEY, f"{PUBKEY[:31]} {PUBKEY[32:]}"),
        *(f"{NPUB} ", f"nostr:{NPUB}", NPUB[:-1], NPUB.capitalize(), NPUB[:30] + NPUB[30:].upper()),
        *(f"{PUBKEY[:62]}\ud800a", "npub1\ud800", "npub1" + "q" * 10**6, NPROFILE),
        encoded("note", bytes.fromhex(PUBKEY)),
        encoded("npub", bytes.fromhex(PUBKEY)[:31]),
        encoded("npub", bytes.fromhex(PUBKEY) + b"\1"),
        # As long as an npub, but what is before the last 1 is its prefix.
        encoded("npub1x", (3).to_bytes(31)),
        # The last of 52 letters has four bits to spare, which are 0.
        bech32_encode("npub", [*(convertbits(bytes.fromhex(PUBKEY), 8, 5) or [])[:-1], 31]),
        # Bech32m (BIP-350): the same letters with another checksum.
        "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkws3w8ktc",
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_what_is_no_key(text: Any) -> None:
    """Another type, length, prefix, checksum or mixed case is no key."""
    refused(text)


@pytest.mark.parametrize("x", [0, 5, 2**256 - 1, 2**256 - 2**32 - 977], ids=hex)
def test_a_key_is_on_the_curve(x: int) -> None:
    """32 bytes that are no point of the curve are no key, in either form."""
    refused(f"{x:064x}")
    refused(encoded("npub", x.to_bytes(32)))


@pytest.mark.parametrize("ending", ["", " ", "x"])
@pytest.mark.parametrize("secret", [NSEC, NSEC.upper(), f" {NSEC}", f"nostr:{NSEC}"])
def test_a_secret_key_is_not_shown(secret: str, ending: str) -> None:
    """A secret key in the place of a public one is refused, and the error does not hold it."""
    with pytest.raises(InvalidInput) as caught:
        npub(secret + ending)
    error = caught.value
    assert error.argument == "pubkey"
    for text in (str(error), repr(error), repr(vars(error)), repr(error.args)):
        assert secret[5:25] not in text
    assert "secret key" in str(error) or secret.startswith("nostr:")


def test_a_secret_key_in_hex_is_not_shown() -> None:
    """Half of all secret keys are no public key; the error shows no hex at all."""
    wrong = [f"{x:064x}" for x in range(2**200, 2**200 + 40)]
    shown = []
    for each in wrong:
        try:
            canonical_pubkey(each)
        except InvalidInput as error:
            shown.append(str(error) + repr(vars(error)))
    assert shown
    assert not any("0000" in text for text in shown)
    assert "67dea2" not in refused(NSEC_HEX + "0")


@given(st.text() | st.text().map("npub1".__add__) | st.text(CHARSET).map("npub1".__add__))
def test_any_other_text_is_refused(text: str) -> None:
    """No text makes it raise anything but `InvalidInput`."""
    refused(text)


def test_the_error_travels() -> None:
    """An error can be pickled, as worker processes do."""
    error = pickle.loads(pickle.dumps(NotAuthenticated("why")))
    assert (error.reason, str(error)) == ("why", "why")


def test_the_core_does_not_need_it() -> None:
    """`import freetier` brings in neither this module nor what it needs."""
    code = "import freetier, sys; print({'coincurve', 'bech32', 'freetier.nostr'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

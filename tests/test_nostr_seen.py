"""A proof is used once within its window: what is remembered, when, and what is forgotten."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from freetier import InvalidInput, NotAuthenticated, StoreUnavailable
from freetier.nostr import Seen, SeenEvents, verify_nip98

from .nostr_signer import NOW, PUBKEY, SECRET, URL, header, proof

THREADS = 8


def verify(proved: str, seen: Seen | None, now: datetime = NOW, method: str = "GET") -> str:
    return verify_nip98(proved, url=URL, method=method, now=now, seen=seen)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class Notes:
    """A `Seen` that notes what it is asked, and answers as it is told."""

    def __init__(self, answer: Any = True) -> None:
        self.answer = answer
        self.asked: list[tuple[str, datetime, datetime]] = []

    def first_time(self, event_id: str, *, now: datetime, until: datetime) -> bool:
        self.asked.append((event_id, now, until))
        answer: bool = self.answer
        return answer


def test_a_proof_is_used_once() -> None:
    """The same proof is refused the second time, to the end of its window."""
    seen = SeenEvents()
    assert verify(header(proof()), seen) == PUBKEY
    for second in (0, 1, 60, -60, 59.999999):
        with pytest.raises(NotAuthenticated, match="used before"):
            verify(header(proof()), seen, after(second))
    assert verify(header(proof(content="another")), seen) == PUBKEY


def test_a_proof_is_remembered_in_the_process() -> None:
    """Unless it is told otherwise, a process remembers each proof; with None nothing does."""
    proved = header(proof(created_at=int(datetime.now(UTC).timestamp())))
    assert verify_nip98(proved, url=URL, method="GET") == PUBKEY
    with pytest.raises(NotAuthenticated, match="used before"):
        verify_nip98(proved, url=URL, method="GET")
    for _ in range(2):
        assert verify_nip98(proved, url=URL, method="GET", seen=None) == PUBKEY


def test_only_what_is_proved_is_remembered() -> None:
    """What fails another check is not remembered: nobody can use up the proof of another."""
    notes, good = Notes(), proof()
    for bad in (
        good | {"sig": proof(content="another")["sig"]},
        good | {"content": "another"},
        good | {"pubkey": "0" * 64},
        proof(method="POST"),
        proof(kind=1),
        proof(created_at=0),
    ):
        with pytest.raises(NotAuthenticated):
            verify(header(bad), notes)
    with pytest.raises(NotAuthenticated):
        verify(header(good), notes, method="POST")
    assert notes.asked == []
    assert verify(header(good), notes, after(5)) == PUBKEY
    assert notes.asked == [(good["id"], after(5), after(60))]


@pytest.mark.parametrize("answer", [False, None, 0, 1, "yes"], ids=repr)
def test_only_true_is_yes(answer: object) -> None:
    """An answer other than True refuses: an async `first_time` gives a coroutine, not an answer."""
    with pytest.raises(NotAuthenticated, match="used before"):
        verify(header(proof()), Notes(answer))


def test_the_signature_makes_no_other_proof() -> None:
    """The same event with another signature, also a right one, is the same proof."""
    seen, event = SeenEvents(), proof()
    again = PrivateKey(SECRET).sign_schnorr(bytes.fromhex(event["id"]), b"\1" * 32).hex()
    assert again != event["sig"]
    assert verify(header(event), seen) == PUBKEY
    with pytest.raises(NotAuthenticated, match="used before"):
        verify(header(event | {"sig": again}), seen)


def test_it_forgets_nothing_to_make_room() -> None:
    """Full, it is unavailable: an id is forgotten when it is past its time, and only then."""
    seen = SeenEvents(capacity=2)
    assert seen.first_time("a", now=NOW, until=after(60))
    assert seen.first_time("b", now=NOW, until=after(30))
    for now in (0, 15, 30):
        with pytest.raises(StoreUnavailable, match="2 proofs"):
            seen.first_time("c", now=after(now), until=after(90))
        assert not seen.first_time("a", now=after(now), until=after(60))
        assert not seen.first_time("b", now=after(now), until=after(30))
    assert seen.first_time("c", now=after(31), until=after(91))
    with pytest.raises(StoreUnavailable):
        seen.first_time("d", now=after(31), until=after(91))
    assert not seen.first_time("a", now=after(31), until=after(60))


def test_a_clock_set_back_opens_no_gap() -> None:
    """An id that was forgotten is not new again when the clock is set back."""
    seen = SeenEvents()
    assert seen.first_time("a", now=NOW, until=after(60))
    assert seen.first_time("b", now=after(3600), until=after(3660))
    assert not seen.first_time("a", now=NOW, until=after(60))
    assert seen.first_time("c", now=NOW, until=after(61))


@given(
    st.lists(st.tuples(st.integers(-50, 200), st.sampled_from("abcdef"), st.integers(0, 120))),
    st.integers(1, 6),
)
def test_never_twice(asked: list[tuple[int, str, int]], capacity: int) -> None:
    """Wherever the clock goes, and however full it is, no id is new twice before its `until`."""
    seen, used = SeenEvents(capacity), dict[str, int]()
    for second, name, left in asked:
        until = used.get(name, second + left)  # an id stands for one event, which has one time
        try:
            new = seen.first_time(name, now=after(second), until=after(until))
        except StoreUnavailable:
            continue
        assert not (new and name in used)
        if new:
            used[name] = until


class Yielding(str):
    """An id that lets another thread go on each time that it is looked for."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0.001)
        return super().__hash__()


def test_once_among_threads() -> None:
    """Of many threads that bring the same proof at once, one is let in."""
    seen, together = SeenEvents(), Barrier(THREADS)
    ids = [Yielding(number) for number in range(5)]

    def ask(_: int) -> list[bool]:
        together.wait()
        return [seen.first_time(each, now=NOW, until=after(60)) for each in ids]

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(ask, range(THREADS)))
    assert [sum(each) for each in zip(*answers, strict=True)] == [1] * len(ids)


@pytest.mark.parametrize("capacity", [0, -1, True, 1.0, "1", None, 10**9], ids=repr)
def test_the_capacity_is_a_number(capacity: Any) -> None:
    """A capacity is a whole number from 1; the error names it."""
    with pytest.raises(InvalidInput) as caught:
        SeenEvents(capacity)
    assert caught.value.argument == "capacity"

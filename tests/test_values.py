"""The nouns: what may enter, what a settlement comes to, and that nothing changes afterwards."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freetier import (
    Credit,
    Decision,
    Entry,
    Grant,
    GrantState,
    InvalidInput,
    Kind,
    Limit,
    PoolStatus,
    Request,
    Serve,
    Settlement,
    Snapshot,
)
from freetier.values import (
    MAX_SATS,
    check_id,
    check_note,
    check_sats,
    check_share,
    check_time,
    check_type,
    from_us,
    to_us,
    utc_day,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)

GOOD_IDS = {
    "one character": "a",
    "256 characters": "a" * 256,
    "public key": "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d",
    "punctuation": "job/1:retry#2 (by 'bob')",
    "digits": "0",
    "composed accent": "caf\u00e9",
    "other script": "\u30d5\u30ea\u30fc",
    "emoji": "\U0001f389",
}
BAD_IDS = {
    "empty": "",
    "257 characters": "a" * 257,
    "a megabyte": "a" * 1_000_000,
    "less than": "a<b",
    "greater than": "a>b",
    "ampersand": "a&b",
    "NUL": "a\0b",
    "newline": "a\nb",
    "trailing newline": "a\n",
    "tab": "a\tb",
    "escape": "a\x1b[31mb",
    "delete": "a\x7fb",
    "C1 control": "a\x85b",
    "leading space": " a",
    "trailing space": "a ",
    "only a space": " ",
    "no-break space": "a\u00a0b",
    "line separator": "a\u2028b",
    "lone surrogate": "a\ud800b",
    "zero-width space": "a\u200bb",
    "variation selector": "alice\ufe0f",
    "grapheme joiner": "ali\u034fce",
    "Hangul filler": "a\u1160b",
    "blank of Braille": "a\u2800b",
    "tag of another sort": "a\U000e0100b",
    "zero-width joiner": "a\u200db",
    "byte order mark": "\ufeffa",
    "right-to-left override": "a\u202eb",
    "soft hyphen": "a\u00adb",
    "full-width digit": "job-\uff11",
    "ligature": "\ufb01ne",
    "split accent": "cafe\u0301",
    "superscript": "x\u00b2",
    "private use": "a\ue000b",
    "unassigned": "a\U000e0fffb",
    "bytes": b"a",
    "int": 1,
    "None": None,
    "list": ["a"],
}
BAD_SATS = {
    "below 0": -1,
    "above all bitcoin": MAX_SATS + 1,
    "huge": 10**30,
    "bool": True,
    "float": 1.0,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "str": "1",
    "bytes": b"1",
    "Decimal": Decimal(1),
    "None": None,
}


class Sub(str):
    """Text of a subclass, whose methods could say anything."""

    __slots__ = ()


class Enough(int):
    """A number of a subclass."""


@pytest.mark.parametrize("text", GOOD_IDS.values(), ids=GOOD_IDS)
def test_an_id_is_1_to_256_printable_characters(text: str) -> None:
    """An id is 1 to 256 printable characters, of any script."""
    assert check_id("key", text) == text


@pytest.mark.parametrize("value", [*BAD_IDS.values(), Sub("a")], ids=[*BAD_IDS, "subclass"])
def test_anything_else_is_no_id(value: object) -> None:
    """What cannot be printed, stored or told apart by eye is no id; the error says which."""
    with pytest.raises(InvalidInput) as caught:
        check_id("key", value)
    assert caught.value.argument == "key"


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (check_id, "", "text of 1 to 256 characters"),
        (check_id, "k" * 257, "text of 1 to 256 characters"),
        (check_id, "a\nb", "printable characters without spaces at the ends"),
        (check_id, "a ", "printable characters without spaces at the ends"),
        (check_id, "a<b", "text without '<', '>' and '&'"),
        (check_id, "\uff11", "text in Unicode's normal form NFKC"),
        (check_id, "\u2800", "characters that can be seen"),
        (check_note, "a\nb", "printable characters without spaces at the ends"),
        (check_share, 10_001, "a whole number of basis points from 0 to 10000"),
        (check_sats, -1, f"a whole number of sats from 0 to {MAX_SATS}"),
        (check_time, 5, "an aware datetime from 1970 to 8999"),
    ],
)
def test_an_error_says_what_is_expected(
    check: Callable[[str, object], object], value: object, expected: str
) -> None:
    """Whatever is checked, the error names the argument and the value, and says what is right."""
    with pytest.raises(InvalidInput) as caught:
        check("it", value)
    error = caught.value
    assert (error.argument, error.value, error.expected) == ("it", value, expected)


@pytest.mark.parametrize(
    ("values", "argument", "value", "expected"),
    [
        ((5, 9), "at", 5, "an aware datetime from 1970 to 8999"),
        ((NOON, 5, 6), "reserved_sats", 6, "at most the balance"),
    ],
)
def test_a_snapshot_that_cannot_be(
    values: tuple[Any, ...], argument: str, value: object, expected: str
) -> None:
    """A snapshot has a time, and no more reserved than there is."""
    with pytest.raises(InvalidInput) as caught:
        Snapshot(*values)
    error = caught.value
    assert (error.argument, error.value, error.expected) == (argument, value, expected)


def test_time_has_a_first_and_a_last_moment() -> None:
    """Time begins with 1970 and ends with the year 8999, to the microsecond."""
    first, end = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
    last = end - timedelta(microseconds=1)
    assert (check_time("at", first), check_time("at", last)) == (first, last)
    for outside in (first - timedelta(microseconds=1), end):
        with pytest.raises(InvalidInput):
            check_time("at", outside)


@pytest.mark.parametrize("zone", ["UTC-14", "UTC+12"])
def test_a_day_is_of_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day is UTC's, wherever the host is, and in whatever zone the time is said."""
    try:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert utc_day(NOON.astimezone(timezone(timedelta(hours=14)))) == date(2026, 1, 5)
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=300))
def test_an_accepted_id_survives_every_door(text: str) -> None:
    """An id that is accepted is UTF-8, one line, without markup, and equal to its own NFKC form."""
    try:
        check_id("key", text)
    except InvalidInput:
        return
    assert 1 <= len(text) <= 256
    assert text.encode().decode() == text
    assert text.splitlines() == [text]
    assert not set(text) & set("<>&\0")


def test_a_note_may_be_empty() -> None:
    """A note is an id, or empty."""
    assert check_note("note", "") == ""
    with pytest.raises(InvalidInput):
        check_note("note", "\0")


@pytest.mark.parametrize("sats", [0, 1, MAX_SATS])
def test_sats_go_from_0_to_all_the_bitcoin(sats: int) -> None:
    """Sats are an int from 0 to all the bitcoin there can be, both included."""
    assert check_sats("sats", sats) == sats


@pytest.mark.parametrize("value", [*BAD_SATS.values(), Enough(1)], ids=[*BAD_SATS, "subclass"])
def test_anything_else_is_no_number_of_sats(value: object) -> None:
    """Only `int` itself counts sats: no bool, float, text or None, nothing out of bounds."""
    with pytest.raises(InvalidInput) as caught:
        check_sats("sats", value)
    assert caught.value.argument == "sats"


@pytest.mark.parametrize("value", [-1, 10_001, True, 1.0, "1", None])
def test_a_share_is_0_to_10000_basis_points(value: object) -> None:
    """A share is an int from 0 to 10,000."""
    assert [check_share("share", whole) for whole in (0, 10_000)] == [0, 10_000]
    with pytest.raises(InvalidInput):
        check_share("share", value)


@pytest.mark.parametrize(
    "value",
    [NOON.replace(tzinfo=None), NOON.date(), datetime(1969, 12, 31, tzinfo=UTC), 0, "now", None],
)
def test_a_time_is_aware_and_from_1970_on(value: object) -> None:
    """A time is an aware datetime from 1970 on."""
    assert check_time("at", NOON) == NOON
    with pytest.raises(InvalidInput):
        check_time("at", value)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_microseconds_and_back(at: datetime) -> None:
    """A time comes back from microseconds as it went in."""
    assert from_us(to_us(at)) == at


def test_the_day_is_the_utc_date() -> None:
    """The day is the UTC date, whatever the time's own zone says."""
    tokyo = timezone(timedelta(hours=9))
    assert utc_day(datetime(2026, 1, 6, 8, 59, tzinfo=tokyo)) == date(2026, 1, 5)


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"request_id": ""}, "request_id"),
        ({"identity": ""}, "identity"),
        ({"tier": "\n"}, "tier"),
        ({"tier": None}, "tier"),
        ({"price_sats": 1.0}, "price_sats"),
    ],
)
def test_a_request_checks_what_it_is_given(changed: dict[str, Any], argument: str) -> None:
    """A request that cannot be is never made; the error names the field."""
    good = Request("job", None, "new", 0)
    with pytest.raises(InvalidInput) as caught:
        attrs.evolve(good, **changed)
    assert caught.value.argument == argument


# Settling: rule 6.

prices = st.integers(1, 10_000)
actuals = st.integers(0, 30_000)


def decision(price: int, absorb: int) -> Decision:
    serve = Serve.GATE if absorb == 0 else Serve.FREE if absorb == price else Serve.PARTIAL
    return Decision(serve, price, absorb, price - absorb, None, {})


decisions = prices.flatmap(lambda price: st.builds(decision, st.just(price), st.integers(0, price)))


@given(decisions, actuals)
def test_the_pool_pays_first_and_never_more_than_it_promised(made: Decision, actual: int) -> None:
    """Absorbed is min(actual, absorb), and the rest of the promise goes back to the pool."""
    settled = made.settle(actual)
    assert settled.absorbed_sats == min(actual, made.absorb_sats)
    assert settled.returned_sats == made.absorb_sats - settled.absorbed_sats


@given(decisions, actuals)
def test_the_caller_owes_the_rest_at_most_the_charge(made: Decision, actual: int) -> None:
    """The caller owes actual - absorbed, at most the charge, and is refunded what is not owed."""
    settled = made.settle(actual)
    assert settled.charged_sats == min(actual - settled.absorbed_sats, made.charge_sats)
    assert settled.refund_sats == made.charge_sats - settled.charged_sats


@given(decisions, actuals)
def test_what_exceeds_the_price_is_nobodys_promise(made: Decision, actual: int) -> None:
    """Each sat of the cost is absorbed, charged or overrun; only above the price is overrun."""
    settled = made.settle(actual)
    parts = (settled.absorbed_sats, settled.charged_sats, settled.overrun_sats)
    assert sum(parts) == settled.actual_sats == actual
    assert min(parts) >= 0
    assert settled.overrun_sats == max(0, actual - made.price_sats)


@given(decisions)
def test_settling_at_the_price_changes_nothing(made: Decision) -> None:
    """At the price, and at an unknown cost, what was decided is what is paid."""
    settled = made.settle(made.price_sats)
    assert settled == made.settle() == made.settle(None)
    assert (settled.absorbed_sats, settled.charged_sats) == (made.absorb_sats, made.charge_sats)
    assert not any((settled.refund_sats, settled.returned_sats, settled.overrun_sats))


@pytest.mark.parametrize("value", [bad for bad in BAD_SATS.values() if bad is not None])
def test_a_cost_is_a_number_of_sats(value: Any) -> None:
    """A cost that is no number of sats is refused, and named."""
    with pytest.raises(InvalidInput) as caught:
        decision(10, 5).settle(value)
    assert caught.value.argument == "actual_sats"


# All nouns.

DECISION = Decision(Serve.PARTIAL, 10, 6, 4, Limit.BUDGET, {Limit.BUDGET: 6, "host": 9}, NOON)
ENTRY: dict[str, Any] = dict.fromkeys(attrs.fields_dict(Entry)) | {"seq": 1, "kind": Kind.SEED}
NOUNS = [
    Request("job", "ab", "new", 10),
    Snapshot(NOON, 100),
    DECISION,
    DECISION.settle(3),
    Grant("job", "ab", "new", DECISION, GrantState.OPEN, NOON),
    Credit("hash", 70, 7),
    Entry(**ENTRY),
    PoolStatus(NOON, 100, 0, 0, 0, 0, 0, {Kind.SEED: 100}, {"new": 0}),
    Settlement(1, 1, 0, 0, 0, 0),
]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: type(noun).__name__)
def test_a_noun_is_a_value(noun: Any) -> None:
    """A noun cannot be changed, equals its pickled copy, and hashes as it compares."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(noun, attrs.fields(type(noun))[0].name, None)
    copy = pickle.loads(pickle.dumps(noun))
    assert copy == noun
    assert hash(copy) == hash(noun)


def test_available_is_balance_less_reserved() -> None:
    """Available is balance less reserved, in a snapshot as in the pool's status."""
    assert Snapshot(NOON, 100, 30).available_sats == 70
    assert PoolStatus(NOON, 100, 30, 1, 0, 0, 0, {}).available_sats == 70


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((Decision, Grant), "a Decision or a Grant"),
        ((Entry,), "an Entry"),
        ((int,), "an int"),
        ((str, bytes), "a str or a bytes"),
    ],
)
def test_a_value_of_another_type(kinds: tuple[type, ...], expected: str) -> None:
    """What is of none of the types is refused by the argument's name, and what it is to be."""
    with pytest.raises(InvalidInput) as caught:
        check_type("answer", None, *kinds)
    assert str(caught.value) == f"answer: expected {expected}, got None"
    check_type("answer", None, type(None), *kinds)

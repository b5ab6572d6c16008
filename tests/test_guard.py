"""The guard in the schema: entries written by hand, on a plain connection, one rule broken each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freetier import FreeTier
from freetier.sqlite import SQLiteRepository

from .hand_written import (
    MINUTE_US,
    NOON_US,
    POLICY,
    TODAY,
    VALID,
    VERBS,
    Row,
    busy_ledger,
    dump,
    insert,
    proposal,
)

END_OF_TIME = 2**62
ALL = 2_100_000_000_000_000
DRAWS, ENDINGS = ["reserve", "grant"], ["settle", "release", "expire"]

Books = tuple[sqlite3.Connection, FreeTier]


@pytest.fixture(scope="module")
def template() -> Iterator[sqlite3.Connection]:
    connection, _ = busy_ledger()
    with closing(connection):
        yield connection


@pytest.fixture
def books() -> Iterator[Books]:
    connection, ledger = busy_ledger()
    with closing(connection):
        yield connection, ledger


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", VALID)
def test_a_right_entry_by_hand_is_as_good(books: Books, kind: str, verb: str) -> None:
    """The next entry, right in every figure, is taken from anyone, and the balances follow."""
    connection, ledger = books
    before = ledger.verify()
    assert insert(connection, proposal(connection, kind), verb)
    after = ledger.verify()
    assert after.ok
    assert after.entries == before.entries + 1
    moved = after.balance_sats - before.balance_sats
    assert moved == VALID[kind].get("balance_change", 0)


TOMORROW = {"at_us": NOON_US + 1440 * MINUTE_US, "day": TODAY + 1}
HELD_LONG = {"expires_at_us": NOON_US + 2880 * MINUTE_US}
OF_10: Row = {"identity": "ef", "price_sats": 10, "absorb_sats": 5, "refund_sats": 0}
OF_10 |= {"balance_change": -5, "used_change": -5}

REFUSED: list[tuple[str, str, Row]] = [
    *((kind, "a gap", {"seq": 16}) for kind in VALID),
    *((kind, "a seq that is there", {"seq": 1}) for kind in VALID),
    *((kind, "before the last entry", {"at_us": NOON_US - 1}) for kind in VALID),
    *((kind, "a balance that does not meet", {"balance_sats": 932}) for kind in VALID),
    *((kind, "reserved that does not meet", {"reserved_sats": 61}) for kind in VALID),
    *((kind, "a pool that is not there", {"pool": "other"}) for kind in VALID),
    *((kind, "no key", {"key": ""}) for kind in VALID),
    *((kind, "a long key", {"key": "k" * 257}) for kind in VALID),
    ("tip", "a kind that is not there", {"balance_change": 1}),
    # Draws: the request was asked before, or a limit is short.
    *(
        (kind, f"a request that was {key}", {"key": key})
        for kind in DRAWS
        for key in ("held", "late", "settled", "released", "granted", "gated")
    ),
    *((kind, "over the budget", {"budget_sats": 179}) for kind in DRAWS),
    *((kind, "over a first budget", {"budget_sats": 59, "identity": "gh"}) for kind in DRAWS),
    *((kind, "without a budget", {"budget_sats": None}) for kind in DRAWS),
    *((kind, "over the ceiling", {"tier_ceiling_sats": 256}) for kind in DRAWS),
    *((kind, "over a first ceiling", {"tier_ceiling_sats": 59, "tier": "elite"}) for kind in DRAWS),
    *((kind, "over the release", {"release_sats": 256}) for kind in DRAWS),
    ("reserve", "over a day's first release", {"release_sats": 59, **TOMORROW, **HELD_LONG}),
    ("grant", "over a day's first release", {"release_sats": 59, **TOMORROW}),
    *((kind, "over the share", {"pool_share_bp": 687}) for kind in DRAWS),
    *((kind, "below the floor", {"floor_sats": 814}) for kind in DRAWS),
    *((kind, "without a floor", {"floor_sats": None}) for kind in DRAWS),
    *((kind, "without an identity", {"identity": None}) for kind in DRAWS),
    *((kind, "without a tier", {"tier": None}) for kind in DRAWS),
    *((kind, "yesterday", {"day": TODAY - 1}) for kind in DRAWS),
    *((kind, "a sat too much of a price", {"charge_sats": 41}) for kind in DRAWS),
    *((kind, "charging below 0", {"charge_sats": -1, "price_sats": 59}) for kind in DRAWS),
    *((kind, "using less than it draws", {"used_change": 59}) for kind in DRAWS),
    ("reserve", "holding less than it says", {"reserved_change": 59}),
    ("reserve", "over at once", {"expires_at_us": NOON_US}),
    ("reserve", "held for ever", {"expires_at_us": None}),
    ("reserve", "nothing", {"absorb_sats": 0, "reserved_change": 0, "used_change": 0}),
    ("grant", "paying less than it says", {"balance_change": -59}),
    # Endings: in their grant's figures, on the right side of its expiry, once.
    *(
        (kind, f"another {column} than its grant's", {column: value})
        for kind in (*ENDINGS, "late")
        for column, value in (("identity", "cd"), ("tier", "elite"), ("day", TODAY - 1))
    ),
    *((kind, "another price than its grant's", {"price_sats": 99}) for kind in (*ENDINGS, "late")),
    *((kind, "freeing more than was held", {"reserved_change": -61}) for kind in ENDINGS),
    *((kind, "freeing less than was held", {"reserved_change": -59}) for kind in ENDINGS),
    *(
        (kind, f"of what is {key}", {"key": key})
        for kind in ENDINGS
        for key in ("late", "settled", "released", "granted", "gated", "unheard of")
    ),
    *((kind, "after it expired", {"at_us": NOON_US + 15 * MINUTE_US}) for kind in ENDINGS[:2]),
    ("expire", "a microsecond early", {"at_us": NOON_US + 15 * MINUTE_US - 1}),
    ("expire", "giving the allowance back", {"used_change": -60}),
    ("release", "keeping the allowance", {"used_change": 0}),
    ("settle", "above the grant", {"absorb_sats": 61, "balance_change": -61, "used_change": 1}),
    ("settle", "a refund that leaves a sat", {"refund_sats": 39}),
    ("settle", "a refund above the charge", {"refund_sats": 41, "charge_sats": -1}),
    ("settle", "without a refund", {"refund_sats": None}),
    *(
        ("late", f"of what is {key}", {"key": key})
        for key in ("held", "covered", "settled", "released", "granted", "gated", "unheard of")
    ),
    ("late", "of its like, settled", OF_10 | {"key": "settled"}),
    ("late", "of its like, released", OF_10 | {"key": "released"}),
    ("late", "above the grant", {"absorb_sats": 61, "balance_change": -61, "used_change": 1}),
    ("late", "uncovered above the grant", {"uncovered_sats": 11}),
    ("late", "below the floor", {"floor_sats": 824}),
    ("late", "a refund that leaves a sat", {"refund_sats": 39}),
    # Deposits: once, exact, and within what there is.
    ("seed", "a second one", {"key": "seed", "balance_change": 1}),
    ("seed", "a second one by another key", {"balance_change": 1}),
    ("credit", "a payment that was credited", {"key": "paid"}),
    ("credit", "a sat more", {"balance_change": 9}),
    ("credit", "a sat less", {"balance_change": 7}),
    ("credit", "a carry that appears", {"credit_carry": 1}),
    ("credit", "a carry of a whole sat", {"balance_change": 7, "credit_carry": 10_000}),
    ("credit", "another share", {"credit_share_bp": 1001}),
    ("credit", "above the whole", {"credit_share_bp": 10_001}),
    ("credit", "of nothing", {"paid_sats": 0, "balance_change": 0, "credit_carry": 5000}),
    ("donation", "a gift that was given", {"key": "gift"}),
    ("donation", "of nothing", {"balance_change": 0}),
    ("donation", "of less", {"balance_change": -1}),
    ("donation", "of all there is", {"balance_change": ALL}),
    ("donation", "that uses an allowance", {"used_change": -60, "identity": "ab", "day": TODAY}),
    ("adjustment", "of nothing", {"balance_change": 0}),
    ("adjustment", "into what is reserved", {"balance_change": -874}),
    ("adjustment", "of what is reserved", {"reserved_change": -60}),
    # Figures that a kind does not have, or that nobody could read.
    *((kind, "with a carry", {"credit_carry": 9999}) for kind in VALID if kind != "credit"),
    *((kind, "absorbing all the same", {"absorb_sats": 61}) for kind in ("release", "expire")),
    *((kind, "charging all the same", {"charge_sats": 99}) for kind in ("release", "expire")),
    *((kind, "uncovered in time", {"uncovered_sats": 61}) for kind in ENDINGS),
    ("settle", "charged before the pool paid", {"charge_sats": 5, "refund_sats": 35}),
    ("settle", "an overrun below the price", {"overrun_sats": 5}),
    ("late", "an overrun below the price", {"overrun_sats": 5}),
    ("donation", "at the end of time", {"at_us": END_OF_TIME}),
    ("donation", "on a day without end", {"day": END_OF_TIME}),
    ("reserve", "held without end", {"expires_at_us": END_OF_TIME}),
    ("reserve", "reset at the end of time", {"resets_at_us": END_OF_TIME}),
    ("reserve", "rooms that are no JSON", {"rooms": "many"}),
    ("reserve", "rooms that are a list", {"rooms": "[1]"}),
    *(("donation", f"with {of}", {of: 5}) for of in ("price_sats", "pool_share_bp", "floor_sats")),
    *(("donation", f"with {of}", {of: NOON_US}) for of in ("resets_at_us", "expires_at_us")),
    ("reserve", "an identity with a NUL", {"identity": "a\0b"}),
    ("reserve", "a long tier", {"tier": "t" * 257}),
    ("reserve", "a price above all there is", {"price_sats": ALL + 1, "charge_sats": ALL - 59}),
    ("reserve", "a floor below 0", {"floor_sats": -1}),
    ("reserve", "above the whole", {"pool_share_bp": 10_001}),
    ("settle", "an overrun below 0", {"overrun_sats": -1}),
    ("settle", "below 0", {"absorb_sats": -5, "balance_change": 5, "used_change": -65}),
    ("settle", "keeping the allowance", {"used_change": 0}),
    ("late", "uncovered below 0", {"uncovered_sats": -1}),
    ("credit", "that holds", {"reserved_change": 1}),
    ("reserve", "a key with a NUL", {"key": "a\0b"}),
]


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_entry_is_refused(books: Books, verb: str) -> None:
    """An entry with one figure wrong gives no row or an error, and leaves nothing behind."""
    connection, _ = books
    before = dump(connection)
    taken = [
        f"{kind}, {wrong}"
        for kind, wrong, changes in REFUSED
        if insert(connection, proposal(connection, kind, changes), verb)
    ]
    assert taken == []
    assert dump(connection) == before


ABOVE_THE_PRICE = {"charge_sats": 40, "refund_sats": 0, "overrun_sats": 5}
AT_THE_LIMIT: list[tuple[str, Row]] = [
    ("reserve", {"budget_sats": 180}),
    ("reserve", {"budget_sats": 60, "identity": "gh"}),
    ("reserve", {"tier_ceiling_sats": 257}),
    ("reserve", {"release_sats": 257}),
    ("reserve", {"tier_ceiling_sats": 60, "tier": "elite"}),
    ("reserve", {"release_sats": 60, **TOMORROW, **HELD_LONG}),
    ("reserve", {"pool_share_bp": 688}),
    ("reserve", {"floor_sats": 813}),
    ("reserve", {"expires_at_us": NOON_US + 1}),
    ("release", {"at_us": NOON_US + 15 * MINUTE_US - 1}),
    ("settle", {"absorb_sats": 60, "balance_change": -60, "used_change": 0}),
    ("settle", {"absorb_sats": 60, "balance_change": -60, "used_change": 0, **ABOVE_THE_PRICE}),
    ("late", {"floor_sats": 823}),
    ("late", {"uncovered_sats": 10}),
    ("adjustment", {"balance_change": -873}),
    ("donation", {"balance_change": ALL - 933}),
]


@pytest.mark.parametrize(("kind", "changes"), AT_THE_LIMIT)
def test_a_limit_is_exact(books: Books, kind: str, changes: Row) -> None:
    """To the sat and to the microsecond, what just fits is taken."""
    connection, ledger = books
    assert insert(connection, proposal(connection, kind, changes))
    assert ledger.verify().ok


WORDS = ["", "{}", "[]", "ab", "cd", "trusted", "new", "held", "late", "paid", "seed", "reserve"]
NUMBERS = [9999, NOON_US, TODAY, END_OF_TIME, -END_OF_TIME, ALL]
FIGURES = st.none() | st.integers(-70, 70) | st.sampled_from(NUMBERS) | st.sampled_from(WORDS)


@settings(max_examples=300)
@given(st.sampled_from(list(VALID)), st.sampled_from(VERBS), st.data())
def test_whatever_is_taken_adds_up(
    template: sqlite3.Connection, kind: str, verb: str, data: st.DataObject
) -> None:
    """A right entry with figures changed is refused without a trace, or taken and provable."""
    columns = [row[1] for row in template.execute("PRAGMA table_info(freetier_journal)")]
    changes = data.draw(st.dictionaries(st.sampled_from(columns), FIGURES, max_size=3))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        template.backup(copy)
        if insert(copy, proposal(copy, kind, changes), verb):
            assert FreeTier(POLICY, SQLiteRepository(copy)).verify().ok
        else:
            assert dump(copy) == dump(template)


MEETS = "pool, seq, kind, key, at_us, reserved_change, used_change, balance_sats, reserved_sats"
AGAIN = (
    f"freetier_journal ({MEETS}, balance_change)"
    f" SELECT {MEETS}, 6 FROM freetier_journal WHERE seq = 3"
)
TAMPERING = [
    "UPDATE freetier_journal SET note = 'x' WHERE seq = 3",
    "UPDATE OR REPLACE freetier_journal SET seq = 1 WHERE seq = 3",
    "UPDATE OR IGNORE freetier_journal SET balance_change = 6 WHERE seq = 3",
    "DELETE FROM freetier_journal WHERE seq = 14",
    "DELETE FROM freetier_journal",
    f"REPLACE INTO {AGAIN}",
    f"INSERT INTO {AGAIN} ON CONFLICT DO UPDATE SET balance_change = 6",
    "UPDATE freetier_pool SET balance_sats = 5000, donation_sats = 4072",
    "UPDATE freetier_pool SET seq = seq + 1",
    "UPDATE OR REPLACE freetier_pool SET credit_carry = 0",
    "UPDATE freetier_pool SET pool = 'other'",
    "DELETE FROM freetier_pool",
    "INSERT INTO freetier_pool (pool) VALUES ('main')",
]


@pytest.mark.parametrize("recursive", ["OFF", "ON"])
@pytest.mark.parametrize("statement", TAMPERING)
def test_what_is_written_stays(books: Books, statement: str, recursive: str) -> None:
    """An entry is not changed, removed or replaced, and the pool's row only follows the journal."""
    connection, _ = books
    before = dump(connection)
    connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    with suppress(sqlite3.IntegrityError):
        connection.execute(statement)
    assert dump(connection) == before


@pytest.mark.parametrize(
    "statement",
    [
        "REPLACE INTO freetier_pool (pool) VALUES ('main')",
        "INSERT INTO freetier_pool (pool, balance_sats, donation_sats) VALUES ('x', 5, 5)",
    ],
)
def test_a_pool_begins_empty_and_once(books: Books, statement: str) -> None:
    """A pool's row is not replaced, and a new pool has nothing that no journal says."""
    connection, _ = books
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)

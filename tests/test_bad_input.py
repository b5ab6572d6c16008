"""Bad input: every argument of every public function refuses it by name; nothing is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import (
    ConfigError,
    FreeTier,
    FreeTierPolicy,
    InvalidInput,
    Request,
    Snapshot,
)
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.sqlite import AsyncSQLiteRepository
from freetier.testing import Clock
from freetier.values import MAX_SATS

from .bad_values import ARGUMENTS, BAD, MADE, REQUEST, Argument
from .drivers import Driver, opened
from .figures import Count

CASES = [
    pytest.param(argument, id=f"{function}-{argument.name}")
    for function, arguments in (ARGUMENTS | MADE).items()
    for argument in arguments
]
DOORS: dict[str, Driver] = {
    "sqlite-async": AsyncSQLiteRepository,
    "psycopg": PostgresRepository,
    "psycopg-async": AsyncPostgresRepository,
    "asyncpg": AsyncpgRepository,
}


def dump(path: Path) -> list[str]:
    """Every row of every table, and the schema."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@pytest.fixture
def used(ledger: FreeTier) -> FreeTier:
    """A ledger with a row in every table: an entry of most kinds, a hold, a gate."""
    ledger.reserve(Request("held", "ab", "trusted", 120))
    ledger.reserve(Request("gated", "ab", "new", 120))
    ledger.credit("paid", 75)
    return ledger


def test_there_are_enough_bad_values() -> None:
    """At least 40 bad values meet every argument."""
    assert len(BAD) >= 40


def test_every_method_is_met() -> None:
    """No method of a ledger that takes an argument is left out."""
    methods = {name for name in vars(FreeTier) if not name.startswith("_")} - {"policy"}
    taking = {name for name in methods if len(signature(getattr(FreeTier, name)).parameters) > 1}
    assert taking == ARGUMENTS.keys()


@pytest.mark.parametrize("argument", CASES)
def test_bad_input_is_refused_by_name(
    argument: Argument, used: FreeTier, tmp_path: Path, count_of: Count
) -> None:
    """A bad value is `InvalidInput` that names the argument, whatever it is; 0 rows are written."""
    before = dump(tmp_path / "ledger.db")
    for name, value in BAD.items():
        if name in argument.takes:
            continue
        with pytest.raises(InvalidInput) as caught:
            argument.give(used, value)
        assert caught.value.argument == argument.name, name
        assert len(str(caught.value)) < 300, name
        count_of("bad values refused", 1)
    assert dump(tmp_path / "ledger.db") == before


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_alike(
    door: str, tmp_path: Path, request: pytest.FixtureRequest, count_of: Count
) -> None:
    """Async or on another database, each method refuses the same values; no entry is written."""
    sqlite = door == "sqlite-async"
    url = str(tmp_path / "ledger.db") if sqlite else request.getfixturevalue("postgres_dsn")
    with opened(DOORS[door], url, policy=FreeTierPolicy()) as ledger:
        ledger.reserve(Request("held", "ab", "trusted", 120))
        before = ledger.verify()
        for arguments in ARGUMENTS.values():
            for argument in (each for each in arguments if not each.of_request):
                for name in BAD.keys() - argument.takes:
                    with pytest.raises(InvalidInput) as caught:
                        argument.give(ledger, BAD[name])
                    assert caught.value.argument == argument.name, name
                    count_of("bad values refused", 1)
        assert ledger.verify() == before
        assert ledger.pool_status().gated_today == 0


@pytest.mark.parametrize(
    ("argument", "give"),
    [
        ("tier", lambda ledger: ledger.decide(Request("new", "ab", "gold", 0))),
        ("tier", lambda ledger: ledger.reserve(Request("new", None, "gold", 10))),
        ("tier", lambda ledger: ledger.record_grant(Request("new", "ab", "gold", 10))),
        ("paid_sats", lambda ledger: ledger.credit("new", 0)),
        ("sats", lambda ledger: ledger.donate("new", 0)),
        ("sats", lambda ledger: ledger.adjust("new", 0, note="why")),
        ("sats", lambda ledger: ledger.adjust("new", -9_888, note="why")),
        ("sats", lambda ledger: ledger.adjust("new", MAX_SATS, note="why")),
        ("sats", lambda ledger: ledger.donate("new", MAX_SATS)),
    ],
)
def test_what_is_bad_here_and_now(
    argument: str, give: Callable[[FreeTier], object], used: FreeTier, tmp_path: Path
) -> None:
    """What this policy or this pool cannot take is refused by name too; 0 rows are written."""
    before = dump(tmp_path / "ledger.db")
    with pytest.raises(InvalidInput) as caught:
        give(used)
    assert caught.value.argument == argument
    assert dump(tmp_path / "ledger.db") == before


def test_a_seq_beyond_64_bits_is_bad_input(ledger: FreeTier) -> None:
    """A seq that no database can hold is refused by name."""
    for after in (2**63, 10**30):
        with pytest.raises(InvalidInput):
            next(ledger.journal(after), None)


def test_a_clock_at_the_end_of_time_is_bad_input(ledger: FreeTier, clock: Clock) -> None:
    """A clock so late that no grant could expire is refused, not an OverflowError."""
    clock.now = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    with pytest.raises(InvalidInput):
        ledger.reserve(REQUEST)


@pytest.mark.parametrize("field", ["balance_sats", "reserved_sats", "identity_used_sats"])
@pytest.mark.parametrize("bad", [-1, 1.5, True, "1", None, 2**63])
def test_a_snapshot_is_whole_sats(field: str, bad: Any) -> None:
    """A snapshot of anything but whole sats is refused: no float gets into a decision."""
    with pytest.raises(InvalidInput) as caught:
        Snapshot(**{"at": datetime(2026, 1, 5, tzinfo=UTC), "balance_sats": 5, field: bad})
    assert caught.value.argument == field


def test_an_error_survives_its_value(ledger: FreeTier) -> None:
    """The message of an error does not fail on the value that it is about."""
    for value in (10**5000, object.__new__(Unshown)):
        with pytest.raises(InvalidInput) as caught:
            ledger.credit("invoice", value)  # type: ignore[arg-type]
        assert "paid_sats" in str(caught.value)


class Unshown:
    def __repr__(self) -> str:
        raise RuntimeError


class TestOpen:
    """`freetier.open` refuses what cannot be opened, and leaves no file behind."""

    @pytest.mark.parametrize("url", ["sqlite:///ledger.db?mode=ro", "sqlite:///ledger.db#x"])
    def test_a_url_with_parameters(self, url: str) -> None:
        """Parameters, which would end up in a file's name, are refused."""
        with pytest.raises(InvalidInput) as caught:
            freetier.open(url, policy=FreeTierPolicy())
        assert caught.value.argument == "url"

    @pytest.mark.parametrize("url", ["", "sqlite:///", "a\0b", ":memory:", "sqlite:///:memory:"])
    def test_a_url_that_names_no_file(self, url: str) -> None:
        """Text that cannot be a file is refused as the `url` that it is."""
        with pytest.raises(InvalidInput) as caught:
            freetier.open(url, policy=FreeTierPolicy())
        assert caught.value.argument == "url"

    def test_a_url_that_is_no_text(self) -> None:
        """A path that cannot be encoded is refused by name."""
        with pytest.raises(InvalidInput):
            freetier.open("key\ud800", policy=FreeTierPolicy())

    @pytest.mark.parametrize("url", ["mysql://host/db", "http://host", "file:///ledger.db"])
    def test_a_url_without_an_adapter(self, url: str) -> None:
        """A scheme that nobody serves is a ConfigError that names it."""
        with pytest.raises(ConfigError, match=url.partition(":")[0]):
            freetier.open(url, policy=FreeTierPolicy())

    @pytest.mark.parametrize("argument", ["policy", "clock", "on_unavailable"])
    def test_checked_before_anything_is_made(self, argument: str, tmp_path: Path) -> None:
        """A bad argument is refused before the file is there."""
        bad: dict[str, Any] = {"policy": FreeTierPolicy()} | {argument: 5}
        with pytest.raises(InvalidInput) as caught:
            freetier.open(tmp_path / "new.db", **bad)
        assert caught.value.argument == argument
        assert list(tmp_path.iterdir()) == []

    def test_a_clock_without_a_zone_writes_no_seed(self, tmp_path: Path) -> None:
        """A clock that gives naive times is refused before the seed."""
        with pytest.raises(InvalidInput) as caught:
            freetier.open(
                tmp_path / "new.db", policy=FreeTierPolicy(), clock=lambda: BAD["naive datetime"]
            )
        assert caught.value.argument == "clock()"
        assert not any("INTO freetier_journal" in line for line in dump(tmp_path / "new.db"))

"""What `import freetier` brings in, and what it leaves for when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import freetier

# What a service that only decides must not wait for, or have installed.
HEAVY = {"asyncio", "sqlite3", "psycopg", "psycopg_pool", "asyncpg", "sqlalchemy", "aiosqlite"}


def loaded(code: str) -> set[str]:
    """The modules that a new interpreter has after `code`."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(printed.stdout.split())


def test_it_brings_in_neither_a_driver_nor_an_event_loop() -> None:
    """`import freetier` loads no asyncio, no sqlite3, no driver."""
    assert not HEAVY & loaded("import freetier")


def test_to_decide_loads_no_ledger() -> None:
    """Who only decides with a policy does not load what keeps or proves a ledger."""
    modules = loaded(
        "from freetier import FreeTierPolicy, Request, Snapshot\n"
        "from datetime import UTC, datetime\n"
        "request = Request('job', 'ada', 'trusted', 100)\n"
        "FreeTierPolicy().decide(request, Snapshot(datetime.now(UTC), 1))"
    )
    assert not {"freetier.service", "freetier.repository", "freetier.audit"} & modules


def test_each_public_name_is_had_first_thing() -> None:
    """A public name that is loaded when asked for may be the first that is."""
    for name, module in freetier._WHEN_ASKED.items():
        assert f"freetier.{module}" in loaded(f"from freetier import {name}")
    assert {name for name in freetier.__all__ if not hasattr(freetier, name)} == set()


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    """A misspelled name is an error, for type checkers as well; `dir` lists every public name."""
    with pytest.raises(AttributeError, match="has no attribute 'Pool'"):
        freetier.Pool  # type: ignore[attr-defined]  # noqa: B018
    assert {*freetier.__all__} <= {*dir(freetier)}

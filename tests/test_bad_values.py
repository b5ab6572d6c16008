"""Bad values at what needs no ledger: every public function refuses them by the argument's name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from itertools import product
from types import ModuleType
from typing import Any

import pytest

import freetier
from freetier import (
    InvalidInput,
    asyncpg,
    checkpoint,
    http,
    invoices,
    jobs,
    memory,
    migrations,
    nostr,
    postgres,
    pricing,
    sealing,
    sessions,
    sqlalchemy,
    sqlite,
    starlette,
    tables,
)

from .bad_calls import DSN, FUNCTIONS
from .bad_events import JOBS, SESSIONS, SITUATIONS
from .bad_values import BAD
from .figures import Count
from .taken_values import CALLED, EXCEPTIONS, TAKES

EVENTS = JOBS | SESSIONS
CASES = [(function, argument) for function, (_, good) in FUNCTIONS.items() for argument in good]
PUBLIC = (
    freetier, asyncpg, http, invoices, jobs, memory, migrations, nostr, postgres, pricing,
    sessions, sqlalchemy, sqlite, starlette, tables,
)  # fmt: skip
ALSO: dict[str, object] = {
    "sealing.parse_head": sealing.parse_head,
    "checkpoint.parse_checkpoint": checkpoint.parse_checkpoint,
}


@pytest.mark.parametrize(("function", "argument"), CASES)
def test_a_bad_value_is_refused_by_name(
    function: str, argument: str, request: pytest.FixtureRequest, count_of: Count
) -> None:
    """A bad value is `InvalidInput` that names the argument; a good one is taken."""
    call, good = FUNCTIONS[function]
    if good.get("database") is DSN:
        good = good | {"database": request.getfixturevalue("postgres_dsn")}
    call(**good)
    named = CALLED.get((function, argument), argument)
    for name in BAD.keys() - TAKES.get((function, argument), set()):
        with pytest.raises(InvalidInput) as caught:
            call(**good | {argument: BAD[name]})
        assert caught.value.argument == named, name
        count_of("bad values refused", 1)


@pytest.mark.parametrize("event", [name for name in EVENTS if not name.endswith(".create")])
def test_whatever_the_state(event: str) -> None:
    """A bad value is refused by name also where the event repeats another, or does not fit."""
    call, good = EVENTS[event]
    records = {name: type(value) for name, value in good.items() if type(value) in SITUATIONS}
    assert records
    for situations in product(*(SITUATIONS[kind] for kind in records.values())):
        there = good | dict(zip(records, situations, strict=True))
        for argument in good.keys() - records.keys():
            with pytest.raises(InvalidInput) as caught:
                call(**there | {argument: None})
            assert caught.value.argument == argument


def test_the_table_is_whole() -> None:
    """Each public function and class that takes arguments is met, or said not to be; so is each."""
    public = dict(taking())
    names: dict[int, set[str]] = {}
    for name, value in public.items():
        names.setdefault(id(value), set()).add(name)
    listed = FUNCTIONS.keys() | EXCEPTIONS.keys()
    assert [sorted(called) for called in names.values() if not called & listed] == []
    assert {name for name in EXCEPTIONS if name not in public} == set()
    assert FUNCTIONS.keys() & EXCEPTIONS.keys() == set()
    for name in FUNCTIONS.keys() & public.keys():
        assert FUNCTIONS[name][1].keys() == inspect.signature(public[name]).parameters.keys(), name


def taking() -> Iterator[tuple[str, Any]]:
    """What is public and takes arguments, but for enumerations, errors and protocols."""
    yield from ALSO.items()
    for module in PUBLIC:
        short = module.__name__.removeprefix("freetier").removeprefix(".")
        for name in public_names(module):
            value = getattr(module, name)
            if not callable(value) or (
                inspect.isclass(value)
                and (issubclass(value, Enum | freetier.FreeTierError) or is_protocol(value))
            ):
                continue
            if inspect.signature(value).parameters:
                yield (f"{short}.{name}" if short else name), value


def public_names(module: ModuleType) -> list[str]:
    """Those of `__all__`, or those that the module defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = [name for name, value in vars(module).items() if is_of(value, module)]
    return [name for name in own if not name.startswith("_")]


def is_of(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def is_protocol(value: type) -> bool:
    return bool(vars(value).get("_is_protocol"))

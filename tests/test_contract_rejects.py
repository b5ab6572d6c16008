"""The contract itself is tested: a store that breaks a promise does not pass it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping

import pytest

from freetier.errors import FreeTierError
from freetier.memory import MemoryRepository
from freetier.repository import Repository
from freetier.testing import RepositoryContract

from .broken_stores import BROKEN


def broken_promises(make: Callable[[], Repository]) -> list[str]:
    """The names of the contract's tests that fail on what `make` gives."""
    broken = []
    for name, promise in inspect.getmembers(RepositoryContract, inspect.isfunction):
        if name.startswith("test_"):
            for arguments in _parameters(promise):
                try:
                    promise(RepositoryContract(), repository=make(), **arguments)
                except (AssertionError, FreeTierError, KeyError):
                    broken.append(name)
    return broken


def _parameters(promise: Callable[..., None]) -> Iterator[Mapping[str, object]]:
    """The arguments that `pytest.mark.parametrize` gives this test, besides the store."""
    marks = [mark for mark in getattr(promise, "pytestmark", []) if mark.name == "parametrize"]
    if not marks:
        yield {}
    for mark in marks:
        name, values = mark.args
        yield from ({name: value} for value in values)


def test_a_right_store_breaks_no_promise() -> None:
    """The check below can pass: the model breaks nothing."""
    assert broken_promises(MemoryRepository) == []


@pytest.mark.parametrize("store", BROKEN, ids=lambda store: store.__name__)
def test_a_broken_store_is_rejected(store: Callable[[], Repository]) -> None:
    """A store that breaks one promise fails at least one test of the contract."""
    assert broken_promises(store) != []


def test_there_are_many_ways_to_be_broken() -> None:
    """At least thirteen kinds of broken store are tried."""
    assert len(BROKEN) >= 13

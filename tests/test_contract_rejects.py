"""The contract itself is tested: a store that breaks a promise does not pass it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import pytest

from freetier._async_memory import AsyncMemoryRepository
from freetier.errors import FreeTierError
from freetier.memory import MemoryRepository
from freetier.repository import AsyncRepository, Repository
from freetier.testing import AsyncRepositoryContract, RepositoryContract
from freetier.testing.async_contract import blocking

from .broken_stores import BROKEN, BROKEN_ASYNC, InThreads, opening
from .figures import Count

Opened = AbstractContextManager[Repository]


def broken_promises(contract: RepositoryContract, open_store: Callable[[], Opened]) -> list[str]:
    """The names of the contract's tests that fail on an empty store."""
    broken = []
    for name, promise in inspect.getmembers(contract, inspect.ismethod):
        if name.startswith("test_"):
            for arguments in _parameters(promise):
                with open_store() as repository:
                    try:
                        promise(repository=repository, **arguments)
                    except (AssertionError, FreeTierError, KeyError, ExceptionGroup):
                        broken.append(name)
    return broken


def broken_blocking(make: Callable[[], Repository]) -> list[str]:
    return broken_promises(RepositoryContract(), lambda: nullcontext(make()))


def broken_async(make: Callable[[], AsyncRepository]) -> list[str]:
    return broken_promises(AsyncRepositoryContract(), lambda: blocking(opening(make())))


def _parameters(promise: Callable[..., None]) -> Iterator[Mapping[str, object]]:
    """The arguments that `pytest.mark.parametrize` gives this test, besides the store."""
    marks = [mark for mark in getattr(promise, "pytestmark", []) if mark.name == "parametrize"]
    if not marks:
        yield {}
    for mark in marks:
        name, values = mark.args
        yield from ({name: value} for value in values)


def test_a_right_store_breaks_no_promise() -> None:
    """The checks below can pass: the model breaks nothing, blocking or async."""
    assert broken_blocking(MemoryRepository) == []
    assert broken_async(AsyncMemoryRepository) == []
    assert broken_async(lambda: InThreads(MemoryRepository())) == []


@pytest.mark.parametrize("store", BROKEN, ids=lambda store: store.__name__)
def test_a_broken_store_is_rejected(store: Callable[[], MemoryRepository], count_of: Count) -> None:
    """A store that breaks one promise fails the contract; made async, it fails the same tests."""
    broken = broken_blocking(store)
    assert broken != []
    assert broken_async(lambda: InThreads(store())) == broken
    count_of("broken stores caught by the contract", 1)


@pytest.mark.parametrize("store", BROKEN_ASYNC, ids=lambda store: store.__name__)
def test_a_broken_async_store_is_rejected(store: Callable[[], AsyncRepository]) -> None:
    """A store that breaks a promise as only async code can fails a test of the contract."""
    assert broken_async(store) != []


def test_there_are_many_ways_to_be_broken() -> None:
    """At least thirteen kinds of broken store are tried, and three that only async has."""
    assert len(BROKEN) >= 13
    assert len(BROKEN_ASYNC) >= 3

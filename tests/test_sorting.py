"""Sorting what memory should not hold: the same rows come back, in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from, text, tuples

from freetier import _sorting
from freetier._sorting import Sorter

ROWS = lists(tuples(text(), integers()), max_size=50)


@given(ROWS, sampled_from([1, 2, 7, 1000]))
def test_rows_come_back_in_order(rows: list[tuple[str, int]], part: int) -> None:
    """Whatever the parts are, each row comes back, and as often as one asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sorting, "PART", part)
        with Sorter[tuple[str, int]](lambda row: row) as sorter:
            for row in rows:
                sorter.add(row)
            assert list(sorter) == sorted(rows)
            assert list(sorter) == sorted(rows)


def test_the_order_is_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are compared by their key alone; those of one key come in the order they were taken."""
    monkeypatch.setattr(_sorting, "PART", 2)
    rows = [(number % 3, object) for number in range(9)]
    with Sorter[tuple[int, type]](lambda row: row[0]) as sorter:
        for row in rows:
            sorter.add(row)
        assert [number for number, _ in sorter] == [0, 0, 0, 1, 1, 1, 2, 2, 2]

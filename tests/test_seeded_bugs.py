"""The list of deliberate defects fits the code: each can still be put in, and only once."""

from __future__ import annotations

import pytest

from .seeded_bugs import DEFECTS, ROOT, Defect


def test_there_are_many_defects() -> None:
    """There are at least 15, and no two alike."""
    assert len({(defect.file, defect.wrong) for defect in DEFECTS}) == len(DEFECTS) >= 15


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.what)
def test_a_defect_can_be_put_in(defect: Defect) -> None:
    """What it replaces is there once, and the tests that find it are there."""
    assert (ROOT / defect.path).read_text("utf-8").count(defect.right) == 1
    assert defect.wrong != defect.right
    assert [name for name in defect.tests.split() if not (ROOT / "tests" / name).is_file()] == []

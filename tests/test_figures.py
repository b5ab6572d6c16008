"""The figures that a run is to reach are what its tests counted, no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import figures


def test_a_run_notes_once_what_its_workers_counted(tmp_path: Path) -> None:
    """What the workers of a run counted is noted as it is printed: once."""
    notes = tmp_path / "figures"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n2", "tests/test_bad_input.py", "-k", "settle and refused"],
        env={**os.environ, "FREETIER_TEST_FIGURES": str(notes)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    (noted,) = map(json.loads, notes.read_text().splitlines())
    assert noted["bad values refused"] > 0
    assert f"{noted['bad values refused']:,}  bad values refused" in run.stdout


@pytest.mark.parametrize("short", figures.TO_REACH)
def test_what_is_short_by_one_fails(
    short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs add up, and a figure that is short by one of what it is to reach is named, and fails."""
    notes = tmp_path / "figures"
    half = {name: least - least // 2 for name, least in figures.TO_REACH.items()}
    rest = {name: least // 2 for name, least in figures.TO_REACH.items()}
    notes.write_text(f"{json.dumps(half)}\n{json.dumps(rest)}\n")
    assert figures.main(str(notes)) == 0
    rest[short] -= 1
    notes.write_text(f"{json.dumps(half)}\n{json.dumps(rest)}\n")
    assert figures.main(str(notes)) == 1
    assert f"not reached: {short}\n" in capsys.readouterr().out

"""The figures that a run is to reach are what its tests counted, no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import figures

ROOT = Path(__file__).parent.parent


def test_a_run_notes_once_what_its_workers_counted(tmp_path: Path) -> None:
    """What the workers of a run counted is noted as it is printed: once."""
    notes = tmp_path / "figures"
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import count_of, pytest_terminal_summary\n"
    )
    (tmp_path / "test_power.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('cuts', [70, 700])\n"
        "def test_cuts(cuts, count_of):\n"
        "    count_of('power cuts', cuts)\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n1", tmp_path],
        env={**os.environ, "FREETIER_TEST_FIGURES": str(notes), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line) for line in notes.read_text().splitlines()] == [{"power cuts": 770}]
    assert "770  power cuts (to reach: 280)" in run.stdout


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

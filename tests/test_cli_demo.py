"""`freetier demo`: one screen, the same every time, and true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from freetier import FreeTier, Report, cli
from freetier.audit import Problem
from tests.command import added_up

if sys.platform != "win32":
    import pty

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
DEMO = "import sys; from freetier.cli import main; sys.exit(main(['demo']))"


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def on_terminal(script: str) -> str:
    """What a script shows on a terminal that has colours."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=its,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:
        os.close(its)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            pass  # how Linux says that the other end is closed
        os.close(ours)
        assert process.wait(20) == 0
    return shown.decode().replace("\r\n", "\n")


def test_one_screen(told: str) -> None:
    """The demo fits a screen of 40 lines of 100 characters, and ends verified."""
    lines = told.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith("The books: verified: all 10 invariants hold")


def test_same_every_time(
    told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment has no say: not the settings, good or bad, nor the folder, which stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREETIER_POOL_SEED_SATS", "5")
    monkeypatch.setenv("FREETIER_NONSENSE", "x")
    monkeypatch.setenv("FREETIER_DB", "mine.db")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert cli.main(["demo"]) == 0
    assert capsys.readouterr().out == told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        r"somebody unknown asks +40 +0 +40 +gate .* anonymous",
        r"nora \(new\) asks +25 +0 +25 +gate .* budget",
        r"emil \(established\) asks +30 +30 +0 +free",
        r"emil \(established\) asks +30 +30 +0 +free .* a retry: same answer",
        r"emil \(established\) asks +60 +28 +32 +partial .* budget until 00:00",
        r"emil never pays: it expires .* allowance stays spent",
        r"tara \(trusted\) asks +150 +150 +0 +free",
        r"elsa \(elite\) asks +600 +234 +366 +partial +0 +pool",
        r"elsa's work cost 500 +500 +234 +266 +0 +100 refunded",
        r"25 are paid: 2 to the pool +406 +0.5 carried",
        r"a sponsor gives 100",
    ],
)
def test_tells(told: str, line: str) -> None:
    """The day has every tier, every answer, and what may go otherwise than planned."""
    assert re.search(line, told)


def test_pool_is_true(told: str) -> None:
    """What is in the pool after the last line is the balance that the totals give."""
    day, _, rest = told.partition("\n\nThe pool: ")
    sums = rest.partition("\nThe books")[0]
    last = int(day.splitlines()[-1].split()[-1])
    assert added_up(sums) == (last, last)


def test_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo exits 1 when its ledger does not verify."""
    broken = Report(1, 0, 0, (Problem(1, 1, "for the test"),))
    monkeypatch.setattr(FreeTier, "verify", lambda _: broken)
    assert cli.main(["demo"]) == 1


def test_without_rich(told: str) -> None:
    """On a terminal without rich the text is the same, and plain."""
    assert on_terminal(f"import sys; sys.modules['rich'] = None; {DEMO}") == told


def test_with_rich(told: str) -> None:
    """On a terminal with rich tables are drawn, and some words coloured; the text is the same."""
    shown = on_terminal(DEMO)
    assert "\x1b[32mfree\x1b[0m" in shown
    assert "\x1b[1mtime " in shown
    assert "\x1b[2m─────" in shown
    assert COLOUR.sub("", shown).replace("─", "-") == told

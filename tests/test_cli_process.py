"""The command as a process: its command line, its signals, its pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import freetier
from freetier import FreeTierPolicy, cli
from tests.command import Run, in_folder

DB = "ledger.db"


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder of its own; exit code, standard output, standard error."""
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["give"],
        ["donate", "gift", "1_000"],
        ["donate", "gift", "\u0665"],
        ["decide", "--price", "1.5"],
        ["journal", "--limit", "-1"],
        ["adjust", "lost", "5"],
    ],
    ids=" ".join,
)
def test_wrong_command_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line is exit code 2 and a usage line, and makes no ledger."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: freetier")
    assert not Path("freetier.db").exists()


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is exit code 130, without a traceback."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "demo", interrupted)
    assert run("demo") == (130, "", "")


@pytest.mark.parametrize(("limit", "read_first"), [(1, 0), (1500, 0), (1500, 1)])
def test_pipe_closed(read_first: int, limit: int) -> None:
    """When the reader of the pipe goes away, the command ends, and says nothing.

    Also when all of the answer still is in Python's own buffer, and when a pipe cannot hold it.
    """
    with freetier.open(DB, FreeTierPolicy()) as ledger:
        for number in range(limit):
            ledger.donate(f"gift-{number}", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "freetier", "journal", "--json", "--db", DB, "--limit", str(limit)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(read_first):
            assert process.stdout.readline()
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (141, b"")


def test_ids_that_the_terminal_cannot_show() -> None:
    """An id outside of the terminal's encoding is shown escaped, not an error."""
    with freetier.open(DB, FreeTierPolicy()) as ledger:
        ledger.donate("дар", 5)
    done = subprocess.run(
        [sys.executable, "-m", "freetier", "journal", "--db", DB],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert rb"\u0434\u0430\u0440" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` names the installed version."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"freetier {version('freetier')}\n"

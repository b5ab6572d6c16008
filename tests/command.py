"""The command as a test runs it: in a folder of its own, without settings from outside."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import freetier
from freetier import FreeTierPolicy, cli

Run = Callable[..., tuple[int, str, str]]


def in_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """What runs the command in `folder`: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("FREETIER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(argv)
        return code, *capsys.readouterr()

    return run


def written(text: str, name: str = "requests.csv") -> str:
    """A file of requests; its name."""
    Path(name).write_text(text, encoding="utf-8")
    return name


def decided(run: Run, file: str, *flags: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The decisions and the totals of a `freetier run` that goes well."""
    code, out, err = run(file, "--json", *flags)
    assert (code, err) == (0, "")
    *rows, last = map(json.loads, out.splitlines())
    return rows, last["totals"]


def journal(path: str) -> list[freetier.Entry]:
    """What is written in the ledger at `path`."""
    with freetier.open(path, FreeTierPolicy()) as ledger:
        return list(ledger.journal())


def added_up(line: str) -> tuple[int, int]:
    """A printed sum, done again by hand, and what the line says that it is."""
    *parts, result = [int(sign + sats) for sign, sats in re.findall(r"([+-]?) ?(\d+) [a-z]", line)]
    return sum(parts), result

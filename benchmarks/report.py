"""What a run found: a table for people, JSON for machines, a figure a section, an exit status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figure import svg
from benchmarks.measure import Line, Outcome

Measured = Mapping[str, Sequence[Line]]
Facts = Mapping[str, Any]
HEAD = ("figure", "measured", "middle half", "to reach", "outcome", "times, or why not")


def table(titles: Mapping[str, str], measured: Measured, facts: Facts) -> str:
    """Plain text, aligned; a section is headed by its title."""
    rows = {name: [_row(line) for line in lines] for name, lines in measured.items()}
    every = [HEAD, *(row for section in rows.values() for row in section)]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEAD) - 1)]
    told = [_aligned(HEAD, widths)]
    for name, section in rows.items():
        told += ["", f"{titles[name]} ({name})", *(_aligned(row, widths) for row in section)]
    outcomes = [line.outcome for lines in measured.values() for line in lines]
    counts = ", ".join(f"{outcomes.count(each)} {each}" for each in Outcome)
    return "\n".join([*told, "", counts, *_facts(facts)])


def as_json(measured: Measured, facts: Facts) -> str:
    """Every figure with its rounds, and what it was measured on and with."""
    sections = {name: [line.as_json() for line in lines] for name, lines in measured.items()}
    return json.dumps({"facts": dict(facts), "sections": sections}, indent=1, ensure_ascii=False)


def draw(folder: Path, titles: Mapping[str, str], measured: Measured) -> None:
    """A file a section."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in measured.items():
        (folder / f"{name}.svg").write_text(svg(titles[name], lines), "utf-8")


def status(measured: Measured) -> int:
    """1 if a line missed what it was to reach."""
    missed = (line.outcome is Outcome.MISSED for lines in measured.values() for line in lines)
    return int(any(missed))


def _row(line: Line) -> tuple[str, ...]:
    reach = "" if line.bound is None else f"{line.bound} {line.unit}"
    outcome = "" if line.outcome is Outcome.SHOWN else str(line.outcome)
    spread = " - ".join(_number(each) for each in line.spread or ())
    if line.value is None:
        return line.name, "-", spread, reach, outcome, line.note
    return line.name, f"{_number(line.value)} {line.unit}", spread, reach, outcome, line.note


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
    return "  ".join([*cells, row[-1]]).rstrip()


def _facts(facts: Facts) -> list[str]:
    """What was measured on and with, a line each for the machine and for the packages."""
    packages = facts.get("packages", {})
    there = [f"{name} {version}" for name, version in packages.items() if version]
    machine = [f"{name} {value}" for name, value in facts.items() if name != "packages"]
    return [", ".join(machine), ", ".join(there)]

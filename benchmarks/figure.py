"""A figure of a section's lines, as SVG: a bar each, its bound marked.

The scale is logarithmic: twice as fast and half as fast are as far from 1, where the bars begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.measure import TIMES, Line, Outcome

WIDTH = 1110
LABELS = 560
BARS = 330
ROW = 26
TOP = 72
HEAD = f"medians of the rounds, in bars that begin at 1 {TIMES}; dashed: what is to be reached"
COLOURS = {Outcome.OK: "#2e7d32", Outcome.MISSED: "#c62828", Outcome.SHOWN: "#546e7a"}
STYLE = "font-family='sans-serif' font-size='13'"


def svg(title: str, lines: Sequence[Line]) -> str:
    """A whole document. A line that is no ratio, or was not measured, is there in words alone."""
    scale = _Scale(lines)
    height = TOP + ROW * len(lines) + 36
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}'"
        f" viewBox='0 0 {WIDTH} {height}' {STYLE}>",
        f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>",
        f"<text x='12' y='24' font-size='16' font-weight='bold'>{escape(title)}</text>",
        f"<text x='12' y='44' fill='#777777'>{escape(HEAD)}</text>",
    ]
    bottom = TOP + ROW * len(lines)
    for tick in scale.ticks():
        x = scale.x(tick)
        parts += [
            f"<line x1='{x:.1f}' y1='{TOP - 10}' x2='{x:.1f}' y2='{bottom}' stroke='#dddddd'/>",
            f"<text x='{x:.1f}' y='{bottom + 16}' text-anchor='middle' fill='#777777'>"
            f"{tick:g} {TIMES}</text>",
        ]
    for number, line in enumerate(lines):
        parts += _row(line, TOP + ROW * number, scale)
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    """From ratios to places. It always has 1 in it, and whole powers of ten at its ends."""

    def __init__(self, lines: Sequence[Line]) -> None:
        bounds = [line.bound.value for line in lines if line.bound and line.unit == TIMES]
        ratios = [value for line in lines if (value := _ratio(line)) is not None]
        logs = [math.log10(each) for each in (*bounds, *ratios, 1)]
        self.least, self.most = math.floor(min(logs)), max(math.ceil(max(logs)), 1)

    def x(self, ratio: float) -> float:
        share = (math.log10(ratio) - self.least) / (self.most - self.least)
        return LABELS + BARS * share

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.least, self.most + 1)]


def _ratio(line: Line) -> float | None:
    """What can be drawn of a line on a logarithmic scale of ratios."""
    value = line.value
    return value if value is not None and value > 0 and line.unit == TIMES else None


def _row(line: Line, y: int, scale: _Scale) -> list[str]:
    name = escape(line.name)
    parts = [f"<text x='{LABELS - 10}' y='{y + 14}' text-anchor='end'>{name}</text>"]
    ratio = _ratio(line)
    if ratio is not None:
        start, end = sorted((scale.x(1), scale.x(ratio)))
        parts.append(
            f"<rect x='{start:.1f}' y='{y + 2}' width='{max(end - start, 1):.1f}'"
            f" height='{ROW - 10}' fill='{COLOURS[line.outcome]}'/>"
        )
    if line.bound is not None and line.unit == TIMES:
        x = scale.x(line.bound.value)
        parts.append(
            f"<line x1='{x:.1f}' y1='{y - 1}' x2='{x:.1f}' y2='{y + ROW - 5}'"
            " stroke='#000000' stroke-width='2' stroke-dasharray='3 2'/>"
        )
    if line.value is None:
        words = str(Outcome.NOT_MEASURED)
    else:
        words = f"{line.value:.3g} {line.unit}"
        if line.bound is not None:
            words += f"  ({line.bound}: {line.outcome})"
    parts.append(f"<text x='{LABELS + BARS + 10}' y='{y + 14}'>{escape(words)}</text>")
    return parts

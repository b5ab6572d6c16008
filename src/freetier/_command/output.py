"""How an answer reaches its reader: aligned text for people, a JSON object a line for programs.

The text is the same everywhere. Where `rich` is installed and a terminal shows it, tables are
drawn: titles bold, rules as lines, the words that carry the answer in colour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any, TextIO

import attrs
from attrs import frozen

RULE = "-"

COLOURS = {
    r"\b(free|ok|verified)\b": "green",
    r"\bpartial\b": "yellow",
    r"\b(gate|broken)\b": "red",
}
"""The words that are coloured on a terminal."""


@frozen
class Output:
    """Where a command's answer goes: `write` takes one line without its end, `aside` likewise.

    `write` is what a pipe gets; `aside` is what only the person at the terminal reads.
    """

    write: Callable[[str], object]
    aside: Callable[[str], object]
    as_json: bool

    def show(self, record: object, lines: Iterable[str]) -> None:
        """One answer: `record` as a line of JSON, or else `lines`, which are read only then."""
        if self.as_json:
            self.write(to_json(record))
        else:
            self.text(lines)

    def sum_up(self, record: object, lines: Iterable[str]) -> None:
        """What a stream of answers comes to: one more line of JSON, or else `lines`, aside."""
        if self.as_json:
            self.write(to_json(record))
        else:
            for line in lines:
                self.aside(line)

    def text(self, lines: Iterable[str]) -> None:
        """Lines that only people get: a table's heading, say."""
        if not self.as_json:
            for line in lines:
                self.write(line)


@frozen
class Column:
    """A column of a table: its title and its width in characters; numbers stand `right`."""

    title: str
    width: int
    right: bool = False


def table_line(columns: Sequence[Column], cells: Sequence[object]) -> str:
    """A table's line; None is an empty cell, and text that does not fit ends in an ellipsis."""
    return "  ".join(map(_cell, columns, cells)).rstrip()


def table_heading(columns: Sequence[Column]) -> list[str]:
    """A table's titles and the rule below them, as one piece, by which `rich` knows them."""
    titles = table_line(columns, [column.title for column in columns])
    return [titles + "\n" + "  ".join(RULE * column.width for column in columns)]


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A whole table, each column as wide as its widest cell; columns of numbers stand right."""
    columns = [
        Column(title, max(len(_shown(cell)) for cell in (title, *cells)), _numbers(cells))
        for title, *cells in zip(titles, *rows, strict=True)
    ]
    return [*table_heading(columns), *(table_line(columns, row) for row in rows)]


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values, one pair a line, the values below each other."""
    known = list(pairs)
    width = max(len(name) for name, _ in known)
    return [f"{name:<{width}}  {_shown(value)}".rstrip() for name, value in known]


def time_text(at: datetime) -> str:
    """A time for people: UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def to_json(value: object) -> str:
    """`value` on one line of ASCII: times ISO 8601 in UTC, days ISO dates, enums their values."""
    return json.dumps(value, default=_jsonable)


def line_writer(stream: TextIO) -> Callable[[str], object]:
    """What writes a line to `stream`: in colour, if `rich` is there and it is a terminal."""
    if stream.isatty():
        try:
            return _coloured(stream)
        except ImportError:  # rich comes with the extra `cli`
            pass
    return lambda line: stream.write(line + "\n")


def _coloured(stream: TextIO) -> Callable[[str], object]:
    console = import_module("rich.console").Console(file=stream)
    make_text = import_module("rich.text").Text

    def write(line: str) -> None:
        titles, _, rule = line.partition("\n")
        if rule:
            console.print(make_text(titles, style="bold"), soft_wrap=True)
            console.print(make_text(rule.replace(RULE, "─"), style="dim"), soft_wrap=True)
            return
        text = make_text(line)
        for words, colour in COLOURS.items():
            text.highlight_regex(words, colour)
        console.print(text, soft_wrap=True)

    return write


def _jsonable(value: Any) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case _:
            return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}


def _cell(column: Column, value: object) -> str:
    text = _shown(value)
    if column.right:
        return text.rjust(column.width)  # a number is never cut: better a crooked line
    if len(text) > column.width:
        text = text[: column.width - 1] + "…"
    return text.ljust(column.width)


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _numbers(cells: Iterable[object]) -> bool:
    return all(cell is None or isinstance(cell, int) for cell in cells)

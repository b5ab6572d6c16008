"""A file of requests, read a row at a time: CSV with a header, or JSON lines.

A row is a mapping from column to cell: text in CSV, any JSON value in JSON lines. Rows are
numbered from 1; the header and empty lines do not count.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO

from freetier.errors import FreeTierError, InvalidInput

STDIN = "-"
Format = Literal["csv", "jsonl"]
_BY_SUFFIX: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

Cells = Mapping[str, object]


@contextmanager
def lines_of(path: str) -> Iterator[Iterator[str]]:
    """The lines of a file, or of the standard input for `-`, as UTF-8. Raises `InvalidInput`."""
    with _opened(path) as file:
        yield _decoded(file)


def numbered_rows(
    lines: Iterator[str], path: str, asked: Format | None, columns: Collection[str] = ()
) -> Iterator[tuple[int, Cells]]:
    """The rows, in the format asked for, or that of the name, or that the first line looks like.

    columns: those that the header of a CSV must have; then a file without a header is an error.
    Raises `InvalidInput` that names the file and the row.
    """
    source = source_name(path)
    number = 1
    with located(source, number):
        first = _first_line(lines)
    chosen = asked or _BY_SUFFIX.get(Path(path).suffix.lower()) or _looks_like(first)
    every = chain([first], lines)
    rows = _csv_rows(every, columns) if chosen == "csv" else _json_rows(every)
    while True:
        with located(source, number):
            cells = next(rows, None)
        if cells is None:
            return
        yield number, cells
        number += 1


def source_name(path: str) -> str:
    """What an error calls the file."""
    return "standard input" if path == STDIN else path


@contextmanager
def located(source: str, number: int) -> Iterator[None]:
    """Note the file and the row on an error of ours, whatever its kind."""
    try:
        yield
    except FreeTierError as error:
        error.add_note(f"{source}, row {number}")
        raise


def _opened(path: str) -> TextIO:
    # newline="": a line end inside a quoted CSV cell belongs to the cell.
    if path == STDIN:
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
    try:
        return Path(path).open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InvalidInput("FILE", path, f"a file to read ({error.strerror})") from error


def _first_line(lines: Iterator[str]) -> str:
    """The first line with something on it; empty when there is none."""
    return next((line for line in lines if line.strip()), "")


def _looks_like(line: str) -> Format:
    return "jsonl" if line.lstrip().startswith("{") else "csv"


def _csv_rows(lines: Iterator[str], columns: Collection[str]) -> Iterator[Cells]:
    reader = csv.reader(lines, strict=True)  # else an open quote eats the file's rest
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = _checked_header(cells, columns)
            elif cells:
                if len(cells) != len(header):
                    raise InvalidInput("row", cells, f"{len(header)} cells, as in the header")
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        line = f"line {reader.line_num}"
        raise InvalidInput("row", line, f"well-formed CSV ({error})") from error


def _checked_header(cells: list[str], columns: Collection[str]) -> list[str]:
    if not set(columns) <= set(cells):
        raise InvalidInput("header", cells, f"the columns {', '.join(columns)}")
    if len(set(cells)) < len(cells):
        raise InvalidInput("header", cells, "a name of its own for each column")
    return cells


def _json_rows(lines: Iterator[str]) -> Iterator[Cells]:
    for line in lines:
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidInput("row", line, f"a JSON object ({error})") from error
            if not isinstance(row, dict):
                raise InvalidInput("row", line, "a JSON object")
            yield row


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.start + 4]
        raise InvalidInput("text", bad, "UTF-8") from error

"""Rows in order, more of them than memory should hold: sorted in parts, and merged from a file."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from heapq import merge
from tempfile import TemporaryFile
from typing import IO, Any, Generic, Self, TypeVar

T = TypeVar("T")

PART = 50_000
"""How many rows are sorted in memory; each so many more are a part in the file."""
_CHUNK = 500


class Sorter(Generic[T]):
    """Takes rows in any order, and gives them in the order of `key`. Close it, or enter it."""

    def __init__(self, key: Callable[[T], Any]) -> None:
        self._key = key
        self._rows: list[T] = []
        self._file: IO[bytes] | None = None
        self._parts: list[list[int]] = []  # of each, where its chunks begin in the file

    def add(self, row: T) -> None:
        """Take a row."""
        self._rows.append(row)
        if len(self._rows) >= PART:
            self._spill()

    def __iter__(self) -> Iterator[T]:
        rows = sorted(self._rows, key=self._key)
        if self._file is None:
            return iter(rows)
        parts = [self._read(self._file, chunks) for chunks in self._parts]
        return merge(*parts, rows, key=self._key)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115  # open until `close`, and without a name
        self._rows.sort(key=self._key)
        chunks = []
        for start in range(0, len(self._rows), _CHUNK):
            chunks.append(self._file.tell())
            pickle.dump(self._rows[start : start + _CHUNK], self._file)
        self._parts.append(chunks)
        self._rows = []

    def _read(self, file: IO[bytes], chunks: list[int]) -> Iterator[T]:
        for start in chunks:
            file.seek(start)
            rows: list[T] = pickle.load(file)  # noqa: S301  # what we wrote ourselves
            yield from rows

"""Cells → a request with its real cost and its time. A bad cell is named, with its value.

An empty cell, a JSON null and a column that is not there mean the same: no value.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256

from attrs import frozen

from freetier._command.input import Cells, located
from freetier._command.spread import Spread
from freetier.errors import InvalidInput
from freetier.policy import FreeTierPolicy
from freetier.pricing import Rates, price_sats
from freetier.values import Request, check_sats, check_time

FIELDS = (
    "request_id",
    "identity",
    "tier",
    "price_sats",
    "actual_sats",
    "time",
    "input_tokens",
    "output_tokens",
)
"""What a row can say; `--columns` maps these to the file's own names."""

_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)
_HASH_LENGTH = 12


@frozen
class Row:
    """A request of the file. `actual_sats` None: the price is the cost. `at` None: no time."""

    number: int
    request: Request
    actual_sats: int | None
    at: datetime | None


def parse_columns(text: str) -> dict[str, str]:
    """`time=TIMESTAMP,price_sats=cost` as a mapping from field to column. Raises `InvalidInput`."""
    columns: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        field, equals, column = pair.partition("=")
        if field not in FIELDS:
            close = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise InvalidInput("--columns", field, f"one of {', '.join(FIELDS)}{hint}")
        if not equals or not column or field in columns:
            raise InvalidInput("--columns", pair, f"{field}=COLUMN, once")
        columns[field] = column
    return columns


def asked_tier(identity: str | None, tier: str | None, policy: FreeTierPolicy) -> str:
    """The tier to ask for. Anonymous callers need none: any will do, so it is the first.

    Raises `InvalidInput` for an identity without one, and for a tier that the policy lacks.
    """
    if tier is not None:
        return policy.check_tier("tier", tier)
    if identity is None:
        return next(iter(policy.budgets))
    raise InvalidInput("tier", tier, f"one of the tiers {', '.join(policy.budgets)}")


@frozen
class RowReader:
    """How this file's cells read: its column names, the rates for tokens, who asks."""

    columns: Mapping[str, str]
    rates: Rates
    policy: FreeTierPolicy
    spread: Spread | None = None

    def check_columns(self, cells: Cells) -> None:
        """Raise `InvalidInput` if `--columns` names a column that the first row does not have."""
        for field, column in self.columns.items():
            if column not in cells:
                raise InvalidInput(f"--columns {field}", column, f"one of {', '.join(cells)}")

    def row(self, number: int, cells: Cells) -> Row:
        """The request that a row asks for. Raises `InvalidInput` that names the field."""
        identity, tier = self._asker(number, cells)
        request_id = self._cell(cells, "request_id")
        if request_id is None:
            request_id = generated_id(number, cells)
        # Request checks what it is given, so nothing here is trusted to be text.
        request = Request(request_id, identity, tier, self._price(cells))  # type: ignore[arg-type]
        actual = self._whole(cells, "actual_sats")
        if actual is not None:
            check_sats(self._name("actual_sats"), actual)
        return Row(number, request, actual, self._time(cells))

    def _asker(self, number: int, cells: Cells) -> tuple[object, object]:
        identity, tier = self._cell(cells, "identity"), self._cell(cells, "tier")
        if self.spread is None:
            return identity, asked_tier(identity, tier, self.policy)  # type: ignore[arg-type]
        for field, value in (("identity", identity), ("tier", tier)):
            if value is not None:
                raise InvalidInput(self._name(field), value, "none in a file for --identities")
        return self.spread.asker(number)

    def _price(self, cells: Cells) -> int:
        price = self._whole(cells, "price_sats")
        if price is not None:
            return price
        inputs, outputs = self._whole(cells, "input_tokens"), self._whole(cells, "output_tokens")
        if inputs is None or outputs is None:
            columns = ", ".join(cells)
            expected = f"a price, or input_tokens and output_tokens, among the columns {columns}"
            raise InvalidInput(self._name("price_sats"), None, expected)
        return price_sats(self.rates, input_tokens=inputs, output_tokens=outputs)

    def _time(self, cells: Cells) -> datetime | None:
        value = self._cell(cells, "time")
        if value is None:
            return None
        expected = "a time as 2023-11-16T18:15:46Z or 2023-11-16 18:15:46.68 (UTC)"
        if not isinstance(value, str):
            raise InvalidInput(self._name("time"), value, expected)
        try:
            at = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInput(self._name("time"), value, expected) from error
        return check_time(
            self._name("time"), at.replace(tzinfo=UTC) if at.utcoffset() is None else at
        )

    def _whole(self, cells: Cells, field: str) -> int | None:
        value = self._cell(cells, field)
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            return int(value)
        if value is None or type(value) is int:
            return value
        raise InvalidInput(self._name(field), value, "a whole number")

    def _cell(self, cells: Cells, field: str) -> object:
        value = cells.get(self.columns.get(field, field))
        return None if value == "" else value

    def _name(self, field: str) -> str:
        """The field, and the file's own name for it."""
        column = self.columns.get(field)
        return field if column is None else f"{field} (column {column})"


def read_rows(
    numbered: Iterable[tuple[int, Cells]], source: str, reader: RowReader
) -> Iterator[Row]:
    """The rows of a file, read as they are asked for. Raises `InvalidInput` that says where."""
    timed: bool | None = None
    for number, cells in numbered:
        with located(source, number):
            if timed is None:
                reader.check_columns(cells)
            row = reader.row(number, cells)
            if timed not in (None, row.at is not None):
                raise InvalidInput("time", row.at, "one in every row, or in none")
            timed = row.at is not None
        yield row


def generated_id(number: int, cells: Cells) -> str:
    """The id of a row without one: its number, and a hash of what it says.

    The hash is of the row as a JSON object with sorted keys, so it does not depend on quotes or
    line ends; rows appended later leave the ids before them as they are.
    """
    canonical = json.dumps(cells, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    return f"row-{number}-{digest[:_HASH_LENGTH]}"

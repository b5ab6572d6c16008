"""The statements as Postgres takes them: tables with their schema, its clock, its placeholders."""

from __future__ import annotations

import re
from functools import cache

from freetier.errors import ConfigError, InvalidInput

DEFAULT_SCHEMA = "public"
_LONGEST_NAME = 63
_TABLE = re.compile(r"\bfreetier_\w+")
_PLAIN = re.compile(r"[^A-Za-z0-9]")
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")

# The time when the statement arrived: the same wherever one statement asks for it.
_NOW = (
    "coalesce(CAST(:now_us AS BIGINT),"
    " CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT))"
)


def quoted(schema: str | None) -> str:
    """The name of a schema as an SQL identifier; `public` if None. Raises `InvalidInput`.

    Always written out, so that nothing depends on a `search_path`.
    """
    name = DEFAULT_SCHEMA if schema is None else schema
    if type(name) is not str or not 1 <= len(name.encode("utf-8", "replace")) <= _LONGEST_NAME:
        raise InvalidInput("schema", schema, f"a name of 1 to {_LONGEST_NAME} bytes, or None")
    if not name.isprintable() or "$" in name:  # it stands inside what $$ and $table$ quote
        raise InvalidInput("schema", schema, "a name of printable characters, without $")
    if name.startswith("pg_"):  # Postgres keeps those for itself
        raise InvalidInput("schema", schema, "a name that does not begin with pg_")
    return '"' + name.replace('"', '""') + '"'


def check_encoding(client_encoding: str | None) -> None:
    """Raise `ConfigError` for a connection that cannot carry every id; None: it does not say."""
    # As the server spells it, or as a pooler repeats what a driver sent it.
    if client_encoding is not None and _PLAIN.sub("", client_encoding).lower() != "utf8":
        raise ConfigError(f"the connection's client_encoding is {client_encoding}: UTF8 is needed")


@cache
def named(text: str, schema: str) -> str:
    """The statement with `schema` (quoted) before each table, and Postgres' own clock."""
    return _in_schema(_with_clock(text), schema)


@cache
def numbered(text: str, schema: str) -> tuple[str, tuple[str, ...]]:
    """The same with `$1`, `$2`, … for the parameters, as the server takes them; which is which."""
    names = parameters(text)
    placed = _PARAMETER.sub(lambda name: f"${names.index(name[1]) + 1}", _with_clock(text))
    return _in_schema(placed, schema), names


@cache
def parameters(text: str) -> tuple[str, ...]:
    """The names of a statement's parameters, in the order in which they come first."""
    return tuple(dict.fromkeys(_PARAMETER.findall(text)))


def _with_clock(text: str) -> str:
    return text.replace(":now_us", _NOW)


def _in_schema(text: str, schema: str) -> str:
    # The last step: a schema's name may look like anything.
    return _TABLE.sub(lambda table: f"{schema}.{table[0]}", text)

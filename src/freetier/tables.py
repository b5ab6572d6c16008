"""Tables for jobs and sessions, for hosts that have none: what makes them, statements, rows.

The text is the same for SQLite and Postgres, and its parameters are named `:so`. Times are whole
microseconds since 1970, a `Decimal` is its text. The tables refuse what could never be right: a
balance below 0, a refund above what was asked, one invoice for two jobs, one payment for two
refunds (SQLite only with `PRAGMA foreign_keys = ON`). They are the host's own,
so they do not begin with `freetier_`, as all does that the ledger's schema is checked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from importlib.resources import files
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from attrs import field, fields, frozen

from freetier.invoices import Invoice, Refund
from freetier.jobs import Job
from freetier.migrations import in_text, split
from freetier.sessions import Session, SessionRequest
from freetier.values import from_us, to_us

R = TypeVar("R", Job, Session, SessionRequest)

# What follows must read as the partial indexes do, or a database will not use them.
_REFUND_DUE = "refund_state = 'pending' AND refund_destination IS NOT NULL"
_JOB_UNFINISHED = f"state NOT IN ('rejected', 'complete', 'failed') OR {_REFUND_DUE}"
_SESSION_UNFINISHED = f"state = 'awaiting_payment' OR {_REFUND_DUE}"
_REQUEST_UNFINISHED = "state = 'computing'"
_JOB_EXPIRED = (
    "state = 'failed' AND (CASE WHEN work_amount_sats IS NULL THEN eval_amount_sats > 0 AND"
    " eval_paid_at_us IS NULL ELSE work_amount_sats > 0 AND work_paid_at_us IS NULL END)"
)
_SESSION_EXPIRED = "state = 'expired'"
_REQUEST_EXPIRED = "1 = 0"

_AMOUNTS = {
    "eval_invoice": "eval_amount_sats",
    "work_invoice": "work_amount_sats",
    "invoice": "deposit_sats",
}
"""The field of the record that says what each of its invoices asks for."""


@frozen
class _Column:
    """A column, and where it is in the record: a field, or a field of one of its parts."""

    name: str
    part: str | None
    field: str
    read: Callable[[Any], Any]


@frozen
class Table(Generic[R]):
    """One table: its statements, and records ↔ rows.

    `insert`, with the parameters of `row`, gives a row unless the id was there before. `update`,
    with those of `change`, gives one unless somebody else wrote the record since it was read: then
    read it again, and apply the event to what is there. `select` is by `:id`. `unfinished` is what
    has a next step, but for those that wait for a refund's destination: by id, after `:after`
    (begin with the empty text), at most `:most`. `expired` is what ended for want of a payment,
    which may have come since: by `updated_at_us` and id, after `:since_us` and `:after`, at most
    `:most`; of requests, nothing.
    """

    insert: str
    update: str
    select: str
    unfinished: str
    expired: str
    _of: type[R] = field(repr=False)
    _columns: tuple[_Column, ...] = field(repr=False)

    def row(self, record: R) -> dict[str, str | int | bool | None]:
        """The parameters of `insert` for a record."""
        row: dict[str, str | int | bool | None] = {
            column.name: _written(_found(record, column)) for column in self._columns
        }
        if isinstance(record, Job | SessionRequest):
            row["free_tier"] = record.free_tier
        return row

    def change(self, before: R, after: R) -> dict[str, str | int | bool | None]:
        """The parameters of `update`, from the record that was read, to what events made of it."""
        return {**self.row(after), "was": before.version}

    def record(self, row: Mapping[str, Any]) -> R:
        """The record of a whole row, as every driver gives it."""
        found: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {}
        for column in self._columns:
            stored = row[column.name]
            value = None if stored is None else column.read(stored)
            into = found if column.part is None else parts.setdefault(column.part, {})
            into[column.field] = value
        for name, values in parts.items():
            if name == "refund":
                found[name] = Refund(**values)
            elif values["id"] is not None:
                found[name] = Invoice(amount_sats=found[_AMOUNTS[name]], **values)
        return self._of(**found)


@frozen
class Tables:
    """The tables of the records, and the record that an invoice is of, by `:invoice_id`.

    `job_refund` and `session_refund` come before `refund_begun` is noted, in its transaction: the
    record of `:id` is to be refunded by the payment of `:payment_hash`. They give a row unless
    another record is, or was: an invoice is paid once, so it refunds nobody else, ever.

    `promised_elsewhere` is what `sessions.admitted` wants to know: the sats that are promised to
    the sessions of an `:identity` but the one of `:session_id`.
    """

    jobs: Table[Job]
    sessions: Table[Session]
    session_requests: Table[SessionRequest]
    job_by_invoice: str
    session_by_invoice: str
    job_refund: str
    session_refund: str
    promised_elsewhere: str


def statements(dialect: str, schema: str | None = None) -> list[str]:
    """The single statements that make the tables; as `freetier.migrations.statements`.

    Raises `InvalidInput`.
    """
    name = _before_a_name(dialect, schema)
    script = (files("freetier") / "schema" / "host_tables.sql").read_text(encoding="utf-8")
    return [statement.replace("{schema}", name) for statement in split(script)]


def tables(dialect: str, schema: str | None = None) -> Tables:
    """The tables' statements, for `"sqlite"` or `"postgres"`. Raises `InvalidInput`."""
    name = _before_a_name(dialect, schema)
    jobs, sessions = f"{name}paid_jobs", f"{name}paid_sessions"
    requests = f"{name}paid_session_requests"
    job_of = "eval_invoice_id = :invoice_id OR work_invoice_id = :invoice_id"
    return Tables(
        jobs=_table(Job, jobs, _JOB_UNFINISHED, _JOB_EXPIRED),
        sessions=_table(Session, sessions, _SESSION_UNFINISHED, _SESSION_EXPIRED),
        session_requests=_table(SessionRequest, requests, _REQUEST_UNFINISHED, _REQUEST_EXPIRED),
        job_by_invoice=f"SELECT * FROM {jobs} WHERE {job_of}",
        session_by_invoice=f"SELECT * FROM {sessions} WHERE invoice_id = :invoice_id",
        job_refund=_refund(name, "job_id"),
        session_refund=_refund(name, "session_id"),
        promised_elsewhere=f"SELECT CAST(COALESCE(SUM(promised_sats), 0) AS BIGINT) FROM {sessions}"
        " WHERE identity = :identity AND id <> :session_id AND promised_sats > 0",
    )


def _before_a_name(dialect: str, schema: str | None) -> str:
    """What stands before a table's name in a statement."""
    name = in_text(dialect, schema)
    return f"{name}." if name else ""


def _refund(name: str, whose: str) -> str:
    return (
        f"INSERT INTO {name}paid_refunds AS known (payment_hash, {whose})"
        f" VALUES (:payment_hash, :id) ON CONFLICT (payment_hash) DO UPDATE"
        f" SET {whose} = excluded.{whose} WHERE known.{whose} = excluded.{whose}"
        " RETURNING payment_hash"
    )


def _table(record: type[R], name: str, unfinished: str, expired: str) -> Table[R]:
    columns = tuple(_columns_of(record))
    names = [column.name for column in columns]
    if record is not Session:
        names.append("free_tier")
    values = ", ".join(f":{column}" for column in names)
    changes = ", ".join(f"{column} = :{column}" for column in names if column != "id")
    return Table(
        insert=f"INSERT INTO {name} ({', '.join(names)}) VALUES ({values}) "
        "ON CONFLICT (id) DO NOTHING RETURNING version",
        update=f"UPDATE {name} SET {changes} WHERE id = :id AND version = :was RETURNING version",
        select=f"SELECT * FROM {name} WHERE id = :id",
        unfinished=f"SELECT * FROM {name} WHERE ({unfinished}) AND id > :after "
        "ORDER BY id LIMIT :most",
        expired=f"SELECT * FROM {name} WHERE {expired} "
        "AND (updated_at_us, id) > (:since_us, :after) ORDER BY updated_at_us, id LIMIT :most",
        of=record,
        columns=columns,
    )


def _columns_of(record: type[Any]) -> Iterator[_Column]:
    for name, read in _typed(record):
        if read is Refund:
            for inner, reads in _typed(Refund):
                column = "refund_hash" if inner == "payment_hash" else f"refund_{inner}"
                yield _column(column, name, inner, reads)
        elif read is Invoice:
            stage = name.removesuffix("invoice")
            for inner, reads in _typed(Invoice):
                if inner != "amount_sats":  # the record has it, in a field of its own
                    column = f"{stage}{'invoice_id' if inner == 'id' else inner}"
                    yield _column(column, name, inner, reads)
        else:
            yield _column(name, None, name, read)


def _column(name: str, part: str | None, inner: str, read: Any) -> _Column:
    if read is datetime:
        return _Column(f"{name}_us", part, inner, from_us)
    return _Column(name, part, inner, read)


def _typed(of: type[Any]) -> Iterator[tuple[str, Any]]:
    """Each field and its type, without the None that may be there instead."""
    hints = get_type_hints(of)
    for each in fields(of):
        hint = hints[each.name]
        (kind,) = [one for one in get_args(hint) or (hint,) if one is not NoneType]
        yield each.name, kind


def _found(record: Any, column: _Column) -> Any:
    holder = record if column.part is None else getattr(record, column.part)
    return None if holder is None else getattr(holder, column.field)


def _written(value: Any) -> str | int | bool | None:
    match value:
        case datetime():
            return to_us(value)
        case Decimal() | StrEnum():
            return str(value)
        case None | str() | int():
            return value
    raise TypeError(f"{type(value).__name__} has no column")

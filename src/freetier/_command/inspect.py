"""The commands that only look: status, journal, verify, decide, schema, config."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from uuid import uuid4

from attrs import frozen

from freetier import migrations
from freetier._command.checkpoints import read_checkpoint, write_checkpoint
from freetier._command.ledger import looking, read_only
from freetier._command.output import Output, facts, table, table_heading
from freetier._command.rows import asked_tier
from freetier._command.views import (
    ENTRY_COLUMNS,
    decision_lines,
    entry_line,
    pool_lines,
    pool_record,
    report_lines,
    report_record,
)
from freetier.errors import without_password
from freetier.opening import is_postgres
from freetier.policy import FreeTierPolicy
from freetier.sealing import parse_head
from freetier.settings import SETTINGS
from freetier.values import Request

DB_VARIABLE = "FREETIER_DB"
DEFAULT_DB = "freetier.db"
SCHEMA_VARIABLE = "FREETIER_SCHEMA"


def status(arguments: Namespace, out: Output) -> int:
    """The pool now."""
    with read_only(arguments) as ledger:
        pool = ledger.pool_status()
    out.show(pool_record(pool), pool_lines(pool))
    return 0


def journal(arguments: Namespace, out: Output) -> int:
    """The entries after `--after`, at most `--limit`, as they are read."""
    with read_only(arguments) as ledger:
        entries = islice(ledger.journal(arguments.after), arguments.limit)
        out.text(table_heading(ENTRY_COLUMNS))
        for entry in entries:
            out.show(entry, (entry_line(entry),))
    return 0


def verify(arguments: Namespace, out: Output) -> int:
    """Prove the balances; 1 when an invariant is broken."""
    head = arguments.head and parse_head(arguments.head)
    kept = None if arguments.checkpoint is None else Path(arguments.checkpoint)
    checkpoint = None if kept is None else read_checkpoint(kept)
    with read_only(arguments) as ledger:
        report = ledger.verify(head=head, checkpoint=checkpoint)
    if kept is not None and report.checkpoint is not None:
        write_checkpoint(kept, report.checkpoint)
    out.show(report_record(report), report_lines(report))
    return 0 if report.ok else 1


def seal(arguments: Namespace, out: Output) -> int:
    """The head of the journal, from an earlier one if there is one to trust."""
    with read_only(arguments) as ledger:
        head = ledger.seal(since=arguments.since and parse_head(arguments.since))
    out.show({"head": str(head)}, (str(head),))
    return 0


def decide(arguments: Namespace, out: Output) -> int:
    """What the policy would answer now, under a request id that nobody uses."""
    with read_only(arguments) as ledger:
        tier = asked_tier(arguments.identity, arguments.tier, ledger.policy)
        request_id = f"decide-{uuid4()}"
        decision = ledger.decide(Request(request_id, arguments.identity, tier, arguments.price))
    out.show(decision, decision_lines(decision))
    return 0


def schema(arguments: Namespace, out: Output) -> int:
    """The ledger's schema version, or the statements that lead to the newest one."""
    if arguments.sql:
        dialect = arguments.dialect or ("postgres" if is_postgres(arguments.db) else "sqlite")
        statements = migrations.statements(dialect, arguments.schema, arguments.since)
        out.show(statements, (f"{statement};\n" for statement in statements))
        return 0
    with looking(arguments) as look:
        record = {"version": look.version(), "latest": look.latest}
        out.show(record, facts(tuple(record.items())))
        look.check()
    return 0


def config(_: Namespace, out: Output) -> int:
    """Every setting, its variable, its value, and who said so."""
    rows = list(settings_in_force(FreeTierPolicy.from_env(), os.environ))
    cells = [(row.variable, row.field, _value_text(row), row.source) for row in rows]
    out.show({"settings": rows}, table(("variable", "field", "value", "from"), cells))
    return 0


@frozen
class SettingInForce:
    """One setting as it stands: its value in the unit that `field` ends in."""

    variable: str
    field: str
    value: object
    source: str


def settings_in_force(
    policy: FreeTierPolicy, environ: Mapping[str, str]
) -> Iterator[SettingInForce]:
    """Each setting of the policy, one for each tier where tiers have their own, and the ledger."""
    for setting in SETTINGS:
        value = getattr(policy, setting.field)
        values = (
            {setting.variable + tier.upper(): sats for tier, sats in value.items()}
            if setting.per_tier
            else {setting.variable: value}
        )
        for variable, known in (values or {f"{setting.variable}<TIER>": None}).items():
            yield SettingInForce(variable, setting.field, known, _source(variable, environ))
    for variable, name, default in (
        (DB_VARIABLE, "db", DEFAULT_DB),
        (SCHEMA_VARIABLE, "schema", None),
    ):
        value = environ.get(variable, default)
        value = None if value is None else without_password(value)
        yield SettingInForce(variable, name, value, _source(variable, environ))


def _source(variable: str, environ: Mapping[str, str]) -> str:
    return "environment" if variable in environ else "default"


def _value_text(row: SettingInForce) -> str:
    """The value as the variable would say it: a share as a percentage."""
    match row.value:
        case None:
            return "none"
        case bool():
            return str(row.value).lower()
        case int() if row.field.endswith("_bp"):
            return f"{row.value / 100:g}"
        case _:
            return str(row.value)

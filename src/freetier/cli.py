"""The command `freetier`: its grammar, and how an error becomes an exit code.

0: done. 1: the ledger does not verify, or a credit is missing. 2: an error of ours, or of the
command line. 130: Ctrl-C. 141: the reader of a pipe went away.
"""

from __future__ import annotations

import io
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib.metadata import version

from freetier._command import inspect, operate
from freetier._command.demo import demo
from freetier._command.inspect import DB_VARIABLE, DEFAULT_DB, SCHEMA_VARIABLE
from freetier._command.output import Output, line_writer
from freetier._command.reconcile import reconcile
from freetier._command.replay import run
from freetier._command.rows import FIELDS
from freetier.errors import FreeTierError
from freetier.migrations import DIALECTS

FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE

_NUMBER = re.compile(r"-?[0-9]{1,16}(?:\.[0-9]{1,16})?", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,16}", re.ASCII)

Handler = Callable[[Namespace, Output], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. A wrong command line raises `SystemExit`, as argparse does.

    `argv` is without the program's name; None takes the process's own.
    """
    arguments = _parser().parse_args(argv)
    _never_fail_to_encode()
    out = Output(line_writer(sys.stdout), line_writer(sys.stderr), arguments.json)
    handler: Handler = arguments.handler
    try:
        code = handler(arguments, out)
        sys.stdout.flush()
    except FreeTierError as error:
        where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        print(f"freetier: {type(error).__name__}: {where}{error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Python flushes once more as it exits; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # what we write to is full, or gone
        print(f"freetier: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="freetier",
        description="Who pays for a request: the caller, or the community's generosity pool?",
        epilog="Settings are FREETIER_… variables; `freetier config` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"freetier {version('freetier')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    as_json = ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="answer in JSON, an object a line")
    database = ArgumentParser(add_help=False, parents=[as_json])
    database.add_argument(
        "--db",
        metavar="PATH",
        default=os.environ.get(DB_VARIABLE, DEFAULT_DB),
        help=f"the ledger: a path or a URL (default: {DB_VARIABLE}, else {DEFAULT_DB})",
    )
    database.add_argument(
        "--schema",
        metavar="NAME",
        default=os.environ.get(SCHEMA_VARIABLE),
        help=f"the Postgres schema of its tables (default: {SCHEMA_VARIABLE}, else public)",
    )

    def command(
        name: str, handler: Handler, purpose: str, *parents: ArgumentParser
    ) -> ArgumentParser:
        made = commands.add_parser(
            name, help=purpose, description=purpose, parents=parents, allow_abbrev=False
        )
        made.set_defaults(handler=handler, json=False)
        return made

    command("demo", demo, "a day in the life of a pool, on one screen")
    _add_run(command("run", run, "decide every request of a file, one line each", database))
    _add_decide(command("decide", inspect.decide, "what would be answered now", database))
    command("status", inspect.status, "the pool now", database)
    _add_journal(command("journal", inspect.journal, "the ledger's entries, in order", database))
    _add_verify(command("verify", inspect.verify, "prove every balance from the journal", database))
    _add_seal(command("seal", inspect.seal, "the journal's head, to be kept elsewhere", database))
    _add_reconcile(
        command("reconcile", reconcile, "name the paid invoices that lack their credit", database)
    )
    _add_donate(command("donate", operate.donate, "put a sponsor's sats into the pool", database))
    _add_adjust(command("adjust", operate.adjust, "correct the pool, up or down", database))
    command("sweep", operate.sweep, "expire the grants that are due", database)
    _add_schema(command("schema", inspect.schema, "the schema's version, or its SQL", database))
    command("config", inspect.config, "every setting, its value, and who said so", as_json)
    return parser


def _add_run(command: ArgumentParser) -> None:
    command.description = (
        "Decide every request of a file, in order, and show each decision. The same file again "
        "changes nothing; a longer one goes on where the last run ended."
    )
    command.add_argument(
        "file", metavar="FILE", help="CSV with a header, or JSON lines; - is stdin"
    )
    command.add_argument("--format", choices=("csv", "jsonl"), help="(default: by name, or a look)")
    command.add_argument(
        "--columns",
        metavar="FIELD=COLUMN,…",
        default="",
        help=f"the file's names for our fields, which are {', '.join(FIELDS)}",
    )
    command.add_argument(
        "--identities", type=_whole, metavar="N", help="spread the requests over N identities"
    )
    command.add_argument(
        "--seed", type=_whole, default=0, help="of the rule that spreads them (default: 0)"
    )
    command.add_argument(
        "--unpaid", action="store_true", help="no caller pays, so nothing is credited to the pool"
    )
    rates = command.add_argument_group("the price of tokens, for rows without price_sats")
    for flag, default, meaning in (
        ("--input-usd-per-million", "3", "USD for a million input tokens"),
        ("--output-usd-per-million", "15", "USD for a million output tokens"),
        ("--margin-pct", "40", "per cent on top"),
        ("--btc-usd", "100000", "a bitcoin in USD"),
    ):
        rates.add_argument(
            flag,
            type=_decimal,
            default=Decimal(default),
            metavar="NUMBER",
            help=f"{meaning} (default: {default})",
        )


def _add_decide(command: ArgumentParser) -> None:
    command.add_argument("--identity", help="who asks (default: anonymous)")
    command.add_argument("--tier", help="the identity's tier")
    command.add_argument("--price", type=_whole, required=True, metavar="SATS")


def _add_journal(command: ArgumentParser) -> None:
    command.add_argument(
        "--after", type=_whole, default=0, metavar="SEQ", help="begin after this entry (default: 0)"
    )
    command.add_argument("--limit", type=_count, metavar="N", help="at most N entries")


def _add_verify(command: ArgumentParser) -> None:
    command.add_argument(
        "--head", metavar="SEQ:DIGEST", help="an earlier head: is all up to there the same?"
    )
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="go on from where this file says, and note there how far it is proved",
    )


def _add_seal(command: ArgumentParser) -> None:
    command.add_argument(
        "--since", metavar="SEQ:DIGEST", help="an earlier head that is trusted, to begin from"
    )


def _add_reconcile(command: ArgumentParser) -> None:
    command.add_argument(
        "file", metavar="FILE", help="what was paid: CSV with a header, or JSON lines; - is stdin"
    )
    command.add_argument("--format", choices=("csv", "jsonl"), help="(default: by name, or a look)")
    command.add_argument("--hash-column", metavar="NAME", default="payment_hash")
    command.add_argument("--sats-column", metavar="NAME", default="paid_sats")


def _add_donate(command: ArgumentParser) -> None:
    command.add_argument("key", metavar="KEY", help="names this donation; the same again is none")
    command.add_argument("sats", type=_whole, metavar="SATS", help="from 1")
    command.add_argument("--sponsor", default="", help="who gave")
    command.add_argument("--note", default="")


def _add_adjust(command: ArgumentParser) -> None:
    command.add_argument("key", metavar="KEY", help="names this adjustment; the same again is none")
    command.add_argument("sats", type=_whole, metavar="SATS", help="up, or down with a minus")
    command.add_argument("--note", required=True, help="why")


def _add_schema(command: ArgumentParser) -> None:
    command.add_argument("--sql", action="store_true", help="the statements; needs no ledger")
    command.add_argument(
        "--since", type=_count, default=0, metavar="N", help="from schema version N on (default: 0)"
    )
    command.add_argument("--dialect", choices=DIALECTS, help="(default: the one of --db)")


def _whole(text: str) -> int:
    """A whole number in ASCII digits: no underscore, no space, no unit."""
    if not _WHOLE.fullmatch(text):
        raise ArgumentTypeError(f"a whole number is needed, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    number = _whole(text)
    if number < 0:
        raise ArgumentTypeError(f"a number from 0 is needed, not {text!r}")
    return number


def _decimal(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ArgumentTypeError(f"a number is needed, not {text!r}")
    return Decimal(text)


def _never_fail_to_encode() -> None:
    """An id that the terminal's encoding lacks is shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

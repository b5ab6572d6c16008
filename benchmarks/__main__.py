"""How fast the library is, beside what it could be at best and beside its peers.

    python -m benchmarks                                 every section
    python -m benchmarks pure memory sqlite              some of them
    python -m benchmarks --json figures.json --svg figures
    python -m benchmarks --full                          journals of 5,000,000 entries
    python -m benchmarks --trace AzureLLMInferenceTrace_conv.csv    a real day's requests, too
    python -m benchmarks postgres --flush-us 1000        as on a disk that much slower
    python -m benchmarks postgres --url postgresql:///postgres    in a database that it makes there

One table. Each figure is a ratio of two things measured in turn in this run, the median of several
rounds; behind it where the middle half of them lie, and what it is to reach. What could not be
measured says why, and counts neither way. Exits with 1 if a figure missed what it is to reach.

The peers come with `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from benchmarks import (
    growth,
    history,
    machine,
    memory,
    postgres,
    postgres_callers,
    processes,
    pure,
    report,
    sqlite,
    sqlite_callers,
    start,
    trace,
    weight,
)
from benchmarks.measure import LeftOut, Line, left_out
from benchmarks.run import FEWEST, Run

SECTIONS: Mapping[str, ModuleType] = {
    "start": start,
    "pure": pure,
    "memory": memory,
    "weight": weight,
    "sqlite": sqlite,
    "sqlite-callers": sqlite_callers,
    "postgres": postgres,
    "postgres-callers": postgres_callers,
    "processes": processes,
    "history": history,
    "growth": growth,
    "trace": trace,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    args = _arguments(argv)
    chosen = {name: SECTIONS[name] for name in args.sections or SECTIONS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freetier-bench-")))
        run = Run(
            folder,
            stack,
            rounds=args.rounds,
            full=args.full,
            trace=args.trace,
            flush_us=args.flush_us,
            url=args.url,
            facts=machine.facts(folder),
        )
        measured: dict[str, list[Line]] = {}
        try:
            for name, module in chosen.items():
                measured[name] = _lines(name, module, run)
        finally:  # a run that breaks off tells what it found
            _tell({name: module.TITLE for name, module in chosen.items()}, measured, run, args)
    return report.status(measured)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The library's speed, as ratios side by side."
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure, for machines")
    parser.add_argument("--svg", type=Path, metavar="FOLDER", help="a figure a section")
    parser.add_argument("--full", action="store_true", help="journals of 5,000,000 entries")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="an Azure LLM inference trace")
    parser.add_argument("--flush-us", type=int, default=0, help="µs that each flush takes longer")
    parser.add_argument("--url", help="a Postgres server (default: a throw-away one)")
    parser.add_argument("--rounds", type=int, default=15, help=f"from {FEWEST}")
    args = parser.parse_args(argv)
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if args.trace and not args.trace.is_file():
        parser.error(f"no such file: {args.trace}")
    if args.rounds < FEWEST:
        parser.error(f"a median needs {FEWEST} rounds at least")
    return args


def _tell(
    titles: Mapping[str, str], measured: report.Measured, run: Run, args: argparse.Namespace
) -> None:
    print(report.table(titles, measured, run.facts))
    if args.json:
        args.json.write_text(report.as_json(measured, run.facts), "utf-8")
    if args.svg:
        report.draw(args.svg, titles, measured)


def _lines(name: str, module: ModuleType, run: Run) -> list[Line]:
    """A section's lines; one that says why, if the rest of it has to be left out."""
    started = time.perf_counter()
    lines: list[Line] = []
    try:
        for line in module.lines(run):
            lines.append(line)  # one by one: those from before it was left out stay
    except LeftOut as why:
        lines.append(left_out(module.TITLE, str(why)))
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return lines


if __name__ == "__main__":
    gc.freeze()  # what was imported is nobody's garbage, and is not to be looked through again
    raise SystemExit(main())

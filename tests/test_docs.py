"""The docs: every code block runs and prints what the page says, every table equals the code's."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
from attrs import fields_dict

import freetier
from freetier import (
    Decision,
    FreeTier,
    FreeTierPolicy,
    GrantState,
    Kind,
    Limit,
    Request,
    Serve,
    audit,
    cli,
    errors,
    http,
    jobs,
    sessions,
    settings,
    starlette,
    tables,
)

from .doc_pages import (
    DOCS,
    PAGES,
    ROOT,
    agree,
    blocks,
    enter,
    headings,
    play,
    prose,
    read,
    statements,
    table,
)

DESIGN = DOCS / "explanation" / "design.md"
REFERENCE = DOCS / "reference"
COMMAND = REFERENCE / "command.md"
DECISIONS = REFERENCE / "decisions.md"
LONGEST_LINE = 120

_LINK = re.compile(r"\[[^]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)
LONG = ("hold-a-store-to-the-contract.md", "test-your-policy.md")
"""The pages whose blocks run a whole suite of tests."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[pytest.mark.slow] if page.name in LONG else [],
        )
        for page in PAGES
    ],
)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every code block runs, and prints what the page says."""
    assert len(blocks(page)) * 2 == read(page).count("```"), "a fence inside a line"
    enter(tmp_path, monkeypatch)
    for block, real in play(blocks(page)):
        if not agree(block.text, real):
            shown = f"{block}: the page says\n{block.text}\nand it is\n{real}"
            pytest.fail(shown, pytrace=False)


@every_page
def test_links_resolve(page: Path) -> None:
    """Every relative link leads to a file of the project, and to a heading that it has."""
    for target, anchor in _LINK.findall(prose(page)):
        if "://" not in target:
            there = (page.parent / target).resolve() if target else page
            assert there.is_relative_to(ROOT), f"{target} leads out of the project"
            assert there.exists(), f"{target} is not there"
            assert not anchor or anchor in map(slug, headings(there)), f"{target} has no #{anchor}"


@every_page
def test_lines_fit(page: Path) -> None:
    """No line is longer than 120 columns, but for what the code itself prints or sends."""
    said = {
        line
        for block in blocks(page)
        for line in block.text.splitlines()
        if block.language in ("text", "console", "sql") and not line.startswith(("$ ", "> "))
    }
    lines = enumerate(read(page).splitlines(), start=1)
    assert [n for n, line in lines if len(line) > LONGEST_LINE and line not in said] == []


def test_index() -> None:
    """The index links every page, the README links the index."""
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target, _ in _LINK.findall(read(index))}
    assert {page for page in PAGES if page.is_relative_to(DOCS)} - linked == {index}
    assert "(docs/README.md)" in read(ROOT / "README.md")


def test_everything_public() -> None:
    """Every public name, and every method and field of a public class, is in the reference."""
    text = " ".join(prose(page) for page in REFERENCE.glob("*.md"))
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    public = set(freetier.__all__)
    for name in freetier.__all__:
        value = getattr(freetier, name)
        if inspect.isclass(value):
            public |= {member for member in vars(value) if re.match(r"[a-z]", member)}
    assert public - named == set()


def test_methods_table() -> None:
    """The table of methods is FreeTier: each with its parameters, in the code's order."""
    methods = {
        name: value
        for name, value in vars(FreeTier).items()
        if re.match(r"[a-z]", name) and inspect.isfunction(value)
    }
    rows = table(REFERENCE / "library.md", "method")
    assert [row[0] for row in rows] == [f"`{name}({taken(m)})`" for name, m in methods.items()]


def test_policy_table() -> None:
    """The table of arguments is FreeTierPolicy's, in the code's order."""
    rows = table(REFERENCE / "library.md", "argument")
    assert re.findall(r"`(\w+)`", " ".join(row[0] for row in rows)) == [
        *fields_dict(FreeTierPolicy)
    ]


def test_limits_table() -> None:
    """The table of limits is the enum: the same members, in the order of precedence."""
    rows = table(DECISIONS, "limit")
    assert [row[:2] for row in rows] == [[f"`{m.name}`", f"`{m.value}`"] for m in Limit]


def test_states_table() -> None:
    """The table of states is the enum."""
    assert [row[0] for row in table(DECISIONS, "state")] == [f"`{state}`" for state in GrantState]


def test_settle_table() -> None:
    """Each row of the settle table is what `Decision.settle` gives."""
    for row in table(DECISIONS, "absorb + charge"):
        absorb, charge = map(int, row[0].split(" + "))
        decision = Decision(Serve.PARTIAL, absorb + charge, absorb, charge, None, {})
        done = decision.settle(None if row[1] == "unknown" else int(row[1]))
        figures = ("absorbed", "charged", "refund", "returned", "overrun")
        assert row[2:] == [str(getattr(done, f"{figure}_sats")) for figure in figures]


def test_errors_table() -> None:
    """The table of errors has each one, except the root."""
    public = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    rows = table(DECISIONS, "error")
    assert sorted(row[0].strip("`") for row in rows) == sorted(public - {"FreeTierError"})


def test_jobs_page() -> None:
    """The page of jobs has every state, every step, and every call, in order."""
    page = REFERENCE / "jobs.md"
    assert [row[0] for row in table(page, "state")] == [f"`{state}`" for state in jobs.JobState]
    assert [row[0] for row in table(page, "step")] == [f"`{step}`" for step in jobs.Step]
    text = " ".join(re.findall(r"`([^`\n]+)`", prose(page)))
    for module in (jobs, sessions, tables):
        public = {*getattr(module, "__all__", ()), *public_members(module)}
        assert public - set(re.findall(r"\w+", text)) == set()


def test_statuses_table() -> None:
    """The table of statuses is the code's, and the page has every public name."""
    page = REFERENCE / "http.md"
    rows = {row[0].strip("`"): row[1] for row in table(page, "problem")}
    assert rows.pop("any other") == "500"
    assert rows == {kind.__name__: str(int(status)) for kind, status in http.STATUSES.items()}
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", prose(page)))))
    assert {*public_members(http), *public_members(starlette)} - {"reply"} - named == set()


def test_settings_table() -> None:
    """The table of settings is the code's, and each default reads as the policy's own."""
    page = REFERENCE / "settings.md"
    for row, setting in zip(table(page, "variable"), settings.SETTINGS, strict=True):
        variable, field, default = row[:3]
        assert variable == f"`{setting.variable}{'<TIER>' if setting.per_tier else ''}`"
        assert field == f"`{setting.field}`"
        known = getattr(FreeTierPolicy(), setting.field)
        text = default.strip("`")
        if setting.per_tier:
            pairs = dict(pair.split() for pair in text.split(", ") if text != "none")
            assert {tier: setting.read(value) for tier, value in pairs.items()} == known
        else:
            assert (None if text == "none" else setting.read(text)) == known
    assert all(f"`{name}`" in read(page) for name in settings.NOT_POLICY)


@pytest.mark.parametrize(
    ("page", "dialect"), [("statements.md", "sqlite"), ("statements-postgres.md", "postgres")]
)
def test_statements_page(page: str, dialect: str) -> None:
    """The page has every statement that the code can run, under its name, once, and no other."""
    shown = [block for block in blocks(REFERENCE / page) if block.language == "sql"]
    assert sorted(block.title for block in shown) == sorted(statements(dialect))
    assert {block.title: block.text.strip() for block in shown} == statements(dialect)


def test_command_page(capsys: pytest.CaptureFixture[str]) -> None:
    """The page has a section for every command, in the command's order, and every option."""
    commands = re.findall(r"^    (\w+)(?: |$)", usage(capsys), re.MULTILINE)
    assert headings(COMMAND, "##") == commands
    for command in commands:
        options = set(re.findall(r"--[a-z-]+", usage(capsys, command)))
        assert [name for name in options if not re.search(rf"`[^`\n]*{name}", read(COMMAND))] == []


def test_moves_table(tmp_path: Path) -> None:
    """Each kind of entry moves the pool and the day as the design's table says."""
    says: dict[str, list[str]] = {}
    for kinds, *cells in table(DESIGN, "entry"):
        says.update(dict.fromkeys(re.findall(r"`(\w+)`", kinds), cells))
    assert list(says) == list(Kind)
    entries = one_of_each(tmp_path / "ledger.db")
    assert {entry.kind for entry in entries} == set(Kind)
    drawn = {e.key: e.absorb_sats for e in entries if e.kind in (Kind.RESERVE, Kind.GRANT)}
    for entry in entries:
        figures = {"a": drawn.get(entry.key, entry.balance_change), "x": entry.absorb_sats}
        moved = [entry.balance_change, entry.reserved_change, entry.used_change]
        formulas = [cell.replace("\N{MINUS SIGN}", "-") for cell in says[entry.kind]]
        assert moved == [eval(formula, figures) for formula in formulas], entry.kind


def test_invariants_table() -> None:
    """The design numbers the invariants as `verify` does, in its words."""
    rows = {int(row[0]): row[1] for row in table(DESIGN, "no.")}
    assert {number: rows[number] for number in audit.INVARIANTS} == audit.INVARIANTS


def missing_tests(page: Path) -> list[str]:
    """The tests that a page names, and that are not there."""
    contract = ROOT / "src" / "freetier" / "testing" / "contract.py"
    named = set(re.findall(r"`(\w+\.py)::(test_\w+)`", read(page)))
    files = {
        file: contract if file == contract.name else ROOT / "tests" / file for file, _ in named
    }
    return [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"def {name}\(", read(files[file]))
    ]


def public_members(module: ModuleType) -> set[str]:
    """What a module defines for its users, and the fields and methods of its classes."""
    own = {
        name: value
        for name, value in vars(module).items()
        if re.match(r"[A-Za-z]", name)
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }
    classes = [value for value in own.values() if inspect.isclass(value)]
    return {*own, *(name for of in classes for name in vars(of) if re.match(r"[a-z]", name))}


def test_origin_page() -> None:
    """Every row of the page of the origin names tests, and each of them is there."""
    page = DOCS / "explanation" / "origin.md"
    rows = [row.split("\n\n")[0] for row in re.split(r"^- ", read(page), flags=re.MULTILINE)[1:]]
    assert len(rows) == 13 + 4 + 7 + 5
    assert [row for row in rows if "::test_" not in row] == []
    assert missing_tests(page) == []


def test_invariants_page() -> None:
    """Every invariant and every promise names tests, and each of them is there."""
    page = DOCS / "explanation" / "invariants.md"
    rows = re.split(r"^\d+\. ", read(page), flags=re.MULTILINE)[1:]
    assert len(rows) == 12 + 18
    assert [row for row in rows if "::test_" not in row] == []
    assert missing_tests(page) == []


@pytest.mark.parametrize("name", ["sell-jobs.md", "sell-from-a-session.md"])
def test_pages_of_the_example(name: str) -> None:
    """Each block of a page is a verbatim part of the example."""
    shown = [block for block in blocks(DOCS / "how-to" / name) if block.language == "python"]
    assert shown
    for block in shown:
        assert block.text in read(ROOT / "examples" / "paid_agent" / block.name), block


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def taken(function: object) -> str:
    """A method's parameters without their types."""
    assert callable(function)
    signature = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare[1:]))[1:-1]


def usage(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    return capsys.readouterr().out


def one_of_each(path: Path) -> list[freetier.Entry]:
    """A journal with every kind of entry."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    policy = FreeTierPolicy(budgets={"trusted": 200}, seed_sats=500)
    with freetier.open(path, policy, clock=lambda: now) as ledger:
        ledger.credit("payment", 70)
        ledger.donate("donation", 30)
        ledger.adjust("adjustment", -7, note="a correction")
        ledger.record_grant(Request("granted", "alice", "trusted", 11))
        for name in ("settled", "released", "expired"):
            ledger.reserve(Request(name, "alice", "trusted", 20))
        ledger.settle("settled", 13)
        ledger.release("released")
        now += timedelta(minutes=15)
        ledger.settle("expired", 9)
        return list(ledger.journal())

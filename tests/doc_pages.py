"""The pages of the docs, and their code blocks run as a reader would run them.

What a fence means: ```python runs, in one namespace a page; with a file name after it, it is
saved under that name instead. ```text is what the block before it printed. ```console holds
commands (`$ …`, and `> …` goes on) with what they print. ```sql is a statement of the code, word
for word, under its name. ```sh is what `.ci/run` runs. In output `...` stands for anything.
A page that reads DATABASE_URL from the environment gets a new, empty Postgres database.

`python -m tests.doc_pages` writes into the pages what their blocks print; read the difference.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from attrs import frozen

import freetier
from freetier import _sql, _sql_many, migrations, settings
from tests.postgres_server import database_name, shared

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CI = ROOT / ".ci" / "run"
DATABASE = "DATABASE_URL"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

_FENCED = re.compile(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.*\n(?:> .*\n)*)", re.MULTILINE)
_CREATES = re.compile(r"^((?:CREATE|INSERT|REVOKE)[A-Z ]+\w+)", re.MULTILINE)
_CONSTANT = re.compile(r"[A-Z][A-Z_]*")
_READS = re.compile(r"\b(FROM|VALUES)\b")


@frozen
class Block:
    """A fenced block: where its text starts, what its fence says, what it holds."""

    page: Path
    start: int
    language: str
    name: str
    text: str

    @property
    def above(self) -> list[str]:
        """The lines of the page before its text; the last is its fence."""
        return read(self.page)[: self.start].splitlines()

    @property
    def title(self) -> str:
        """The heading of the third level that it stands under."""
        return [line for line in self.above if line.startswith("### ")][-1].removeprefix("### ")

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{len(self.above)}"


def read(page: Path) -> str:
    return page.read_text("utf-8")


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCED.sub("", read(page))


def headings(page: Path, level: str = "#+") -> list[str]:
    return re.findall(rf"^{level} (.*)$", prose(page), re.MULTILINE)


def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the page's table whose first column is called `first`."""
    head = rf"^\| {re.escape(first)} \|.*\n\|[-| ]*\n"
    found = re.search(rf"{head}((?:\|.*\n)+)", read(page), re.MULTILINE)
    assert found, f"{page.name} has no table of {first!r}"
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in found[1].splitlines()]


def blocks(page: Path) -> list[Block]:
    """The page's blocks, in order."""
    found = _FENCED.finditer(read(page))
    return [Block(page, match.start(3), *match.groups()) for match in found]


def agree(shown: str, real: str) -> bool:
    """Whether a page shows what is real."""
    return bool(re.fullmatch(re.escape(shown).replace(r"\.\.\.", ".*"), real, re.DOTALL))


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Be in a folder and an environment in which the blocks print the same everywhere."""
    patch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        patch.delenv(name)
    patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    patch.setenv("COLUMNS", "100")
    patch.setenv("PYTHONUTF8", "1")
    patch.setenv("PYTHONUNBUFFERED", "1")  # standard output and error in turn, as on a terminal


def play(page: Sequence[Block]) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page; each that shows something, with what it ought to show."""
    with _database(page):
        yield from _play(page)


def _play(page: Sequence[Block]) -> Iterator[tuple[Block, str]]:
    namespace: dict[str, object] = {}
    printed = ""
    for block in page:
        if block.language != "text":
            assert not printed, f"before {block} this is printed, and not shown:\n{printed}"
        match block.language:
            case "python" if block.name:
                Path(block.name).write_text(block.text, "utf-8")
            case "python":
                printed = _printed(block, namespace)
            case "text":
                yield block, printed
                printed = ""
            case "console":
                yield block, _session(block)
            case "sql":
                known = statements("postgres" if "postgres" in block.page.name else "sqlite")
                yield block, known.get(block.title, "no such statement") + "\n"
            case "sh":
                lines = block.text.splitlines(keepends=True)
                yield block, "".join(line for line in lines if line.strip() in read(CI))
            case _:
                raise AssertionError(f"{block}: nothing tests a {block.language!r} block")
    assert not printed, f"at the end this is printed, and not shown:\n{printed}"


@cache
def statements(dialect: str) -> Mapping[str, str]:
    """Every statement that the code can send to SQLite; to Postgres, what else it can; by name."""
    found = _sent_to_sqlite() if dialect == "sqlite" else _constants(_sql_many)
    for text in migrations.statements(dialect):
        creates = _CREATES.search(text.replace('"public".', ""))
        assert creates, text
        found[creates[1]] = text
    return found


def _constants(module: ModuleType) -> dict[str, str]:
    return {
        name: text.strip()
        for name, text in vars(module).items()
        if name not in vars(_sql) or module is _sql
        if _CONSTANT.fullmatch(name) and isinstance(text, str) and _READS.search(text)
    }


def _sent_to_sqlite() -> dict[str, str]:
    found = _constants(_sql)
    package = Path(freetier.__file__).parent
    for module in ("sqlite.py", "_sqlite_own.py", "_sqlite_schema.py", "_sqlite_async.py"):
        for call in ast.walk(ast.parse(read(package / module))):
            if isinstance(call, ast.Call):
                called = ast.unparse(call.func).rpartition(".")[2]
                for argument in call.args if called in ("execute", "_execute", "_rows") else ():
                    if isinstance(argument, ast.Constant):
                        text = str(argument.value)
                        found[text.partition(" WHERE ")[0]] = text
    return found


@contextmanager
def _database(page: Sequence[Block]) -> Iterator[None]:
    """In the environment, where the page asks for it, a database for the page alone."""
    if not any(DATABASE in block.text for block in page if not block.name):
        yield
        return
    with shared() as server, pytest.MonkeyPatch.context() as patch:
        dsn = server.create()
        patch.setenv(DATABASE, dsn)
        try:
            yield
        finally:
            server.drop(database_name(dsn))
            server.drop_role("freetier_app")  # of a page that shows its rights


def _printed(block: Block, namespace: dict[str, object]) -> str:
    # With the page's own line numbers, so that a traceback points there.
    code = compile("\n" * len(block.above) + block.text, str(block.page), "exec")
    with redirect_stdout(StringIO()) as out:
        exec(code, namespace)
    return out.getvalue()


def _session(block: Block) -> str:
    """The commands of a console block, each with what it prints. Each must end with 0."""
    real, *turns = _COMMAND.split(block.text)
    for command, shown in zip(turns[::2], turns[1::2], strict=True):
        done = subprocess.run(
            ["bash", "-c", command.replace("\n> ", "\n")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        code, output = done.returncode, done.stdout
        assert code == 0, f"{block}: {command.strip()} ended with {code}:\n{output}"
        real += f"$ {command}" + (shown if agree(shown, output) else output)
    return real


def _refresh(page: Path) -> None:
    text = read(page)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        enter(Path(folder), patch)
        for block, real in reversed(list(play(blocks(page)))):
            if not agree(block.text, real):
                text = text[: block.start] + real + text[block.start + len(block.text) :]
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    for each in PAGES:
        _refresh(each)

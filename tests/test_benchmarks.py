"""What the benchmarks say follows from what was measured; nothing here is timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as command
from benchmarks import soak
from benchmarks.figure import svg
from benchmarks.measure import (
    TIMES,
    Bound,
    LeftOut,
    Line,
    Outcome,
    Rounds,
    Sample,
    Subjects,
    at_least,
    at_most,
    left_out,
)
from benchmarks.report import as_json, status, table
from benchmarks.run import Run
from benchmarks.trace import read
from freetier import Conflict, Kind, OutcomeUnknown, StoreUnavailable

BOUND = at_most(2)
SVG = "{http://www.w3.org/2000/svg}"


def _told(durations: Sequence[float]) -> Sample:
    """A sample that takes, in turn, as long as it is told."""
    left = iter(durations)
    return lambda: next(left)


def test_the_figure_is_the_median_of_the_rounds_own_ratios() -> None:
    """Not the ratio of medians, nor a mean: a round that was slow for both changes nothing."""
    subjects = Subjects({"ours": _told([9, 2, 30, 8]), "floor": _told([9, 1, 10, 2])})
    line = subjects.measured(3, warm=1).compared("ours / floor", "ours", "floor", BOUND)
    assert line.values == [2, 3, 4]
    assert line.value == 3
    assert line.spread == (2.5, 3.5)


def test_the_rounds_that_warm_up_do_not_count() -> None:
    rounds = Subjects({"ours": _told([5, 5, 1, 1, 1])}).measured(3, warm=2)
    assert [each["ours"] for each in rounds.seconds] == [1, 1, 1]
    assert rounds.us("ours") == 1e6


def test_each_round_begins_with_another_subject() -> None:
    order: list[str] = []

    def noted(name: str) -> Sample:
        def sample() -> float:
            order.append(name)
            return 1.0

        return sample

    Subjects({name: noted(name) for name in "abc"}).measured(3, warm=0)
    assert order == [*"abc", *"bca", *"cab"]


@pytest.mark.parametrize(
    ("bound", "value", "outcome"),
    [
        (at_most(2), 2, Outcome.OK),
        (at_most(2), 2.01, Outcome.MISSED),
        (at_least(8), 8, Outcome.OK),
        (at_least(8), 7.99, Outcome.MISSED),
        (None, 1000, Outcome.SHOWN),
    ],
)
def test_a_line_is_judged_by_its_median(
    bound: Bound | None, value: float, outcome: Outcome
) -> None:
    assert Line("it", [0.001, value, 9999], bound).outcome is outcome


def test_what_is_left_out_says_why_and_reaches_nothing() -> None:
    """Also where only what it is compared with is absent."""

    def absent() -> Sample:
        raise LeftOut("no such peer")

    subjects = Subjects({"ours": _told([1, 1])})
    subjects.add_if_there("peer", absent)
    rounds = subjects.measured(1)
    for of, to in (("peer", "ours"), ("ours", "peer")):
        line = rounds.compared("it", of, to, at_least(0))
        assert (line.value, line.outcome) == (None, Outcome.NOT_MEASURED)
        assert line.note == "no such peer"
        told = table({"one": "One"}, {"one": [line]}, {})
        assert "not measured" in told
        assert "no such peer" in told
        assert "0 ok, 0 missed, 1 not measured" in told
        assert status({"one": [line]}) == 0


def test_json_has_every_round() -> None:
    measured = {"one": [Line("it", [1.0, 3.0, 2.0], BOUND, note="µs"), left_out("that", "why")]}
    told = json.loads(as_json(measured, {"cores": 2}))
    assert told["facts"] == {"cores": 2}
    it, that = told["sections"]["one"]
    assert (it["value"], it["rounds"], it["outcome"]) == (2.0, [1.0, 3.0, 2.0], "ok")
    assert (that["value"], that["rounds"], that["outcome"]) == (None, [], "not measured")


AWKWARD = [
    Line("a < b & \"c\" / 'd'", [0.5], at_least(8)),
    Line("none of them", [0], at_most(0), "modules"),
    Line("far off", [12345.0]),
    left_out("<absent>", "why & wherefore", at_most(2)),
]


@pytest.mark.parametrize("lines", [AWKWARD, AWKWARD[3:], []])
def test_a_figure_is_well_formed(lines: list[Line]) -> None:
    """Whatever its lines are called and came to; each is there by name."""
    root = ElementTree.fromstring(svg("Ours & <theirs>", lines))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert root.tag == f"{SVG}svg"
    assert {"Ours & <theirs>", *(line.name for line in lines)} <= set(texts)


def test_a_bound_is_marked_where_the_bar_would_end() -> None:
    root = ElementTree.fromstring(svg("One", [Line("it", [8.0], at_least(8))]))
    bar = root.findall(f"{SVG}rect")[1]
    mark = next(line for line in root.iter(f"{SVG}line") if "stroke-dasharray" in line.attrib)
    end = float(bar.attrib["x"]) + float(bar.attrib["width"])
    assert end == pytest.approx(float(mark.attrib["x1"]), abs=0.2)


def _run_with(monkeypatch: pytest.MonkeyPatch, line: Line | LeftOut, arguments: list[str]) -> int:
    """The command, with one section alone, which finds this line or is left out as a whole."""

    def lines(_: Run) -> Iterator[Line]:
        if isinstance(line, LeftOut):
            raise line
        yield line

    monkeypatch.setattr(command, "SECTIONS", {"one": SimpleNamespace(TITLE="One", lines=lines)})
    return command.main(arguments)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (Line("it", [1.0], BOUND), 0),
        (Line("it", [3.0], BOUND), 1),
        (Line("it", [3.0]), 0),
        (left_out("it", "why", BOUND), 0),
        (LeftOut("why"), 0),
    ],
)
def test_only_a_missed_line_makes_the_command_fail(
    monkeypatch: pytest.MonkeyPatch, line: Line | LeftOut, expected: int
) -> None:
    assert _run_with(monkeypatch, line, []) == expected


def test_the_command_writes_what_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table, JSON with what it was measured on, and a figure a section."""
    figures, path = tmp_path / "figures", tmp_path / "figures.json"
    arguments = ["one", "--json", str(path), "--svg", str(figures)]
    assert _run_with(monkeypatch, Line("it", [1.0, 1.5], BOUND), arguments) == 0
    assert f"≤ 2 {TIMES}" in capsys.readouterr().out
    told = json.loads(path.read_text("utf-8"))
    assert told["sections"]["one"][0]["value"] == 1.25
    assert told["facts"]["packages"]["attrs"]
    assert told["facts"]["fdatasync_us"] >= 0
    assert [each.name for each in figures.iterdir()] == ["one.svg"]


@pytest.mark.parametrize("arguments", [["no-such-section"], ["--rounds", "1"]])
def test_the_command_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)


def test_the_trace_is_read_in_sats(tmp_path: Path) -> None:
    """A reserve is for the context and the most that may come; what came is settled. Rounded up."""
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n", "utf-8"
    )
    (work,) = read(path)
    assert (work.price_sats, work.actual_sats) == (14, 5)
    path.write_text("TIMESTAMP,Tokens\n1,2\n", "utf-8")
    with pytest.raises(LeftOut, match="columns"):
        read(path)


def test_rounds_say_how_long_each_took() -> None:
    rounds = Rounds([{"ours": 2e-6, "floor": 1e-6}])
    line = rounds.compared("it", "ours", "floor", note="by the way")
    assert line.note == "2 / 1 µs; by the way"


def test_a_conflict_after_an_unknown_outcome_is_a_problem() -> None:
    """The soak reports it, of the same key; any other is passed over, and not acknowledged."""

    def answering(*answers: Exception | None) -> Callable[[], None]:
        left = iter(answers)

        def call() -> None:
            if answer := next(left):
                raise answer

        return call

    passed = [(Kind.RESERVE, answering(None)), (Kind.RELEASE, answering(Conflict("expired")))]
    found = [
        (Kind.RESERVE, answering(OutcomeUnknown("lost"), StoreUnavailable("restarted"), None)),
        (Kind.SETTLE, answering(Conflict("of another"))),
    ]
    at_once = [(Kind.CREDIT, answering(OutcomeUnknown("lost"), Conflict("of another")))]
    told = [
        *soak.events("passed", passed),
        *soak.events("found", found),
        *soak.events("at once", at_once),
    ]
    with StringIO() as complaints:
        seen = soak.Soak("memory:", None, complaints, 0)
    seen.listen([*(f"{json.dumps(event)}\n" for event in told), '["credit", "ki'])
    assert seen.acknowledged == {("reserve", "passed"), ("reserve", "found")}
    assert seen.unknown == 2
    assert seen.problems == [
        "settle 'found' after an unknown outcome: of another",
        "credit 'at once' after an unknown outcome: of another",
    ]

"""What the example service does in the background: nothing twice at once, nothing forgotten."""

from __future__ import annotations

import asyncio

import pytest

from examples.paid_agent.background import Crew, Crowded


def test_what_is_asked_for_meanwhile_is_done_again() -> None:
    """However often it is asked for while it runs, it is done once more, after that."""

    async def main() -> None:
        crew, going, done = Crew(at_once=5), asyncio.Event(), list[str]()

        async def what() -> None:
            done.append("begun")
            await going.wait()
            done.append("ended")

        task = crew.start("x", what)
        await asyncio.sleep(0)
        assert {crew.start("x", what) for _ in range(5)} == {task}
        going.set()
        await task
        assert done == ["begun", "ended"] * 2

    asyncio.run(main())


def test_what_is_asked_for_at_the_last_moment_is_done_again() -> None:
    """As one ends, and before anybody was told, the next is begun, and not lost."""

    async def main() -> None:
        crew, done = Crew(at_once=1), list[int]()
        loop = asyncio.get_running_loop()

        async def what() -> None:
            done.append(len(done))
            if len(done) < 3:
                loop.call_soon(crew.start, "x", what)

        crew.start("x", what)
        while len(done) < 3:
            await asyncio.sleep(0.001)
        await crew.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_so_much_at_once_and_no_more() -> None:
    """So many run at a time, the others wait; and beyond the most, none is taken."""

    async def main() -> None:
        crew, going = Crew(at_once=2, most=5), asyncio.Event()
        running, highest = 0, 0

        async def what() -> None:
            nonlocal running, highest
            running += 1
            highest = max(highest, running)
            await going.wait()
            running -= 1

        tasks = [crew.start(f"{number}", what) for number in range(5)]
        with pytest.raises(Crowded):
            crew.start("one more", what)
        await asyncio.sleep(0.01)
        assert running == 2
        going.set()
        await asyncio.wait(tasks)
        assert (running, highest) == (0, 2)

    asyncio.run(main())


def test_what_breaks_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """What raises is logged by its name, and keeps nobody else."""

    async def main() -> None:
        crew = Crew(at_once=1)

        async def what() -> None:
            raise KeyError("x")

        await crew.start("broken", what)
        await crew.start("broken", what)

    asyncio.run(main())
    assert [record.message for record in caplog.records] == [
        "broken is left for the next round"
    ] * 2

"""What the example service does in the background: nothing twice at once, nothing forgotten."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from examples.paid_agent.background import Backoff, Crew, Crowded
from examples.paid_agent.service import AT_ONCE, Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import Done, TextFacts

from .paid_agent import PATIENCE_S, POLICY, Api, paid_session, served

HOUR = timedelta(hours=1)


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


def test_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not ready is tried at once, then after 1, 2, 4 and 4 seconds; each by itself."""
    now = 100.0
    monkeypatch.setattr("examples.paid_agent.background.time.monotonic", lambda: now)
    backoff = Backoff(1, 4)
    tried: list[float] = []
    for tenth in range(1200, 2400):
        now = tenth / 10
        if backoff.is_due("job"):
            tried.append(now - 120)
        backoff.forget()
        if now == 130:
            assert backoff.is_due("another")
            break
    assert tried == [0, 1, 3, 7]
    now = 140.0
    backoff.forget()
    assert backoff.is_due("another")  # the 4 seconds that were next are long over


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


def test_what_is_served_is_not_resumed(tmp_path: Path) -> None:
    """Requests that callers wait for keep nothing from one that a killed process left behind."""

    class Stuck(TextFacts):
        async def do(self, request: str) -> Done:
            if request == "stuck":
                await asyncio.sleep(3600)
            return await super().do(request)

    async def state(service: Service, request_id: str) -> str | None:
        async with service.store.reading() as books:
            found = await books.find(books.tables.session_requests, request_id)
        return None if found is None else found.state

    async def scenario(api: Api, service: Service) -> None:
        session = await paid_session(api, 1000, None)
        path = f"/api/sessions/{session}/request"
        waiting = [
            asyncio.create_task(api.post(path, {"request": "stuck"})) for _ in range(AT_ONCE)
        ]
        while (await service.sessions.found(session)).open_requests < AT_ONCE:
            await asyncio.sleep(0.01)
        left = await service.sessions._admitted(session, f"{session}:~", "left behind")
        await service.round()
        async with asyncio.timeout(PATIENCE_S):
            while await state(service, left.id) != "complete":
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)

    async def run() -> None:
        settings = Settings(db=f"sqlite:///{tmp_path / 'agent.db'}", policy=POLICY, poll=HOUR)
        async with served(settings, work=Stuck()) as (api, service):
            await scenario(api, service)

    asyncio.run(run())

"""Tasks that come while another's call is under way meet, and are served together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from freetier._gathering_async import Tasks


class Served:
    """Calls that are under way until the test lets them go; what happened, in order."""

    def __init__(self) -> None:
        self.tasks: Tasks[str] = Tasks(self._alone, self._together)
        self.happened: list[str] = []
        self._under_way: asyncio.Future[None] | None = None

    async def ask(self, wanted: str) -> str:
        answer: str = await self.tasks.do(wanted)
        self.happened.append(f"{answer} goes on")
        return answer

    async def _alone(self, wanted: str) -> str:
        await self._until_let_go(wanted)
        return wanted

    async def _together(self, wanted: Sequence[str]) -> Sequence[str]:
        await self._until_let_go(" ".join(wanted))
        return wanted

    async def _until_let_go(self, wanted: str) -> None:
        self.happened.append(f"{wanted} sent")
        self._under_way = asyncio.get_running_loop().create_future()
        await self._under_way

    async def let_go(self, error: BaseException | None = None) -> None:
        """End the call that is under way."""
        assert self._under_way is not None
        if error is None:
            self._under_way.set_result(None)
        else:
            self._under_way.set_exception(error)
        await turns()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def come(served: Served, *wanted: str) -> list[asyncio.Task[str]]:
    asking = [asyncio.create_task(served.ask(each)) for each in wanted]
    await turns()
    return asking


class TestTasks:
    """Where the tasks of one loop meet."""

    def test_the_next_are_sent_before_the_last_go_on(self) -> None:
        """While those who were answered go on, what the next want is under way."""

        async def main() -> list[str]:
            served = Served()
            asking = await come(served, "a")
            asking += await come(served, "b", "c")
            await served.let_go()
            asking += await come(served, "d")
            await served.let_go()
            await served.let_go()
            await asyncio.gather(*asking)
            return served.happened

        assert asyncio.run(main()) == [
            *("a sent", "a goes on", "b c sent"),
            *("d sent", "b goes on", "c goes on", "d goes on"),
        ]

    def test_what_fails_together_is_told_to_each(self) -> None:
        """An error that is nobody's own is raised for each of them, and the next are served."""

        async def main() -> None:
            served = Served()
            (first,) = await come(served, "a")
            both = await come(served, "b", "c")
            await served.let_go()
            (last,) = await come(served, "d")
            await served.let_go(ValueError("broken"))
            for each in both:
                with pytest.raises(ValueError, match="broken"):
                    await each
            await served.let_go()
            assert (await first, await last) == ("a", "d")
            assert not served.tasks.is_at_work

        asyncio.run(main())

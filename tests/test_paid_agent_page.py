"""The page at `/`, looked at in a real browser that runs no scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver.common.by import By

from examples.paid_agent.app import create_app
from examples.paid_agent.settings import Settings
from freetier import FreeTierPolicy

from .browser import browser
from .nostr_signer import pubkey_of
from .paid_agent import ADA, TEXT, Api, on_a_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


def rows(driver: Any, table: str) -> list[list[str]]:
    """What can be seen of a table's body."""
    found = driver.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr")
    assert all(row.is_displayed() for row in found)
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in found]


@pytest.mark.parametrize("width", [1200, 360], ids=["desk", "phone"])
def test_the_page(tmp_path: Path, folder: Path, width: int) -> None:
    """The page shows the pool, its day and the latest grants, on a desk and on a phone."""
    settings = Settings(
        db=f"sqlite:///{tmp_path / 'agent.db'}",
        tiers={pubkey_of(ADA): "elite"},
        policy=FreeTierPolicy(budgets={"new": 0, "elite": 500}, seed_sats=1000),
    )

    async def run(look: Callable[[str], None]) -> None:
        app = create_app(settings)
        async with (
            on_a_port(app) as url,
            httpx.AsyncClient(base_url=url, trust_env=False) as client,
        ):
            await Api(client, settings.url).job(ADA)
            await Api(client, settings.url).until("/api/pool", "reserved_sats", 0)
            await asyncio.to_thread(look, url)

    def look(url: str) -> None:
        with browser(folder, width=width, height=900) as driver:
            driver.get(url)
            assert driver.title == "Paid agent: the pool"
            pool = dict(rows(driver, "pool"))
            spent = 1000 - int(pool["balance"].replace(",", ""))
            assert 0 < spent <= 13
            assert (pool["absorbed today"], pool["of it promised"]) == (str(spent), "0")
            assert rows(driver, "budgets") == [["new", "0"], ["elite", "500"]]
            ((at, tier, price, absorbed),) = rows(driver, "grants")
            assert (len(at), tier, price, absorbed) == (19, "elite", "13", "13")
            source = driver.page_source
            assert "<script" not in source
            assert pubkey_of(ADA) not in source
            assert TEXT[:20] not in source
            for part in driver.find_elements(By.CSS_SELECTOR, "h1, h2, p, table"):
                assert 0 <= part.rect["x"] < part.rect["x"] + part.rect["width"] <= width

    asyncio.run(run(look))

"""The example's own OpenAPI document, tried out: no server error, and nothing it does not say."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from examples.paid_agent.app import create_app
from examples.paid_agent.settings import Settings

from .paid_agent import on_a_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


# 402 is what a good request may get here: the balance does not reach, the deposit is due.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "402", "403", "404", "409", "429", "5xx"]
"""


def test_the_document_is_right(tmp_path: Path) -> None:
    """Requests made from the document, good and bad ones, are answered as it says, never by 5xx."""
    app = create_app(Settings(db=f"sqlite:///{tmp_path / 'agent.db'}"))

    (tmp_path / "schemathesis.toml").write_text(SETTINGS)

    async def run() -> tuple[int | None, str]:
        async with on_a_port(app) as url:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("schemathesis")),
                *("run", f"{url}/openapi.json", "--checks", "all", "--max-examples", "60"),
                "--no-color",
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
            return process.returncode, output.decode()

    code, output = asyncio.run(run())
    if code != 0:
        pytest.fail(output, pytrace=False)
    assert "Selected: 10/10" in output
    assert "Unresolvable" not in output

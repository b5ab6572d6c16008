"""How the example is started: by one command, with settings that are read strictly."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from examples.paid_agent.settings import Settings, from_env
from freetier import ConfigError

from .nostr_signer import pubkey_of
from .paid_agent import ADA, BOB, PATIENCE_S, TEXT, paid_session, served
from .paid_agent_work import Endless

ROOT = Path(__file__).parent.parent
README = ROOT / "examples" / "paid_agent" / "README.md"


def test_one_command_starts_it(tmp_path: Path) -> None:
    """`python -m examples.paid_agent` serves the page and the API, and ends when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    own = {"PAID_AGENT_DB": f"sqlite:///{tmp_path / 'agent.db'}", "PAID_AGENT_URL": url}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "examples.paid_agent"],
            cwd=ROOT,
            env={**os.environ, **own},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + PATIENCE_S
            with httpx.Client(base_url=url, trust_env=False) as client:
                while True:
                    try:
                        page = client.get("/")
                        break
                    except httpx.TransportError:
                        assert process.poll() is None, (tmp_path / "log").read_text()
                        assert time.monotonic() < deadline
                        time.sleep(0.05)
                assert "The generosity pool" in page.text
                assert client.get("/api/pool").json()["balance_sats"] == 10_000
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)


def test_a_stop_breaks_off_with_an_answer(tmp_path: Path) -> None:
    """Who waits for an answer when the service is stopped is told to ask again: 503."""
    settings = Settings(db=f"sqlite:///{tmp_path / 'agent.db'}")

    async def scenario() -> None:
        async with served(settings, work=Endless()) as (api, service):
            session = await paid_session(api, 100, None)
            path = f"/api/sessions/{session}/request"
            waits = asyncio.create_task(api.post(path, {"request": TEXT}))
            while (await service.sessions.found(session)).open_requests == 0:
                await asyncio.sleep(0.01)
            waits.cancel()
            answer = await waits
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert answer.json()["detail"].startswith("The service is stopping")

    asyncio.run(scenario())


def test_without_a_variable_the_defaults_stand() -> None:
    """An empty environment gives settings that run without any node."""
    assert from_env({}) == Settings()


def test_every_variable_is_read() -> None:
    """Each variable of the README sets what it says, in the unit that it says."""
    environ = {
        "PAID_AGENT_DB": "postgresql:///agent",
        "PAID_AGENT_URL": "https://agent.example/",
        "PAID_AGENT_LNBITS_URL": "https://lnbits.example/",
        "PAID_AGENT_LNBITS_KEY": "secret",
        "PAID_AGENT_TIERS": f"{pubkey_of(ADA)}=elite,{pubkey_of(BOB)}=trusted",
        "PAID_AGENT_TIER_OF_OTHERS": "established",
        "PAID_AGENT_EVAL_SATS": "3",
        "PAID_AGENT_INVOICE_TTL": "60",
        "PAID_AGENT_WORK_TIME": "30",
        "PAID_AGENT_POLL": "0.5",
        "PAID_AGENT_INPUT_USD_PER_MILLION": "1.5",
        "PAID_AGENT_OUTPUT_USD_PER_MILLION": "2",
        "PAID_AGENT_MARGIN_PCT": "10",
        "PAID_AGENT_BTC_USD": "90000",
        "PAID_AGENT_PLAIN_ADDRESSES": "true",
        "FREETIER_POOL_SEED_SATS": "500",
    }
    named = set(re.findall(r"`(PAID_AGENT_\w+)`", README.read_text("utf-8")))
    assert named == {name for name in environ if name.startswith("PAID_AGENT_")}
    settings = from_env(environ)
    assert (settings.url, settings.lnbits_url) == (
        "https://agent.example",
        "https://lnbits.example",
    )
    assert settings.tier_of(pubkey_of(ADA)) == "elite"
    assert (settings.tier_of("c" * 64), settings.tier_of(None)) == ("established", "new")
    assert settings.grant_ttl == timedelta(seconds=90)
    assert settings.rates().margin_pct == Decimal(10)
    assert settings.policy.seed_sats == 500
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PAID_AGENT_EVAL_SATS", "1k"),
        ("PAID_AGENT_EVAL_SATS", "-1"),
        ("PAID_AGENT_POLL", "soon"),
        ("PAID_AGENT_POLL", "nan"),
        ("PAID_AGENT_INVOICE_TTL", "0"),
        ("PAID_AGENT_BTC_USD", "much"),
        ("PAID_AGENT_BTC_USD", "0"),
        ("PAID_AGENT_MARGIN_PCT", "NaN"),
        ("PAID_AGENT_TIERS", "elite"),
        ("PAID_AGENT_TIERS", "not-a-key=elite"),
        ("PAID_AGENT_TIERS", f"{'79be' * 16}=nobody"),
        ("PAID_AGENT_TIER_OF_OTHERS", "nobody"),
        ("PAID_AGENT_PLAIN_ADDRESSES", "yes"),
        ("PAID_AGENT_DB", "mysql://host/db"),
        ("PAID_AGENT_URL", "agent.example"),
        ("PAID_AGENT_LNBITS_URL", "https://lnbits.example"),
        ("PAID_AGENT_LNBITS_KEY", "secret"),
        ("PAID_AGENT_EVAL_SAT", "3"),
        ("FREETIER_POOL_SEED_SATS", "1k"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(name: str, text: str) -> None:
    """A setting that cannot work is a ConfigError that names it, before anything is opened."""
    with pytest.raises(ConfigError) as caught:
        from_env({name: text})
    assert name in str(caught.value)

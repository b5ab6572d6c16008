"""A real LNbits on loopback with one extension, on SQLite or Postgres, and a pretended Lightning.

LNbits is installed once, into a venv of its own, in the folder that `FREETIER_TEST_LNBITS_VENV`
names or in the user's cache. freetier is not installed there but read from this checkout. What
LNbits writes is in a folder of the test's, and it ends when the test does, however the test ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from attrs import field, frozen

VERSION = "1.6.2"
# bitstring 5 lacks what LNbits' bolt11 needs of it; attrs is what freetier needs.
REQUIREMENTS = (f"lnbits=={VERSION}", "bitstring<5", "attrs>=23.2")
GIVEN_FOLDER = "FREETIER_TEST_LNBITS_VENV"
SOURCE = Path(__file__).parent.parent / "src"
PATIENCE_S = 60

_NOWHERE = "http://127.0.0.1:9"
_SETTINGS = {
    "HTTP_PROXY": _NOWHERE,
    "HTTPS_PROXY": _NOWHERE,
    "ALL_PROXY": _NOWHERE,
    "LNBITS_CALLBACK_ALLOW_PRIVATE_IPS": "true",
    "LNBITS_CALLBACK_URL_RULES": r'["http://127\\.0\\.0\\.1:[0-9]+"]',
    "LNBITS_BACKEND_WALLET_CLASS": "FakeWallet",
    "LNBITS_ADMIN_UI": "true",
    "LNBITS_ALLOW_NEW_ACCOUNTS": "true",
    "LNBITS_RATE_LIMIT_NO": "100000",
    "LNBITS_EXTENSIONS_MANIFESTS": "",
    "LNBITS_WASM_EXTENSIONS_MANIFESTS": "",
    "LNBITS_EXTENSIONS_DEFAULT_INSTALL": "",
    "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
    "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
    "AUTH_HTTPS_ONLY": "false",
    "ENABLE_LOG_TO_FILE": "false",
}
# uvicorn itself, not the `lnbits` command: that forks a child which outlives a killed parent.
_SERVE = """
import os, sys, threading
from uvicorn.main import main

def end_with_the_tests():
    sys.stdin.read()
    os._exit(1)

threading.Thread(target=end_with_the_tests, daemon=True).start()
main(["lnbits.__main__:app", "--fd", sys.argv[1]])
"""
_opener = build_opener(ProxyHandler({}))  # loopback, whatever proxies the environment names


@frozen
class Wallet:
    """A wallet of a user of its own, and the key that may do everything with it."""

    id: str
    adminkey: str = field(repr=False)


@frozen
class LNbits:
    """A running LNbits. The super user is its operator; the caller, a user, has 100,000 sats."""

    base_url: str
    operator: Wallet
    caller: Wallet

    def call(self, wallet: Wallet, method: str, path: str, body: object = None) -> Any:
        """The JSON that LNbits answers to the wallet's key. Raises `HTTPError` from 400 on."""
        return _call(self.base_url + path, method, body, {"X-Api-Key": wallet.adminkey})

    def pay(self, bolt11: str) -> None:
        """Pay an invoice from the caller's wallet."""
        self.call(self.caller, "POST", "/api/v1/payments", {"out": True, "bolt11": bolt11})


@frozen
class Host:
    """Where an LNbits runs: its Python, the folder that it writes in, its one extension."""

    python: Path
    folder: Path
    extension: str
    environment: Mapping[str, str] = field(repr=False)

    def run(self, script: str) -> str:
        """What a script prints that runs as the extension's own code does, without a server."""
        return _output([str(self.python), "-c", script], self.folder, self.environment)

    @contextmanager
    def serve(self) -> Iterator[LNbits]:
        """LNbits, ready, on a free port. Raises `RuntimeError` with its log if it does not start.

        The socket listens before LNbits does: nobody else can take the port, and the first
        request waits until LNbits is ready, or fails when it died.
        """
        log = self.folder / "lnbits.log"
        with socket.create_server(("127.0.0.1", 0)) as listening, log.open("w") as output:
            port = listening.getsockname()[1]
            descriptor = listening.fileno()
            process = subprocess.Popen(
                [self.python, "-c", _SERVE, str(descriptor)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[descriptor],
            )
        with process:  # at its end the pipe is closed: then even one that hangs goes
            try:
                yield _with_wallets(f"http://127.0.0.1:{port}", log, self.extension)
            finally:
                process.terminate()
                process.wait(PATIENCE_S)


def host(folder: Path, extension: Path, name: str, database_url: str | None = None) -> Host:
    """A host in an empty folder. Its extension is a copy, under `name`, for the operator alone.

    Without `database_url` (of Postgres, `postgres://…`) it has SQLite files.
    """
    python = installed()
    made = Host(
        python,
        folder,
        name,
        _SETTINGS
        | {
            "PATH": os.defpath,
            "PYTHONPATH": f"{SOURCE}:{folder / 'ext' / 'extensions'}",
            "LNBITS_DATA_FOLDER": str(folder / "data"),
            "LNBITS_EXTENSIONS_PATH": str(folder / "ext"),
            "LNBITS_ADMIN_EXTENSIONS": name,
        }
        | ({"LNBITS_DATABASE_URL": database_url} if database_url else {}),
    )
    copytree(extension, folder / "ext" / "extensions" / name)
    (folder / "data").mkdir()
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    (folder / "lnbits").symlink_to(packages / "lnbits")  # where LNbits seeks its static files
    return made


def installed() -> Path:
    """The Python of the venv that has LNbits. The first call installs it: about a minute.

    Raises `RuntimeError`, with what was said, when it cannot be installed; Python 3.13 is too new.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parent = Path(os.environ.get(GIVEN_FOLDER) or Path(cache) / "freetier").absolute()
    venv = parent / f"lnbits-{VERSION}-python{sys.version_info[0]}.{sys.version_info[1]}"
    python = venv / "bin" / "python"
    receipt = venv / "freetier.txt"
    wanted = "\n".join((sys.version, *REQUIREMENTS))
    parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(f"{venv.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one installs, the others wait for it
        if not receipt.exists() or receipt.read_text() != wanted:
            _output([sys.executable, "-m", "venv", "--clear", str(venv)])
            _output([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS])
            receipt.write_text(wanted)
    return python


def _output(
    command: list[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=env)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def _with_wallets(base_url: str, log: Path, extension: str) -> LNbits:
    """A fresh LNbits wants a super user first; only that one can put sats into a wallet."""
    password = secrets.token_hex(16)
    body = {"username": "admin", "password": password, "password_repeat": password}
    try:
        admin = _call(f"{base_url}/api/v1/auth/first_install", "PUT", body, {})
    except OSError as error:
        raise RuntimeError(f"LNbits did not start:\n{log.read_text()}") from error
    token = {"Authorization": f"Bearer {admin['access_token']}"}
    _call(f"{base_url}/api/v1/extension/{extension}/enable", "PUT", None, token)
    (operator,) = _call(f"{base_url}/api/v1/wallets", "GET", None, token)
    caller = _call(f"{base_url}/api/v1/account", "POST", {"name": "caller"}, {})
    funds = {"id": caller["id"], "amount": 100_000}
    _call(f"{base_url}/users/api/v1/balance", "PUT", funds, token)
    operators, callers = (Wallet(made["id"], made["adminkey"]) for made in (operator, caller))
    return LNbits(base_url, operators, callers)


def _call(url: str, method: str, body: object, headers: Mapping[str, str]) -> Any:
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = Request(url, content, headers, method=method)
    try:
        with _opener.open(request, timeout=PATIENCE_S) as response:
            return json.load(response)
    except HTTPError as error:
        with error:
            error.add_note(error.read().decode())
        raise

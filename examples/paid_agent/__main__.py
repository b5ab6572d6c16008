"""`python -m examples.paid_agent`: the service on a port of this machine."""

from __future__ import annotations

from urllib.parse import urlsplit

import uvicorn

from .app import create_app
from .settings import from_env

STOPPING_S = 5
"""How long an answer may take once the service is to stop; what is broken off goes on later."""


def main() -> None:
    """Serve where `PAID_AGENT_URL` says that callers find it."""
    settings = from_env()
    port = urlsplit(settings.url).port or 8080
    uvicorn.run(
        create_app(settings),
        host="127.0.0.1",
        port=port,
        timeout_graceful_shutdown=STOPPING_S,
    )


if __name__ == "__main__":
    main()

"""A body that is too long is refused before it is read; a stop breaks off with an answer."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freetier.http import plain_problem
from freetier.starlette import to_response


class BodyLimit:
    """ASGI middleware that answers 413, whether or not a length was announced."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._most_bytes:
            too_long = plain_problem(413, "The body is too long.", instance=scope["path"])
            await to_response(too_long)(scope, receive, send)
            return
        left = self._most_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "The body is too long.")
            return message

        await self._app(scope, counted, send)


class Stopping:
    """ASGI middleware that answers 503 for what the server breaks off as it stops."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and answer if nothing was answered yet."""
        answered = False

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] != "http" or answered:
                raise
            detail = "The service is stopping: ask again by the id that you gave."
            broken_off = plain_problem(
                503, detail, instance=scope["path"], headers={"Retry-After": "5"}
            )
            await to_response(broken_off)(scope, receive, send)

"""Lightning addresses (LUD-16): an invoice of somebody who is named like a mailbox."""

from __future__ import annotations

import re
from typing import Any

import httpx

from .lightning import NodeError

_ADDRESS = re.compile(r"([a-z0-9._+-]{1,64})@([a-z0-9.-]{1,253}(?::[0-9]{1,5})?)")
_MOST_BYTES = 65_536


async def invoice_of_address(address: str, sats: int, *, plain: bool = False) -> str:
    """A BOLT11 invoice over so many sats of the address' owner. Raises `NodeError`.

    The address is the caller's word, and makes this service send two requests: only over https,
    without following redirects, unless `plain` (for tests on loopback).
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise NodeError(f"{address!r} is no Lightning address")
    scheme = "http" if plain else "https"
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        offer = await _get(http, f"{scheme}://{parts[2]}/.well-known/lnurlp/{parts[1]}")
        least, most = offer.get("minSendable"), offer.get("maxSendable")
        callback = str(offer.get("callback"))
        if not (isinstance(least, int) and isinstance(most, int) and least <= sats * 1000 <= most):
            raise NodeError(f"{address} does not take {sats} sats")
        if not callback.startswith(f"{scheme}://"):
            raise NodeError(f"{address} has no {scheme} callback")
        answer = await _get(http, str(httpx.URL(callback).copy_add_param("amount", sats * 1000)))
    return str(answer.get("pr"))


async def _get(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        async with http.stream("GET", url) as response:
            response.raise_for_status()
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise NodeError(f"{url} says too much")
        answer = httpx.Response(200, content=content).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NodeError(f"{url} does not answer: {type(error).__name__}") from error
    if not isinstance(answer, dict) or answer.get("status") == "ERROR":
        raise NodeError(f"{url} says no")
    return answer

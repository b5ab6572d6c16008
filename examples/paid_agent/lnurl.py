"""Lightning addresses (LUD-16): an invoice of somebody who is named like a mailbox."""

from __future__ import annotations

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import httpx

from .lightning import NodeError

_ADDRESS = re.compile(r"([a-z0-9._+-]{1,64})@([a-z0-9.-]{1,253}(?::[0-9]{1,5})?)")
_MOST_BYTES = 65_536
_PATIENCE_S = 10
"""For all of it, however slowly somebody answers."""
Address = IPv4Address | IPv6Address


async def invoice_of_address(address: str, sats: int, *, plain: bool = False) -> str:
    """A BOLT11 invoice over so many sats of the address' owner. Raises `NodeError`.

    The address is the caller's word, and makes this service send two requests: only by https, to
    a public host's own port, without following redirects; unless `plain` (for tests on loopback).
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise NodeError(f"{address!r} is no Lightning address")
    scheme = "http" if plain else "https"
    try:
        async with (
            asyncio.timeout(_PATIENCE_S),
            httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as http,
        ):
            offer = await _get(http, f"{scheme}://{parts[2]}/.well-known/lnurlp/{parts[1]}", scheme)
            least, most = offer.get("minSendable"), offer.get("maxSendable")
            if not (type(least) is type(most) is int and least <= sats * 1000 <= most):
                raise NodeError(f"{address} does not take {sats} sats")
            callback = httpx.URL(str(offer.get("callback")))
            answer = await _get(http, callback.copy_add_param("amount", sats * 1000), scheme)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError, OSError) as error:
        raise NodeError(f"{address} does not answer: {type(error).__name__}") from error
    return str(answer.get("pr"))


async def _get(http: httpx.AsyncClient, url: httpx.URL | str, scheme: str) -> dict[str, Any]:
    asked = httpx.URL(url)
    if asked.scheme != scheme:
        raise NodeError(f"{asked} is not {scheme}")
    to, options = (await _public(asked)) if scheme == "https" else (asked, {})
    async with http.stream("GET", to, **options) as response:
        response.raise_for_status()
        content = b""
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > _MOST_BYTES:
                raise NodeError(f"{asked} says too much")
    answer = httpx.Response(200, content=content).json()
    if not isinstance(answer, dict) or answer.get("status") == "ERROR":
        raise NodeError(f"{asked} says no")
    return answer


async def _public(url: httpx.URL) -> tuple[httpx.URL, dict[str, Any]]:
    """The URL by the number of its host, and what still names the host: nobody resolves it again.

    Raises `NodeError` unless every number that the host has is one of the public internet.
    """
    if url.port is not None or url.userinfo:
        raise NodeError(f"{url} names a port or a user")
    found = await asyncio.get_running_loop().getaddrinfo(url.host, 443, type=socket.SOCK_STREAM)
    numbers = [ip_address(address[0]) for *_, address in found]
    if not all(_is_public(number) for number in numbers):
        raise NodeError(f"{url.host} is not on the public internet")
    by_number = url.copy_with(host=str(numbers[0]))
    return by_number, {"headers": {"Host": url.host}, "extensions": {"sni_hostname": url.host}}


def _is_public(number: Address) -> bool:
    inner = getattr(number, "ipv4_mapped", None) or getattr(number, "sixtofour", None) or number
    return number.is_global and not number.is_multicast and bool(inner.is_global)

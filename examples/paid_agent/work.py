"""The work that is sold: pluggable. By default, the facts of a text, which need no model."""

from __future__ import annotations

import re
from collections import Counter
from typing import Protocol

from attrs import frozen

LONGEST = 20_000
MOST_WORDS = 5_000
NOT_SOLD = "it cannot be sold to you now"
LONGEST_MESSAGE = 1_000


class WorkFailed(Exception):
    """The work could not be done; its message is for the caller."""


class Refused(Exception):
    """The request is not of the kind that is done; its message is for the caller."""


@frozen
class Verdict:
    """What an evaluation says: why not (`refused`), or how many tokens the work may take."""

    refused: str | None
    input_tokens: int
    output_tokens: int


@frozen
class Done:
    """What the work gave, and how many tokens it took."""

    result: str
    input_tokens: int
    output_tokens: int


class Work(Protocol):
    """Each may be called again for the same request: a service that was killed does."""

    def expect(self, request: str) -> Verdict:
        """May it be done, and what will it take at most? Quick: an estimate asks this too."""

    async def do(self, request: str) -> Done:
        """Do it. Raises `WorkFailed`."""


def expected(work: Work, request: str) -> Verdict:
    """What the work takes at most. Raises `Refused`."""
    verdict = work.expect(request)
    if verdict.refused is not None:
        raise Refused(told(verdict.refused, "it is not the kind of work that is done here"))
    return verdict


def told(message: str, otherwise: str) -> str:
    """`message` as every database keeps it, and not too long; `otherwise` if it is empty."""
    text = message.encode("utf-8", "replace").decode().replace("\0", "").strip()
    return text[:LONGEST_MESSAGE] or otherwise


class TextFacts:
    """Counts what a text has, and names its most frequent words. A token is about a word."""

    def expect(self, request: str) -> Verdict:
        """See `Work.expect`."""
        words = _words(request)
        if len(words) > MOST_WORDS:
            return Verdict(f"it has more than {MOST_WORDS} words", 0, 0)
        return Verdict(None, len(words), 40)

    async def do(self, request: str) -> Done:
        """See `Work.do`."""
        words = _words(request)
        sentences = len(re.findall(r"[.!?](?:\s|$)", request)) or 1
        frequent = Counter(word.lower() for word in words if len(word) > 3).most_common(5)
        named = ", ".join(f"{word} ({times})" for word, times in frequent) or "none"
        result = f"{len(words)} words, {sentences} sentences. Most frequent long words: {named}."
        # By spaces: a word that is made lower case may fall apart into many of `_words`.
        return Done(result, len(words), len(result.split()))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)

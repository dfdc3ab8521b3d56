"""Prompt Shields of Azure AI Content Safety, over REST.

Limits and wire: "Prompt Shields" in the documentation of Azure AI Content Safety, API version 2024-09-01: a
question of at most 10,000 characters, up to five documents of 10,000 characters together.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from shared.inferencing.faults import DeploymentFault
from shared.inferencing.wire import HttpWire, Wire

log = logging.getLogger("groundwork.screening")

API_VERSION = "2024-09-01"
CHARACTERS_MAX = 10_000
DOCUMENTS_MAX = 5
CONNECT_SECONDS = 3.0
# It answers within about a tenth of a second; longer is not worth an answer's first word.
CALL_SECONDS = 3.0

Headers = Callable[[], Awaitable[Mapping[str, str]]]


class PromptShields:
    """The service at ``endpoint``; ``headers`` authorise a call.

    Where it cannot be reached or does not answer in time, nothing counts as an attack here: the app's own
    classifier has judged the same texts, and an outage of this service is none of the app.
    """

    def __init__(self, endpoint: str, headers: Headers, wire: Wire | None = None) -> None:
        self._url = f"{endpoint.rstrip('/')}/contentsafety/text:shieldPrompt?api-version={API_VERSION}"
        self._headers = headers
        self._wire = wire or HttpWire()

    async def attacks(self, question: str, documents: Sequence[str]) -> tuple[bool, list[bool]]:
        """Whether the question, and each of the documents, is an attack; long texts are judged in parts."""
        parts = _parts(documents)
        asked = _cut(question) or [""]
        calls = _calls(asked, parts)
        found = await asyncio.gather(*(self._shield(*call) for call in calls))
        by_document = [False] * len(documents)
        owners = iter(owner for owner, _ in parts)
        for (_, sent), (_, verdicts) in zip(calls, found, strict=True):
            for verdict, owner in zip(verdicts, [next(owners) for _ in sent], strict=True):
                by_document[owner] |= verdict
        return any(attack for attack, _ in found), by_document

    async def _shield(self, question: str, documents: Sequence[str]) -> tuple[bool, list[bool]]:
        none = False, [False] * len(documents)
        body = json.dumps({"userPrompt": question, "documents": list(documents)}).encode()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                headers = {"Content-Type": "application/json", **await self._headers()}
                response = await self._wire.post(self._url, headers, body, CONNECT_SECONDS)
                try:
                    if response.status != 200:
                        log.warning("prompt_shields_failed status=%d", response.status)
                        return none
                    return _verdicts(json.loads(await response.read()), len(documents))
                finally:
                    response.close()
        except (TimeoutError, DeploymentFault, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("prompt_shields_failed error=%s", type(error).__name__)
            return none


def _verdicts(answer: Mapping[str, Any], documents: int) -> tuple[bool, list[bool]]:
    by_document = [bool(each["attackDetected"]) for each in answer.get("documentsAnalysis") or ()]
    if len(by_document) != documents:
        raise ValueError("another number of documents")
    return bool(answer["userPromptAnalysis"]["attackDetected"]), by_document


def _cut(text: str) -> list[str]:
    return [text[start : start + CHARACTERS_MAX] for start in range(0, len(text), CHARACTERS_MAX)]


def _parts(documents: Sequence[str]) -> list[tuple[int, str]]:
    """Each document's number with each of its parts, which fit a call."""
    return [(number, part) for number, text in enumerate(documents) for part in _cut(text) or [""]]


def _calls(asked: Sequence[str], parts: Sequence[tuple[int, str]]) -> list[tuple[str, list[str]]]:
    """What goes into each call: the first ones carry the question as well."""
    groups: list[list[str]] = []
    room = 0
    for _, part in parts:
        if not groups or len(groups[-1]) == DOCUMENTS_MAX or len(part) > room:
            groups.append([])
            room = CHARACTERS_MAX
        groups[-1].append(part)
        room -= len(part)
    number = max(len(groups), len(asked))
    return [(asked[i] if i < len(asked) else "", groups[i] if i < len(groups) else []) for i in range(number)]

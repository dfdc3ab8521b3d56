"""Short documents are read together: the way to a worker and back costs more than to read one.

Whatever befalls the worker meanwhile, a document that is too slow or too large with the others included, is
nobody's fault yet: each document of the group is read again alone, and told apart then.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from shared.errors import Cancelled
from shared.knowledge.media import Media

log = logging.getLogger(__name__)

SHORT_BYTES = 16 * 1024
# Those whose readers cannot be made to work much longer than their size tells.
SHORT_MEDIA = frozenset({Media.MARKDOWN, Media.TEXT})
# A shard's hundred documents make a group for each of a few workers, twice.
DOCUMENTS_TOGETHER = 25

Request = dict[str, Any]
Answer = tuple[dict[str, Any], bytes]


def is_short(media: Media, content: bytes) -> bool:
    return media in SHORT_MEDIA and len(content) <= SHORT_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: Request
    content: bytes
    answer: asyncio.Future[Answer]


class ShortDocuments:
    """Groups the short documents that come in one moment. ``ask`` puts a request to a worker."""

    def __init__(self, ask: Callable[[Request, bytes], Awaitable[Answer]]) -> None:
        self._ask = ask
        self._waiting: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
        self._groups: set[asyncio.Task[None]] = set()

    async def read(self, request: Request, content: bytes) -> Answer:
        """The answer to a request; raises what ``ask`` raises. A group's work ends with its last caller."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(loop, [])
        if not waiting:
            loop.call_soon(self._read_all, loop)
        one = _Waiting(request, content, loop.create_future())
        waiting.append(one)
        return await one.answer

    def _read_all(self, loop: asyncio.AbstractEventLoop) -> None:
        by_budget: dict[str, list[_Waiting]] = {}
        for one in self._waiting.pop(loop):
            by_budget.setdefault(json.dumps(one.request["budget"]), []).append(one)
        for alike in by_budget.values():
            for start in range(0, len(alike), DOCUMENTS_TOGETHER):
                group = alike[start : start + DOCUMENTS_TOGETHER]
                task = loop.create_task(self._read_group(group))
                self._groups.add(task)
                task.add_done_callback(self._groups.discard)
                for one in group:
                    one.answer.add_done_callback(lambda _, task=task, group=group: _give_up(task, group))

    async def _read_group(self, group: list[_Waiting]) -> None:
        if len(group) > 1:
            answers: list[Answer] | None = None
            try:
                answers = told_apart(*await self._ask(*_together(group)))
            except Cancelled as error:
                for one in group:
                    _fail(one, error)
            except Exception:  # alone, each is told what it is
                log.info("short_documents_read_alone", extra={"documents": len(group)})
            if answers is not None:
                for one, answer in zip(group, answers, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(answer)
                return
        await asyncio.gather(*(self._read_alone(one) for one in group if not one.answer.done()))

    async def _read_alone(self, one: _Waiting) -> None:
        reading = asyncio.ensure_future(self._ask(one.request, one.content))
        one.answer.add_done_callback(lambda _: reading.cancel())
        try:
            answer = await reading
        except asyncio.CancelledError:
            one.answer.cancel()
        except Exception as error:  # it belongs to who waits for the document
            _fail(one, error)
        else:
            if not one.answer.done():
                one.answer.set_result(answer)


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)


def _give_up(task: asyncio.Task[None], group: list[_Waiting]) -> None:
    if all(one.answer.cancelled() for one in group):
        task.cancel()


def _together(group: list[_Waiting]) -> tuple[Request, bytes]:
    """One request for all of a group."""
    request = {
        "together": [{**one.request, "bytes": len(one.content)} for one in group],
        "budget": group[0].request["budget"],
        "media": group[0].request["media"],
    }
    return request, b"".join(one.content for one in group)


def told_apart(header: dict[str, Any], payload: bytes) -> list[Answer] | None:
    """The answers of a group, one for each of its documents; None where there is one for all."""
    if "together" not in header:
        return None
    answers: list[Answer] = []
    start = 0
    for each in header["together"]:
        end = start + each.pop("bytes")
        answers.append((each, payload[start:end]))
        start = end
    return answers

"""Warm-up: what the first document and the first question would wait for is loaded before they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import azure.durable_functions as df
from azure.functions.warmup import WarmUpContext  # the package only says that it has it

from functions.services import Services, services

log = logging.getLogger("groundwork.warmup")
blueprint = df.Blueprint()


@blueprint.warm_up_trigger(arg_name="instance")
async def warmup(instance: WarmUpContext) -> None:
    """Load clients, the index and a parser of this instance. What fails is loaded by whoever needs it."""
    parts = await _parts(services())
    results = await asyncio.gather(*parts.values(), return_exceptions=True)
    for part, result in zip(parts, results, strict=True):
        if isinstance(result, BaseException):
            log.warning("warm_up_failed", extra={"part": part, "error": type(result).__name__})


async def _parts(here: Services) -> dict[str, Awaitable[Any]]:
    from shared.jobs import TABLE
    from shared.knowledge.layouts import EMBEDDING_MODEL
    from shared.storage import RAW

    return {
        "blobs": here.storage.get_blob(RAW, "warm-up"),
        "tables": here.storage.get_row(TABLE, "warm-up", "warm-up"),
        "index": _index(here, EMBEDDING_MODEL),
        "parser": _parser(here, EMBEDDING_MODEL),
        "answers": _answers(here),
    }


async def _index(here: Services, model: str) -> None:
    await here.indexes.of(model)


async def _parser(here: Services, model: str) -> None:
    from shared.knowledge.chunking import ChunkBudget
    from shared.knowledge.media import Media

    embedding = here.catalogue.models[model]
    assert embedding.tokenizer is not None
    assert embedding.max_input_tokens is not None
    budget = ChunkBudget(embedding.tokenizer, embedding.max_input_tokens)
    await here.parsers.prepare(b"A first text.", Media.TEXT, name="first.txt", budget=budget)


async def _answers(here: Services) -> None:
    _ = here.ingestion, here.answers

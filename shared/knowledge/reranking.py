"""Re-ranking: the first passages of a search in a better order, where the index has no semantic ranker."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.errors import GroundworkError

if TYPE_CHECKING:
    from shared.inferencing import CallContext, Gateway, Usage
    from shared.knowledge.index import IndexedChunk
    from shared.knowledge.retrieval import Passage

log = logging.getLogger("groundwork.reranking")

# Passages that are read for one search: 50 to 60 ms of CPU each with the local model. What stands behind
# them keeps its place.
DEPTH = 20
# Azure AI Search scores from 0 to 4 ("Semantic ranking in Azure AI Search"); so do we.
SCORE_MAX = 4.0


async def reranked(
    gateway: Gateway, query: str, passages: Sequence[Passage], *, call: CallContext
) -> tuple[list[Passage], Usage] | None:
    """``passages`` with the first `DEPTH` in the order of the catalogue's re-ranker, and what it cost.

    None where the catalogue has no re-ranker or it does not answer: the order is then the index's.
    """
    model = gateway.catalogue.reranker()
    if model is None or not passages:
        return None
    first = passages[:DEPTH]
    try:
        ranked = await gateway.rerank(model.name, query, [_read(p.chunk) for p in first], call=call)
    except GroundworkError as error:
        log.warning("rerank_failed", extra={"code": error.code})
        return None
    scored = [
        replace(passage, reranker_score=SCORE_MAX * _share(score))
        for passage, score in zip(first, ranked.scores, strict=True)
    ]
    order = sorted(range(len(scored)), key=lambda place: (-ranked.scores[place], place))
    return [*(scored[place] for place in order), *passages[DEPTH:]], ranked.usage


def _read(chunk: IndexedChunk) -> str:
    above = " > ".join(part for part in (chunk.title, *chunk.headings) if part)
    return f"{above}\n{chunk.text}" if above else chunk.text


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, log_odds))))

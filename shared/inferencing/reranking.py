"""Re-ranking requests and answers, in the form that Cohere, Jina, vLLM and the model host share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.errors import InvalidParameter

# Of one request (Cohere, "Rerank API").
DOCUMENTS_MAX = 1_000


def rerank_body(query: str, documents: Sequence[str]) -> dict[str, Any]:
    """The request. Raises ``InvalidParameter`` where there is nothing to compare, or too much."""
    if not query.strip():
        raise InvalidParameter("The query must not be blank.", parameter="query")
    if not 1 <= len(documents) <= DOCUMENTS_MAX:
        raise InvalidParameter(
            f"{len(documents)} documents were given; 1 to {DOCUMENTS_MAX} are allowed.",
            parameter="documents",
            limit=DOCUMENTS_MAX,
        )
    return {"query": query, "documents": list(documents)}


def scores_reader(number: int) -> Callable[[Mapping[str, Any]], list[float]]:
    """Reads one score for each of ``number`` documents, in the order of the documents.

    What it reads with raises ``ValueError`` where the answer does not hold just these.
    """

    def read(answer: Mapping[str, Any]) -> list[float]:
        found = {result["index"]: float(result["relevance_score"]) for result in answer["results"]}
        if len(answer["results"]) != number or sorted(found) != list(range(number)):
            raise ValueError("the indexes are not those of the documents")
        if not all(map(math.isfinite, found.values())):
            raise ValueError("a score is not a number")
        return [found[index] for index in range(number)]

    return read

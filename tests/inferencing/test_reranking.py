"""Re-ranking through the gateway, and what counts as an answer."""

from typing import Any

import pytest

from shared.errors import InvalidParameter
from shared.inferencing.reranking import DOCUMENTS_MAX, rerank_body, scores_reader

from .test_gateway import CALL, Stack, stack  # noqa: F401


def answer(*results: tuple[int, float]) -> dict[str, Any]:
    return {"results": [{"index": index, "relevance_score": score} for index, score in results]}


def test_scores_are_read_into_the_order_of_the_documents() -> None:
    assert scores_reader(3)(answer((2, 9.5), (0, 1), (1, -4.0))) == [1.0, -4.0, 9.5]


@pytest.mark.parametrize(
    "wrong",
    [
        answer((0, 1.0)),
        answer((0, 1.0), (0, 2.0)),
        answer((0, 1.0), (1, 2.0), (1, 2.0)),
        answer((0, 1.0), (2, 2.0)),
        answer((0, 1.0), (1, float("nan"))),
        answer((0, 1.0), (1, float("inf"))),
    ],
)
def test_an_answer_without_one_finite_score_for_each_document_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"indexes|not a number"):
        scores_reader(2)(wrong)


def test_a_request_holds_a_query_and_1_to_1000_documents() -> None:
    assert len(rerank_body("q", ["d"] * DOCUMENTS_MAX)["documents"]) == DOCUMENTS_MAX
    for query, documents in ((" ", ["d"]), ("q", []), ("q", ["d"] * (DOCUMENTS_MAX + 1))):
        with pytest.raises(InvalidParameter):
            rerank_body(query, documents)


async def test_the_gateway_sends_one_request_and_records_what_it_cost(stack: Stack) -> None:  # noqa: F811
    ranked = await stack.gateway.rerank("rerank", "which?", ["a", "bbb", "cc"], call=CALL)
    assert ranked.scores == [1.0, 3.0, 2.0]
    assert (stack.a.paths, stack.a.requests[0]["model"]) == (["/v1/rerank"], "ranker")
    (record,) = stack.records
    assert (record.kind, record.outcome, record.usage.prompt_tokens) == ("rerank", "ok", 30)


async def test_usage_that_is_not_reported_is_estimated(stack: Stack) -> None:  # noqa: F811
    stack.a.reports_usage = False
    ranked = await stack.gateway.rerank("rerank", "1234", ["1234", "1234"], call=CALL)
    assert (ranked.usage.prompt_tokens, ranked.usage.estimated) == (4, True)


async def test_another_kind_of_model_does_not_rank(stack: Stack) -> None:  # noqa: F811
    with pytest.raises(InvalidParameter):
        await stack.gateway.rerank("embedding", "which?", ["a"], call=CALL)

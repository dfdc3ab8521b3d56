from __future__ import annotations

from typing import Any

import httpx2
import pytest

from modelhost.reranking import MAX_TOKENS, QUERY_MAX_TOKENS, Reranker

QUESTION = "What is the snow load of the large dome?"
ANSWER = "The large dome bears a snow load of 2.5 kN per square metre."
OTHER_FACT = "The large dome weighs 3,200 kg."
OTHER_TOPIC = "Quarterly revenue rose by three percent."


@pytest.fixture(scope="module")
def reranker():
    loaded = Reranker(threads=1)
    yield loaded
    loaded.close()


def post(http: httpx2.Client, path: str = "/v1/rerank", **body: Any) -> httpx2.Response:
    given = {"model": "minilm-rerank", "query": QUESTION, "documents": [OTHER_TOPIC, ANSWER, OTHER_FACT]}
    return http.post(path, json=given | body)


def test_the_answer_comes_before_another_fact_and_that_before_another_topic(http: httpx2.Client):
    answer = post(http).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 5 > 0 > scores[2]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 30


@pytest.mark.parametrize("path", ["/openai/v1/rerank", "/openai/deployments/minilm-rerank/rerank"])
def test_azures_forms_of_the_path_answer_alike(http: httpx2.Client, path: str):
    assert post(http, path).json()["results"] == post(http).json()["results"]


def test_top_n_limits_the_results_and_one_that_exceeds_the_documents_does_not(http: httpx2.Client):
    assert [result["index"] for result in post(http, top_n=1).json()["results"]] == [1]
    assert len(post(http, top_n=4).json()["results"]) == 3


def test_a_score_does_not_depend_on_what_else_is_asked(reranker: Reranker):
    alone = reranker.scores([(QUESTION, ANSWER)])[0]
    among = reranker.scores([(QUESTION, OTHER_TOPIC * 9), (QUESTION, ANSWER), (OTHER_TOPIC, ANSWER)])[1]
    assert alone == among


def test_long_queries_and_texts_are_cut_at_what_the_model_sees(reranker: Reranker):
    longest = "word " * 600
    (row,) = reranker.encode([(longest, longest)])
    assert len(row) == MAX_TOKENS
    (row,) = reranker.encode([(longest, "")])
    assert len(row) == QUERY_MAX_TOKENS + 3
    (exact,) = reranker.encode([("word", "word " * (MAX_TOKENS - 4))])
    assert len(exact) == MAX_TOKENS


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"query": " "}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents"),
        ({"documents": "text"}, "documents"),
        ({"documents": ["text"] * 1_001}, "documents"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_a_wrong_member_is_a_400_that_names_it(http: httpx2.Client, wrong: dict[str, Any], named: str):
    answer = post(http, **wrong)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, named)


def test_another_model_is_a_404(http: httpx2.Client):
    answer = post(http, model="minilm")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")

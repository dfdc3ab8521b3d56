from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx2
import numpy as np
import pytest
from model_host_process import API_KEY, ModelHost
from openai import AsyncOpenAI, AzureOpenAI, BadRequestError, NotFoundError, OpenAI

from modelhost.embeddings import MAX_TOKENS

CAT = "The cat is asleep on the sofa."
KITTEN = "A kitten naps on the couch."
REVENUE = "Quarterly revenue rose by three percent."
# "word" is one word piece; the model adds two of its own.
LONGEST = "word " * (MAX_TOKENS - 2)


def vectors(client: OpenAI | AzureOpenAI, texts: Any, **options: Any) -> np.ndarray[Any, Any]:
    answer = client.embeddings.create(model="minilm", input=texts, **options)
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def post(http: httpx2.Client, **body: Any) -> httpx2.Response:
    return http.post("/v1/embeddings", json={"model": "minilm", **body})


def test_related_texts_are_closer_than_unrelated_ones(client: OpenAI):
    cat, kitten, revenue = vectors(client, [CAT, KITTEN, REVENUE])
    assert cat @ kitten > 0.5 > 0.2 > cat @ revenue


def test_vectors_have_384_dimensions_and_unit_length(client: OpenAI):
    result = vectors(client, [CAT, LONGEST])
    assert result.shape == (2, 384)
    assert np.linalg.norm(result, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_float_and_base64_carry_the_same_numbers(http: httpx2.Client):
    as_float = post(http, input=CAT, encoding_format="float").json()["data"][0]["embedding"]
    as_base64 = post(http, input=CAT, encoding_format="base64").json()["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(as_base64), dtype="<f4")
    assert np.array_equal(decoded, np.array(as_float, dtype="<f4"))


def test_float_is_the_default_format_of_the_wire(http: httpx2.Client):
    assert isinstance(post(http, input=CAT).json()["data"][0]["embedding"], list)


def test_a_text_has_the_same_vector_whatever_it_is_batched_with(client: OpenAI):
    others = [f"{KITTEN} " * count for count in range(1, 25)]
    alone = vectors(client, CAT)[0]
    together = vectors(client, [*others, CAT, REVENUE])[len(others)]
    assert alone @ together > 0.99999


def test_every_input_of_a_large_batch_keeps_its_place(client: OpenAI):
    texts = [f"{'very ' * (index % 37)}different text number {index}" for index in range(150)]
    together = vectors(client, texts)
    for index in (0, 36, 37, 74, 149):
        assert vectors(client, texts[index])[0] @ together[index] > 0.9999


def test_token_ids_give_the_vector_of_their_text(client: OpenAI):
    # "hello world" in the vocabulary of MiniLM, without and with the special tokens.
    bare, framed = [7592, 2088], [101, 7592, 2088, 102]
    text = vectors(client, "hello world")[0]
    assert vectors(client, bare)[0] @ text > 0.99999
    one, other = vectors(client, [bare, framed])
    assert one @ text > 0.99999
    assert other @ text > 0.99999


def test_usage_counts_the_word_pieces_with_the_special_ones(client: OpenAI):
    usage = client.embeddings.create(model="minilm", input=["hello world", "hello"]).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (4 + 3, 4 + 3)


def test_an_input_of_exactly_the_limit_is_embedded(client: OpenAI):
    assert client.embeddings.create(model="minilm", input=LONGEST).usage.prompt_tokens == MAX_TOKENS


def test_an_input_one_token_over_the_limit_is_refused_with_its_index_and_count(client: OpenAI):
    with pytest.raises(BadRequestError) as refused:
        vectors(client, [CAT, LONGEST + "word"])
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "input[1]"
    assert "Input 1 has 257 tokens; this model sees at most 256" in refused.value.message


def test_too_many_token_ids_are_refused_like_a_long_text(client: OpenAI):
    assert len(vectors(client, [2088] * (MAX_TOKENS - 2))) == 1
    with pytest.raises(BadRequestError) as refused:
        vectors(client, [2088] * (MAX_TOKENS - 1))
    assert refused.value.code == "context_length_exceeded"


def test_dimensions_are_accepted_only_where_they_are_the_models_own(client: OpenAI):
    assert vectors(client, CAT, dimensions=384).shape == (1, 384)
    with pytest.raises(BadRequestError, match="384 dimensions"):
        vectors(client, CAT, dimensions=256)


def test_azure_paths_take_the_model_from_the_path(azure: AzureOpenAI, client: OpenAI, http: httpx2.Client):
    assert vectors(azure, CAT)[0] @ vectors(client, CAT)[0] > 0.99999
    answer = http.post(
        "/openai/deployments/minilm/embeddings?api-version=2024-10-21", json={"model": None, "input": CAT}
    )
    assert answer.json()["model"] == "minilm"
    assert http.post("/openai/v1/embeddings", json={"model": "minilm", "input": CAT}).status_code == 200


async def test_concurrent_requests_each_get_their_own_vectors(host: ModelHost):
    async with AsyncOpenAI(base_url=f"{host.url}/v1", api_key=API_KEY, max_retries=0) as client:
        texts = [f"topic {index} of the meeting" for index in range(20)]
        single = [client.embeddings.create(model="minilm", input=text) for text in texts]
        whole, *parts = await asyncio.gather(client.embeddings.create(model="minilm", input=texts), *single)
    for expected, part in zip(whole.data, parts, strict=True):
        assert np.dot(expected.embedding, part.data[0].embedding) > 0.9999


def test_an_unknown_model_is_not_found(client: OpenAI):
    for name in ("nonsense", "smollm2"):
        with pytest.raises(NotFoundError) as missing:
            client.embeddings.create(model=name, input=CAT)
        assert missing.value.code == "model_not_found"


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": ""},
        {"input": []},
        {"input": None},
        {"input": 7},
        {"input": ["text", ""]},
        {"input": ["text", 7]},
        {"input": [[7592], []]},
        {"input": [7592, -1]},
        {"input": [7592, 30522]},
        {"input": [7592, True]},
        {"input": {"text": "text"}},
        {"input": ["text"] * 2049},
        {"input": CAT, "encoding_format": "int8"},
        {"input": CAT, "dimensions": -384},
        {"input": CAT, "dimensions": "384"},
        {"input": CAT, "model": None},
        {"input": CAT, "model": 7},
    ],
)
def test_a_wrong_request_is_a_400_in_openais_shape(http: httpx2.Client, wrong: dict[str, Any]):
    answer = post(http, **wrong)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "code", "param"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000, b'{"model":"minilm","input":NaN}']
)
def test_a_body_that_is_no_json_object_is_a_400(http: httpx2.Client, body: bytes):
    answer = http.post("/v1/embeddings", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_a_lone_surrogate_is_a_400(http: httpx2.Client):
    answer = http.post("/v1/embeddings", content=rb'{"model":"minilm","input":"\ud800"}')
    assert answer.status_code == 400


def test_a_body_over_16_mebibytes_is_refused(http: httpx2.Client):
    answer = http.post("/v1/embeddings", content=b" " * (16 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

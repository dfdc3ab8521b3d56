import base64
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidParameter
from shared.inferencing import Model, parse_catalogue
from shared.inferencing.embeddings import batches, count_inputs, vectors_reader

MODEL: Model = parse_catalogue(
    """
    [models.e]
    kind = "embedding"
    dimensions = 2
    max_input_tokens = 100
    batch_max_inputs = 3
    batch_max_tokens = 10
    [[models.e.deployments]]
    name = "a"
    endpoint = "http://x"
    deployment = "d"
    api = "openai"
    version = "1"
    data_zone = "eu"
    """,
    {},
).models["e"]


@given(st.lists(st.integers(0, 12), max_size=40))
def test_batches_cover_every_input_once_in_order_within_both_limits(counts: list[int]) -> None:
    runs = [list(range(len(counts)))[run] for run in batches(MODEL, counts)]
    assert [index for run in runs for index in run] == list(range(len(counts)))
    for run in runs:
        assert 1 <= len(run) <= 3
        assert len(run) == 1 or sum(counts[index] for index in run) <= 10


def test_a_batch_is_filled_up_to_its_limits() -> None:
    assert list(batches(MODEL, [5, 5, 1])) == [slice(0, 2), slice(2, 3)]
    assert list(batches(MODEL, [1, 1, 1, 1])) == [slice(0, 3), slice(3, 4)]
    assert list(batches(replace(MODEL, batch_max_tokens=None), [99, 99])) == [slice(0, 2)]


def answer(*embeddings: object, indexes: list[int] | None = None) -> dict[str, object]:
    order = range(len(embeddings)) if indexes is None else indexes
    return {"data": [{"index": i, "embedding": e} for i, e in zip(order, embeddings, strict=True)]}


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def test_vectors_are_read_from_base64_and_from_numbers() -> None:
    read = vectors_reader(MODEL, {"input": ["a", "b"]})
    assert [list(v) for v in read(answer(packed(1, 2), [3, 4], indexes=[1, 0]))] == [[3, 4], [1, 2]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [({"input": "a"}, 1), ({"input": [1, 2, 3]}, 1), ({"input": [[1], [2]]}, 2), ({"input": ["a", "b"]}, 2)],
)
def test_a_text_or_one_list_of_token_ids_is_one_input(body: dict[str, object], expected: int) -> None:
    assert len(vectors_reader(MODEL, body)(answer(*[[1.0, 2.0]] * expected))) == expected


def test_a_caller_may_ask_for_fewer_dimensions() -> None:
    assert vectors_reader(MODEL, {"input": "a", "dimensions": 1})(answer([1.0]))


@pytest.mark.parametrize(
    "wrong",
    [
        answer([1.0, 2.0]),
        answer([1.0, 2.0], [1.0, 2.0], indexes=[0, 0]),
        answer([1.0, 2.0], [1.0]),
        answer([1.0, 2.0], [1.0, float("nan")]),
        answer(packed(1, 2), packed(1, float("inf"))),
        answer(packed(1, 2), "not base64!"),
        answer(packed(1, 2), base64.b64encode(b"abc").decode()),
    ],
)
def test_vectors_that_cannot_be_right_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whichever of the decoders finds it)
        vectors_reader(MODEL, {"input": ["a", "b"]})(wrong)


def test_inputs_must_be_texts_and_counts_must_match() -> None:
    for inputs in ([""], [1], [None]):
        with pytest.raises(InvalidParameter):
            count_inputs(MODEL, inputs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 token counts for 2 inputs"):
        count_inputs(MODEL, ["a", "b"], [1])

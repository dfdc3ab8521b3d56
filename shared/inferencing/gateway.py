"""The one way to a model: every call in the product passes ``Gateway``."""

from __future__ import annotations

import random as random_module
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from shared.errors import InvalidParameter, InvalidRequest, ModelFailed, NotFound, StreamInterrupted

from .calls import CallContext, Completion, Embedded, Recorder, Usage, discard
from .catalogue import Catalogue, Kind, Model
from .credentials import Credentials
from .embeddings import batches, count_inputs, vectors_reader
from .exchange import Answer, JsonAnswer, Request, StreamAnswer, open_answer
from .faults import DeploymentFault, Rejected
from .wire import HttpWire, Wire


class Gateway:
    def __init__(
        self,
        catalogue: Catalogue,
        *,
        credentials: Credentials,
        clock: Callable[[], float] = time.monotonic,
        random: random_module.Random | None = None,
        recorder: Recorder = discard,
        wire: Wire | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._credentials = credentials
        self._clock = clock
        self._random = random or random_module.Random()
        self._recorder = recorder
        self._wire = wire or HttpWire()

    async def complete(self, model: str, body: Mapping[str, Any], *, call: CallContext) -> Completion:
        """A chat completion, whole."""
        entry = self._entry(model, Kind.CHAT)
        answer = await self._open(entry, Request("chat/completions", body, False, _read_completion))
        assert isinstance(answer, JsonAnswer)
        return Completion(answer.value, entry.deployments[0].name, answer.usage or Usage(estimated=True))

    async def stream(
        self, model: str, body: Mapping[str, Any], *, call: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a chat completion, parsed."""
        entry = self._entry(model, Kind.CHAT)
        answer = await self._open(entry, Request("chat/completions", body, True, _read_completion))
        assert isinstance(answer, StreamAnswer)
        try:
            while (chunk := await answer.next()) is not None:
                yield chunk.json
        except DeploymentFault:
            raise StreamInterrupted() from None
        finally:
            answer.close()

    async def embed(self, model: str, inputs: Sequence[str], *, call: CallContext) -> Embedded:
        """One vector per input, in their order."""
        entry = self._entry(model, Kind.EMBEDDING)
        vectors, usage = [], Usage()
        for run in batches(entry, count_inputs(entry, inputs)):
            batch = list(inputs[run])
            body = {"input": batch, "encoding_format": "base64"}
            request = Request("embeddings", body, False, vectors_reader(entry, len(batch)))
            answer = await self._open(entry, request)
            assert isinstance(answer, JsonAnswer)
            vectors += answer.value
            usage += answer.usage or Usage(estimated=True)
        return Embedded(vectors, usage)

    async def close(self) -> None:
        await self._wire.close()

    async def _open(self, model: Model, request: Request) -> Answer:
        deployment = model.deployments[0]
        headers = {"Content-Type": "application/json", **await self._credentials(deployment)}
        try:
            return await open_answer(self._wire, deployment, headers, request, model.timeouts)
        except DeploymentFault:
            raise ModelFailed() from None
        except Rejected as rejected:
            raise InvalidRequest("The model rejected the request.") from rejected

    def _entry(self, name: str, kind: Kind) -> Model:
        model = self._catalogue.models.get(name)
        if model is None:
            raise NotFound("model", name)
        if model.kind is not kind:
            raise InvalidParameter(f"The model {name!r} is of the kind {model.kind}, not {kind}.")
        return model


def _read_completion(answer: dict[str, Any]) -> dict[str, Any]:
    if not answer["choices"] or not all(isinstance(choice["message"], dict) for choice in answer["choices"]):
        raise ValueError("a completion without a message")
    return answer

"""The one way to a model: every model call of the product passes ``Gateway``."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import (
    DeadlineExceeded,
    GroundworkError,
    InvalidParameter,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PromptTooLong,
    StreamInterrupted,
)
from shared.limits import UNLIMITED, Limits

from .account import Account
from .admission import Admission, Admitted
from .breaker import State
from .calls import CallContext, CallRecord, Completion, Embedded, Recorder, Reranked, Usage, discard
from .catalogue import Catalogue, Deployment, Kind, Model
from .chat import (
    ASKING_MEMBER,
    check_chat,
    completion_limit,
    estimate_usage,
    needed_capabilities,
    read_completion,
)
from .credentials import Credentials
from .dispatch import Dispatcher, Opened
from .embeddings import batches, count_inputs, vectors_reader
from .exchange import Chunk, JsonAnswer, Request, StreamAnswer, choices_of
from .faults import DeploymentFault, FaultKind, Rejected
from .pool import Demand, Member, Pool
from .reranking import rerank_body, scores_reader
from .wire import HttpWire, Wire

log = logging.getLogger("groundwork.inferencing")

CHAT = "chat/completions"
EMBEDDINGS = "embeddings"
RERANK = "rerank"
# Batches of one ``embed`` that are under way together: enough to hide the network, not a stampede.
BATCHES_IN_FLIGHT = 4
# Of English text; a guess that only weighs a call against others where its model has no tokenizer.
CHARACTERS_PER_TOKEN = 4
# A deployment that answered this recently is taken to be up without being asked.
FRESH_SECONDS = 30.0
# A probe of an orchestrator waits a few seconds at most; the answer must come before.
HEALTH_CHECK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class DeploymentHealth:
    name: str
    serves: bool
    state: State
    cause: str | None
    retry_after: float
    in_flight: int
    in_flight_limit: int


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """``serves``: whether any deployment can take a call now."""

    model: str
    serves: bool
    deployments: tuple[DeploymentHealth, ...]


class Gateway:
    """Balances model calls over deployments, fails over, and protects both sides.

    ``credentials`` gives the headers that authorise a request to a deployment. ``recorder`` gets one
    ``CallRecord`` for every call, however it ends. ``admission`` refuses calls above their limits; without
    it only the catalogue limits them. Bound to the event loop of its first call.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        credentials: Credentials,
        clock: Callable[[], float] = time.monotonic,
        random: random_module.Random | None = None,
        recorder: Recorder = discard,
        wire: Wire | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.catalogue = catalogue
        self._credentials = credentials
        self._clock = clock
        self._recorder = recorder
        self._admission = admission
        self._wire = wire or HttpWire()
        random = random or random_module.Random()
        self._dispatchers = {
            (model.name, zone): Dispatcher(
                Pool(deployments, random, hedge=model.hedge), model.timeouts, self._wire, credentials, clock
            )
            for model in catalogue.models.values()
            for zone, deployments in _by_zone(model.deployments).items()
        }

    async def complete(self, model: str, body: Mapping[str, Any], *, call: CallContext) -> Completion:
        """A chat completion, whole.

        Raises ``PromptTooLong`` and other ``InvalidRequest``s for what the caller must change,
        ``ModelsUnavailable`` with ``retry_after`` when nobody can answer, ``DeadlineExceeded``.
        """
        exchange = await self.exchange_chat(model, body, call=call)
        return Completion(exchange.answer.value, exchange.deployment, exchange.usage)

    async def stream(
        self, model: str, body: Mapping[str, Any], *, call: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a chat completion, parsed, as they arrive.

        Raises as ``complete`` does until the first content has come, and ``StreamInterrupted`` when the
        stream breaks after it. Closing the iterator closes the connection to the service.
        """
        chunks = self.stream_chunks(model, body, call=call)
        try:
            async for chunk in chunks:
                yield chunk.json
        finally:
            await chunks.aclose()

    async def embed(
        self, model: str, inputs: Sequence[str], *, call: CallContext, tokens: Sequence[int] | None = None
    ) -> Embedded:
        """One vector per input, in the order of the inputs, in as many requests as the limits ask for.

        ``tokens`` spares counting where the caller has counted with the model's own tokenizer. Raises
        ``PromptTooLong`` with the index of the first input over the limit, before anything is sent; for
        the rest as ``complete``.
        """
        entry = self._entry(model, Kind.EMBEDDING)
        counts = await asyncio.to_thread(count_inputs, entry, inputs, tokens)
        gate = asyncio.Semaphore(BATCHES_IN_FLIGHT)

        async def one(run: slice) -> Exchange:
            async with gate:
                body = {"input": list(inputs[run]), "encoding_format": "base64"}
                return await self._embed_batch(entry, body, sum(counts[run]), call)

        exchanges = await _all_or_none([one(run) for run in batches(entry, counts)])
        vectors = [vector for exchange in exchanges for vector in exchange.answer.value]
        return Embedded(vectors, sum((exchange.usage for exchange in exchanges), Usage()))

    async def rerank(
        self, model: str, query: str, documents: Sequence[str], *, call: CallContext
    ) -> Reranked:
        """How relevant each document is to ``query``, in one request. Raises as ``complete`` does."""
        entry = self._entry(model, Kind.RERANK)
        body = rerank_body(query, documents)
        tokens = sum(len(query) + len(text) for text in documents) // CHARACTERS_PER_TOKEN
        request = Request(RERANK, body, False, scores_reader(len(documents)))
        exchange = await self._exchange_input(entry, request, tokens, call)
        return Reranked(exchange.answer.value, exchange.usage)

    async def foresee(self, model: str, body: Mapping[str, Any], *, call: CallContext) -> float | None:
        """Check a chat completion as ``complete`` does before it sends anything, and say how many seconds
        it will likely take whole; None where too little is known.

        The estimate is the length of answers to requests with a like limit, at most the limit, times the
        seconds per token of this model's deployments, and the turn in line where calls wait.
        """
        entry = self._entry(model, Kind.CHAT)
        ask = await self._chat_ask(entry, body, call, stream=False)
        dispatcher = self._dispatcher(entry, call)
        _check_supported(entry, dispatcher.pool, ask.demand)
        return dispatcher.expected_seconds(ask.demand, completion_limit(entry, ask.request.body))

    async def exchange_chat(self, model: str, body: Mapping[str, Any], *, call: CallContext) -> Exchange:
        """As ``complete``, with the answer as it was sent, for an edge that passes it on."""
        entry = self._entry(model, Kind.CHAT)
        ask = await self._chat_ask(entry, body, call, stream=False)
        return await self._exchange(entry, ask, call, lambda answer: _estimate(entry, body, answer))

    async def exchange_embeddings(
        self, model: str, body: Mapping[str, Any], *, call: CallContext
    ) -> Exchange:
        """One embeddings request in the service's own format, passed on as it is."""
        entry = self._entry(model, Kind.EMBEDDING)
        return await self._embed_batch(entry, body, len(str(body.get("input"))) // CHARACTERS_PER_TOKEN, call)

    async def stream_chunks(
        self, model: str, body: Mapping[str, Any], *, call: CallContext
    ) -> AsyncGenerator[Chunk, None]:
        """As ``stream``, with each chunk as it was sent, for an edge that passes it on."""
        entry = self._entry(model, Kind.CHAT)
        ask = await self._chat_ask(entry, body, call, stream=True)
        usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        account = Account(entry, call, self._clock, self._recorder)
        text: list[str] = []
        try:
            account.admitted = await self._admit(ask, call)
            account.opened = opened = await self._open(entry, ask, call, account.tries)
            account.begun_at = self._clock()
            assert isinstance(opened.answer, StreamAnswer)
            while (chunk := await self._next_chunk(opened, call, account)) is not None:
                text += _content(chunk.json)
                if usage_wanted or chunk.json.get("choices") or not chunk.json.get("usage"):
                    yield chunk
            opened.lease.learn_gap(account.longest_gap)
            # A service that reports nothing sends about a token a chunk.
            reported = opened.answer.usage
            opened.lease.learn_pace(
                self._clock(), len(text) if reported is None else reported.completion_tokens
            )
            opened.lease.succeeded()
            account.outcome = "ok"
        except GroundworkError as error:
            account.outcome = error.code
            raise
        finally:
            if account.opened is not None:
                account.opened.answer.close()
                account.opened.lease.let_go()
                usage = account.opened.answer.usage or estimate_usage(entry, body, "".join(text))
                account.usage = usage
            account.settle()

    async def check_chat(self, model: str, body: Mapping[str, Any], *, call: CallContext) -> dict[str, Any]:
        """The body of a chat completion as a service is to get it. Raises as ``complete`` does before it
        sends anything, except that no room is waited for."""
        entry = self._entry(model, Kind.CHAT)
        return dict((await check_chat(entry, body, await self._limits(call))).body)

    async def has_cost_ceiling(self, call: CallContext) -> bool:
        """Whether what a job of the caller may cost is limited."""
        return (await self._limits(call)).job_cost is not None

    async def note_answered(self, record: CallRecord) -> None:
        """Charge and record a call that a service has answered in a batch of its own."""
        if self._admission is not None:
            await self._admission.spend(record.call, record.estimated_cost)
        self._recorder(record)

    async def health(self) -> dict[str, ModelHealth]:
        """For each model whether it can be served, and the state of each deployment.

        A deployment that has answered lately is known to be up; any other is asked for its list of models,
        which costs nothing.
        """
        names = list(self.catalogue.models)
        found = await asyncio.gather(*(self._model_health(self.catalogue.models[name]) for name in names))
        return dict(zip(names, found, strict=True))

    async def close(self) -> None:
        for dispatcher in self._dispatchers.values():
            await dispatcher.close()
        await self._wire.close()

    def _entry(self, name: str, kind: Kind) -> Model:
        model = self.catalogue.models.get(name)
        if model is None:
            raise NotFound("model", name)
        if model.kind is not kind:
            raise InvalidParameter(f"The model {name!r} is of the kind {model.kind}, not {kind}.")
        return model

    async def _chat_ask(
        self, entry: Model, body: Mapping[str, Any], call: CallContext, *, stream: bool
    ) -> Ask:
        limits = await self._limits(call)
        demand = await check_chat(entry, body, limits, exact=call.job is not None)
        # Answers of at most alike lengths take alike times.
        shape = ("stream" if stream else "answer", (demand.completion_tokens or 0).bit_length())
        return Ask(
            Request(CHAT, demand.body, stream, read_completion),
            Demand(shape, demand.tokens, call.session, call.background, needed_capabilities(body)),
            limits,
            entry.cost_at_most(demand.prompt_tokens, demand.completion_tokens),
        )

    async def _embed_batch(
        self, entry: Model, body: Mapping[str, Any], tokens: int, call: CallContext
    ) -> Exchange:
        request = Request(EMBEDDINGS, body, False, vectors_reader(entry, body))
        return await self._exchange_input(entry, request, tokens, call)

    async def _exchange_input(
        self, entry: Model, request: Request, tokens: int, call: CallContext
    ) -> Exchange:
        """The exchange of a request that uses the tokens of its input alone."""
        ask = Ask(
            request,
            Demand((request.operation, tokens.bit_length()), tokens, call.session, call.background),
            await self._limits(call),
            entry.cost_at_most(tokens, 0),
        )
        return await self._exchange(entry, ask, call, lambda _: Usage(tokens, estimated=True))

    async def _limits(self, call: CallContext) -> Limits:
        return UNLIMITED if self._admission is None else await self._admission.limits_of(call.tenant)

    async def _admit(self, ask: Ask, call: CallContext) -> Admitted | None:
        if self._admission is None:
            return None
        return await self._admission.admit(call, ask.limits, ask.demand.tokens, ask.cost)

    async def _exchange(
        self, entry: Model, ask: Ask, call: CallContext, estimate: Callable[[JsonAnswer], Usage]
    ) -> Exchange:
        account = Account(entry, call, self._clock, self._recorder)
        try:
            account.admitted = await self._admit(ask, call)
            account.opened = opened = await self._open(entry, ask, call, account.tries)
            opened.lease.succeeded()
            assert isinstance(opened.answer, JsonAnswer)
            account.usage = opened.answer.usage or estimate(opened.answer)
            if entry.kind is Kind.CHAT:
                opened.lease.learn_pace(self._clock(), account.usage.completion_tokens)
            account.outcome = "ok"
            return Exchange(opened.answer, opened.lease.deployment.name, account.usage)
        except GroundworkError as error:
            account.outcome = error.code
            raise
        finally:
            account.settle()

    async def _open(self, entry: Model, ask: Ask, call: CallContext, tries: list[str]) -> Opened:
        dispatcher = self._dispatcher(entry, call)
        _check_supported(entry, dispatcher.pool, ask.demand)
        deadline = self._clock() + entry.timeouts.total_seconds
        if call.deadline is not None:
            deadline = min(deadline, call.deadline)
        try:
            return await dispatcher.open(ask.request, ask.demand, deadline, tries)
        except Rejected as rejected:
            raise rejection_error(rejected) from rejected

    def _dispatcher(self, entry: Model, call: CallContext) -> Dispatcher:
        zone = call.data_zone or entry.deployments[0].data_zone
        dispatcher = self._dispatchers.get((entry.name, zone))
        if dispatcher is None:
            raise InvalidParameter(f"The model {entry.name!r} has no deployment in the data zone {zone!r}.")
        return dispatcher

    async def _next_chunk(self, opened: Opened, call: CallContext, account: Account) -> Chunk | None:
        assert isinstance(opened.answer, StreamAnswer)
        lease, asked_at = opened.lease, self._clock()
        try:
            chunk = await opened.answer.next(None if call.deadline is None else call.deadline - asked_at)
        except Rejected as rejected:
            lease.succeeded()
            raise rejection_error(rejected) from rejected
        except DeploymentFault as fault:
            now = self._clock()
            late = call.deadline is not None and now >= call.deadline
            if not late or lease.is_suspicious_gap(now - asked_at):
                lease.failed(now, DeploymentFault(FaultKind.INTERRUPTED, fault.reason, fault.retry_after))
            raise (DeadlineExceeded() if late else StreamInterrupted()) from None
        account.longest_gap = max(account.longest_gap, self._clock() - asked_at)
        return chunk

    async def _model_health(self, model: Model) -> ModelHealth:
        dispatchers = [d for (name, _), d in self._dispatchers.items() if name == model.name]
        members = [member for dispatcher in dispatchers for member in dispatcher.pool.members]
        found = await asyncio.gather(*(self._deployment_health(member) for member in members))
        return ModelHealth(model.name, any(health.serves for health in found), tuple(found))

    async def _deployment_health(self, member: Member) -> DeploymentHealth:
        now = self._clock()
        fresh = member.answered_at is not None and now - member.answered_at < FRESH_SECONDS
        serves = member.retry_after(now) == 0 and (fresh or await self._is_reachable(member.deployment))
        state = member.breaker.state(now)
        cause = None if state is State.CLOSED else member.breaker.cause
        return DeploymentHealth(
            name=member.name,
            serves=serves,
            state=state,
            cause=cause.value if cause else None,
            retry_after=member.retry_after(now),
            in_flight=member.in_flight,
            in_flight_limit=member.limit.value,
        )

    async def _is_reachable(self, deployment: Deployment) -> bool:
        try:
            async with asyncio.timeout(HEALTH_CHECK_SECONDS):
                headers = await self._credentials(deployment)
                response = await self._wire.get(deployment.listing_url, headers, HEALTH_CHECK_SECONDS)
        except Exception:  # whatever keeps us from asking would keep a call from being answered
            return False
        response.close()
        return response.status < 500 and response.status not in (401, 403)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that keeps to its limits, what it needs of a deployment, and what it may cost."""

    request: Request
    demand: Demand
    limits: Limits
    cost: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """A whole answer, who gave it, and what it cost."""

    answer: JsonAnswer
    deployment: str
    usage: Usage


def rejection_error(rejected: Rejected) -> GroundworkError:
    """The caller's error for a request that the service refused, in our own words.

    The service's message may quote the prompt; it stays with the cause.
    """
    code, parameter = str(rejected.error.get("code") or ""), str(rejected.error.get("param") or "")
    extra = {"upstream_status": rejected.status}
    if code == "context_length_exceeded":
        return PromptTooLong("The prompt and the completion exceed the model's context.", **extra)
    if code == "content_filter":
        return InvalidRequest("The service's content filter refused the request.", reason=code, **extra)
    if rejected.status == 413:
        return PayloadTooLarge("The service refused the size of the request.", **extra)
    named = f" It names the parameter {parameter!r}." if parameter.isidentifier() else ""
    return InvalidRequest(f"The service refused the request.{named}", **extra)


def _check_supported(entry: Model, pool: Pool, demand: Demand) -> None:
    """Raise `InvalidParameter` for what no deployment that may answer can do."""
    if pool.supports(demand.needs):
        return
    names = sorted(demand.needs)
    first = next((name for name in names if not pool.supports(frozenset({name}))), names[0])
    detail = f"No deployment of the model {entry.name!r} supports {', '.join(names)}."
    raise InvalidParameter(detail, parameter=ASKING_MEMBER[first])


def _by_zone(deployments: Sequence[Deployment]) -> dict[str, list[Deployment]]:
    zones: dict[str, list[Deployment]] = {}
    for deployment in deployments:
        zones.setdefault(deployment.data_zone, []).append(deployment)
    return zones


def _estimate(entry: Model, body: Mapping[str, Any], answer: JsonAnswer) -> Usage:
    texts = [choice["message"].get("content") or "" for choice in answer.value["choices"]]
    return estimate_usage(entry, body, "".join(texts))


def _content(chunk: Mapping[str, Any]) -> list[str]:
    deltas = (choice.get("delta") for choice in choices_of(chunk))
    texts = (delta.get("content") for delta in deltas if isinstance(delta, dict))
    return [text for text in texts if isinstance(text, str)]


async def _all_or_none(coroutines: list[Any]) -> list[Any]:
    """The results in order; the first error stops the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

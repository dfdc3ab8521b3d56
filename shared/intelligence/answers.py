"""Grounded answers: retrieve, then quote or synthesise, then check, with citations in either case."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from shared.errors import GroundworkError, InvalidParameter, NotFound
from shared.inferencing.caching import CachePolicy, Count, count_lookups, digest
from shared.inferencing.calls import CallContext, JobAccount, Usage
from shared.intelligence import conversations, prompts, quoting, synthesis
from shared.intelligence.answer_cache import AnswerCache, Held
from shared.intelligence.citations import Citation, cite, unfaithful_quotes
from shared.intelligence.evidence import Question
from shared.intelligence.wording import Wording

if TYPE_CHECKING:
    from shared.identity import Principal
    from shared.inferencing import Gateway, Model
    from shared.intelligence.screening import Screen
    from shared.knowledge.corpus import Corpus
    from shared.knowledge.index import Filter
    from shared.knowledge.retrieval import Found, Passage, Retrieval

log = logging.getLogger("groundwork.answers")

NOT_FOUND_TEXT = "Not found in the documents."
DEFAULT_TOP = 8
# More passages than this neither fit a prompt nor are they looked through for quotes.
TOP_MAX = 50
USUAL = CachePolicy()

Strategy = Literal["quoting", "synthesis"]
CacheOutcome = Literal["off", "miss", "exact", "semantic"]


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A question over collections. ``messages`` are ``{"role", "content"}``; the last one asks.

    ``deadline`` is a time of the gateway's clock; ``session`` keeps a conversation on one deployment;
    ``job`` pays for the answer.
    """

    collections: Sequence[str]
    messages: Sequence[Mapping[str, str]]
    top: int = DEFAULT_TOP
    filter: Filter | None = None
    model: str = "chat"
    max_tokens: int | None = None
    deadline: float | None = None
    session: str | None = None
    job: JobAccount | None = None
    cache: CachePolicy = USUAL


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it rests on. ``timings`` are milliseconds: retrieve, generate, first_token, total.

    ``found`` is False where the documents do not answer. ``grounded`` is False where a model's answer cites
    nothing that was retrieved, or puts words into quotation marks that stand in no passage. ``cache`` says
    whether it was given before: to the same request, or to another wording of the question; then ``usage``
    is what it cost this time. ``withheld`` are passages that screening took for attacks: nobody's words in
    the answer, and shown so that whoever tends the documents can look.
    """

    id: str
    text: str
    found: bool
    grounded: bool
    citations: tuple[Citation, ...]
    strategy: Strategy
    model: str
    prompt_version: str
    usage: Usage
    timings: Mapping[str, float] = field(default_factory=dict)
    cache: CacheOutcome = "off"
    withheld: tuple[Citation, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The answer as the API shows it."""
        return {
            "id": self.id,
            "text": self.text,
            "found": self.found,
            "grounded": self.grounded,
            "citations": [citation.to_dict() for citation in self.citations],
            "strategy": self.strategy,
            "model": self.model,
            "prompt_version": self.prompt_version,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "cached_tokens": self.usage.cached_tokens,
                "estimated": self.usage.estimated,
            },
            "withheld": [citation.place() for citation in self.withheld],
            "cache": self.cache,
            "timings_ms": {name: round(value, 1) for name, value in self.timings.items()},
        }


@dataclass(frozen=True, slots=True)
class Sources:
    """The passages that were retrieved, before anything is said about them."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text; the pieces together are the text of the final answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Final:
    answer: Answer


AnswerEvent = Sources | Delta | Final


@dataclass(slots=True)
class _Told:
    """What a strategy has come to: filled in while its deltas pass."""

    text: str = ""
    found: bool = False
    grounded: bool = True
    citations: tuple[Citation, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class _Plan:
    """How one request is to be answered; ``found`` is filled in while that is done."""

    principal: Principal
    request: AnswerRequest
    model: Model
    conversation: conversations.Conversation
    strategy: Strategy
    version: str
    call: CallContext
    found: Found | None = None

    @property
    def question(self) -> str:
        return conversations.standalone(self.conversation)

    @property
    def passages(self) -> tuple[Passage, ...]:
        return self.found.passages if self.found else ()

    def keys(self, corpus: Corpus) -> tuple[bytes, bytes]:
        """The key of the answer in the cache, and that of everything but its conversation."""
        request, model = self.request, self.model
        context = digest(
            corpus.fingerprint,
            (self.strategy, self.version),
            (model.name, model.version),
            (request.top, request.filter, request.max_tokens),
        )
        turns = [(turn["role"], turn["content"]) for turn in self.conversation]
        return digest(context, turns), context

    def wording(self) -> Wording | None:
        """The question for those who ask it in other words; None where it leans on a conversation."""
        if self.found is None or not self.found.vectors or len(self.conversation) != 1:
            return None
        return Wording.read(self.question, next(iter(self.found.vectors.values())))


class Answers:
    """Answers questions from the documents that the caller may read."""

    def __init__(
        self,
        *,
        retrieval: Retrieval,
        gateway: Gateway,
        screen: Screen | None = None,
        cache: AnswerCache | None = None,
        count: Count | None = None,
    ) -> None:
        """``screen`` judges questions and passages; ``count`` is told how often ``cache`` had the answer."""
        self._retrieval = retrieval
        self._gateway = gateway
        self._screen = screen
        self._cache = cache
        self._count = count

    def check(self, principal: Principal, request: AnswerRequest) -> None:
        """Raise what is wrong with a request before anything is spent on it.

        `InvalidParameter`, `NotFound` for a model, `PromptRefused` for what screening takes for an attack.
        """
        self._plan(principal, request)

    async def answer(self, principal: Principal, request: AnswerRequest) -> Answer:
        """The final answer; raises what `stream` raises."""
        async with aclosing(self.stream(principal, request)) as events:
            async for event in events:
                if isinstance(event, Final):
                    return event.answer
        raise AssertionError("a stream of an answer ends with it")

    async def stream(self, principal: Principal, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        """The sources, then the text as it comes, then the final answer.

        Raises what `check` raises, `NotFound` for a collection, and what retrieval and gateway raise;
        `StreamInterrupted` where a model breaks off after its first words, `AnswerRefused` where it repeats
        what it was told in confidence. Closing the generator closes the connection to the model: nothing
        more is spent.
        """
        plan = self._plan(principal, request)
        started = time.perf_counter()
        corpus = await self._retrieval.corpus(principal, request.collections, request.cache)
        if self._cache is None or corpus.fingerprint is None:
            async with aclosing(self._made(plan, corpus)) as events:
                async for event in events:
                    yield event
            return
        key, context = plan.keys(corpus)
        if request.cache.reads:
            held, how = await self._known(plan, corpus, key, context)
            model = plan.model
            hit = held is not None
            count_lookups(self._count, plan.call, model.name, model.version, "answer", hit, not hit)
            if held is not None:
                yield Sources(held.passages)
                yield Delta(held.answer.text)
                yield Final(_again(held.answer, how, time.perf_counter() - started))
                return
        async with self._cache.making(key) as flight, aclosing(self._made(plan, corpus)) as events:
            async for event in events:
                if isinstance(event, Final):
                    event = Final(replace(event.answer, cache="miss"))
                    held = Held(event.answer, plan.passages, plan.wording())
                    flight.lands_with(held)
                    # What is not grounded is better tried again than given twice.
                    if request.cache.writes and corpus.settled and event.answer.grounded:
                        self._cache.keep(key, context, held)
                yield event

    def _plan(self, principal: Principal, request: AnswerRequest) -> _Plan:
        model = self._model(request.model)
        conversation = conversations.checked(request.messages)
        if self._screen is not None:
            self._screen.check(conversation)
        if not 1 <= request.top <= TOP_MAX:
            raise InvalidParameter(f"top must be 1 to {TOP_MAX}.", parameter="top")
        strategy: Strategy = "synthesis" if model.can_synthesise else "quoting"
        version = prompts.load("answer").label if strategy == "synthesis" else quoting.answerability().label
        call = CallContext(
            tenant=principal.tenant,
            user=principal.user,
            purpose="answer",
            prompt_version=version,
            deadline=request.deadline,
            session=request.session,
            job=request.job,
        )
        return _Plan(principal, request, model, conversation, strategy, version, call)

    async def _known(
        self, plan: _Plan, corpus: Corpus, key: bytes, context: bytes
    ) -> tuple[Held | None, CacheOutcome]:
        """The answer that was given before, or is being given now, to this question."""
        assert self._cache is not None
        held = self._cache.find(key) or await self._cache.in_flight(key)
        if held is not None or not (plan.request.cache.semantic and len(plan.conversation) == 1):
            return held, "exact"
        model = next(iter(corpus.by_model))
        embedded = await self._retrieval.embed(
            model, [plan.question], call=replace(plan.call, purpose="query"), cache=plan.request.cache
        )
        return self._cache.find_like(context, Wording.read(plan.question, embedded.vectors[0])), "semantic"

    async def _made(self, plan: _Plan, corpus: Corpus) -> AsyncGenerator[AnswerEvent, None]:
        """The events of an answer that is made now."""
        request, call = plan.request, plan.call
        started = time.perf_counter()
        found = plan.found = await self._retrieval.search(
            plan.principal,
            request.collections,
            plan.question,
            top=request.top,
            filter=request.filter,
            deadline=request.deadline,
            job=request.job,
            cache=request.cache,
            corpus=corpus,
        )
        withheld: tuple[Passage, ...] = ()
        if self._screen is not None:
            kept, withheld = await self._screen.sift(plan.question, found.passages)
            found = plan.found = replace(found, passages=kept)
        retrieved = time.perf_counter()
        yield Sources(found.passages)
        told = _Told(usage=found.usage)
        first: float | None = None
        if plan.strategy == "synthesis":
            pieces = self._synthesise(plan.model, request, plan.conversation, found, call, told)
        else:
            pieces = self._quote(plan, found, told)
        async with aclosing(pieces):
            async for piece in pieces:
                first = first or time.perf_counter()
                yield Delta(piece)
        ended = time.perf_counter()
        timings = {
            "retrieve": (retrieved - started) * 1e3,
            "generate": (ended - retrieved) * 1e3,
            "first_token": ((first or ended) - started) * 1e3,
            "total": (ended - started) * 1e3,
        }
        yield Final(
            Answer(
                id=_new_id(),
                text=told.text,
                found=told.found,
                grounded=told.grounded,
                citations=told.citations,
                strategy=plan.strategy,
                model=plan.model.name,
                prompt_version=plan.version,
                usage=told.usage,
                timings=timings,
                withheld=tuple(cite(number, passage) for number, passage in enumerate(withheld, 1)),
            )
        )

    def _model(self, name: str) -> Model:
        model = self._gateway.catalogue.models.get(name)
        if model is None:
            raise NotFound("model", name)
        if model.kind != "chat":
            raise InvalidParameter(f"The model {name!r} does not chat.", parameter="model")
        return model

    async def _quote(self, plan: _Plan, found: Found, told: _Told) -> AsyncGenerator[str, None]:
        asked = plan.question
        candidates = quoting.candidates(Question.read(asked), found.passages)
        quotes: list[quoting.Quote] = []
        if candidates and found.vectors:
            model, vector = next(iter(found.vectors.items()))
            texts = [candidate.text for candidate in candidates]
            embedded = await self._retrieval.embed(model, texts, call=plan.call, cache=plan.request.cache)
            told.usage += embedded.usage
            similarities = [quoting.cosine(vector, other) for other in embedded.vectors]
            quotes = quoting.scored(candidates, similarities)
            if quoting.answers(quotes):
                quotes = quoting.chosen(await self._reranked(asked, quotes, plan.call, told))
            else:
                quotes = []
        told.found = bool(quotes)
        told.citations = tuple(
            cite(
                number,
                found.passages[quote.candidate.passage],
                quote.candidate.sentence.start,
                quote.candidate.sentence.end,
            )
            for number, quote in enumerate(quotes, 1)
        )
        if not quotes:
            told.text = NOT_FOUND_TEXT
            yield told.text
        for number, quote in enumerate(quotes, 1):
            piece = quoting.shown(quote.candidate, number)
            told.text += piece
            yield piece

    async def _reranked(
        self, asked: str, quotes: list[quoting.Quote], call: CallContext, told: _Told
    ) -> list[quoting.Quote]:
        """The likeliest quotes as a re-ranker orders them; as they are where there is none to ask."""
        model = self._gateway.catalogue.reranker(version=quoting.answerability().reranker)
        if model is None:
            return quotes
        texts = [quote.candidate.context for quote in quotes[: quoting.RERANKED_MAX]]
        try:
            ranked = await self._gateway.rerank(model.name, asked, texts, call=call)
        except GroundworkError as error:
            # The order is a little worse without it; that is no reason to give no answer.
            log.warning("rerank_failed", extra={"code": error.code})
            return quotes
        told.usage += ranked.usage
        return quoting.reordered(quotes, ranked.scores)

    async def _synthesise(
        self,
        model: Model,
        request: AnswerRequest,
        conversation: conversations.Conversation,
        found: Found,
        call: CallContext,
        told: _Told,
    ) -> AsyncGenerator[str, None]:
        max_tokens = request.max_tokens or min(synthesis.DEFAULT_MAX_TOKENS, model.max_output_tokens)
        passages = synthesis.fitting(found.passages, model, max_tokens)
        if not passages:
            told.text = NOT_FOUND_TEXT
            yield told.text
            return
        prompt, marker = prompts.load("answer"), synthesis.new_marker()
        body = {
            "messages": synthesis.messages(prompt, passages, conversation, marker),
            "max_completion_tokens": max_tokens,
            "stream_options": {"include_usage": True},
        }
        checked = synthesis.CheckedText(len(passages), synthesis.confidential(prompt, marker))
        async with aclosing(self._gateway.stream_chunks(model.name, body, call=call)) as chunks:
            async for chunk in chunks:
                told.usage += Usage.reported(chunk.json.get("usage")) or Usage()
                for choice in chunk.json.get("choices") or ():
                    if piece := checked.add((choice.get("delta") or {}).get("content") or ""):
                        yield piece
        if piece := checked.end():
            yield piece
        if checked.absent or not checked.text.strip():
            told.text = NOT_FOUND_TEXT
            yield told.text
            return
        told.text, told.found = checked.text, True
        told.citations = tuple(cite(number, passages[number - 1]) for number in checked.cited)
        texts = [passage.chunk.text for passage in passages]
        told.grounded = bool(told.citations) and not unfaithful_quotes(told.text, texts)


def _again(answer: Answer, how: CacheOutcome, seconds: float) -> Answer:
    """An answer that is given once more: nothing was spent, and hardly any time."""
    timings = {"retrieve": 0.0, "generate": 0.0, "first_token": seconds * 1e3, "total": seconds * 1e3}
    return replace(answer, id=_new_id(), usage=Usage(), timings=timings, cache=how)


def _new_id() -> str:
    return f"ans_{uuid.uuid4().hex}"

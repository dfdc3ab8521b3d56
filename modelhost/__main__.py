"""``python -m modelhost``: read the command line, bind the port, load the models, serve."""

from __future__ import annotations

import os

# Read by the OpenMP runtime of the chat engine when it is loaded: its idle threads must sleep, or they
# take the cores from the embedding threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from modelhost import weights
from modelhost.chat import ChatModel
from modelhost.embeddings import Embedder
from modelhost.reranking import Reranker
from modelhost.server import EMBEDDING_MODEL, RERANKING_MODEL, ModelServer

DEFAULT_PORT = 8090
# Time that answers in the making get after a signal, and what is left to say that they were cut short;
# orchestrators kill after 10 to 30 s.
DRAIN_SECONDS = 5
FAREWELL_SECONDS = 2
EXIT_UNUSABLE = 2


class _Uvicorn(uvicorn.Server):
    """Announces itself in one line, and ends with status 0 when it is asked to end."""

    def __init__(self, config: uvicorn.Config, models: ModelServer, announcement: str) -> None:
        super().__init__(config)
        self._models = models
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._models.cut_answers_short)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The original raises the signal again afterwards, so an orderly stop would look like a death.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; 0 after an orderly stop, 2 when it cannot start."""
    options = _parser().parse_args(arguments)
    api_key = options.api_key or os.environ.get("MODELHOST_API_KEY") or None
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if not api_key and not _is_loopback(options.host):
        return _refuse(f"{options.host} can be reached from other machines: set an API key to listen there")
    try:
        listener = _bind(options.host, options.port)
    except OSError as error:
        return _refuse(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}")
    try:
        embedder = Embedder(options.threads) if options.embedding_model != "none" else None
        reranker = Reranker(options.threads) if options.reranking_model != "none" else None
        chat = _chat_model(options.chat_model, options.chat_model_sha256, options.threads)
    except weights.WeightsError as error:
        return _refuse(str(error))
    server = ModelServer(embedder, reranker, chat, api_key)
    config = uvicorn.Config(
        server.app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS + FAREWELL_SECONDS,
    )
    _Uvicorn(config, server, _announcement(listener, embedder, reranker, chat)).run(sockets=[listener])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("modelhost", description="OpenAI-compatible server for small models.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    parser.add_argument("--threads", type=_threads, default=_available_cores())
    parser.add_argument("--chat-model", default="smollm2", help="smollm2, the path of a GGUF file, or none")
    parser.add_argument("--chat-model-sha256", help="digest that the GGUF file of --chat-model must have")
    parser.add_argument("--embedding-model", default=EMBEDDING_MODEL, choices=[EMBEDDING_MODEL, "none"])
    parser.add_argument("--reranking-model", default=RERANKING_MODEL, choices=[RERANKING_MODEL, "none"])
    parser.add_argument("--api-key", help="asked of clients; also read from MODELHOST_API_KEY")
    return parser


def _threads(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: clients are refused until the models are loaded."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    if os.name != "nt":  # on Windows the option would let two servers share the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _chat_model(choice: str, sha256: str | None, threads: int) -> ChatModel | None:
    if choice == "none":
        return None
    if choice == "smollm2":
        return ChatModel(choice, weights.SMOLLM2.verified(), threads)
    path = Path(choice)
    if not path.is_file():
        raise weights.WeightsError(f"there is no chat model file {choice}")
    if sha256:
        weights.verify(path, sha256)
    return ChatModel(path.stem, path, threads)


def _announcement(
    listener: socket.socket, embedder: Embedder | None, reranker: Reranker | None, chat: ChatModel | None
) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    names = [EMBEDDING_MODEL] if embedder else []
    names += [RERANKING_MODEL] if reranker else []
    names += [f"{chat.name} (loading)"] if chat else []
    return f"modelhost ready on http://{shown}:{port} models: {', '.join(names) or 'none'}"


def _refuse(reason: str) -> int:
    print(f"modelhost: {reason}", file=sys.stderr)
    return EXIT_UNUSABLE


if __name__ == "__main__":
    sys.exit(main())

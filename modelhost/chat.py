"""Chat completions by llama.cpp in this process: slots that generate side by side, and a bounded queue."""

from __future__ import annotations

import asyncio
import importlib
import math
import secrets
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

# Requests that generate at the same time. On two cores more slots give no more tokens per second
# (29 a second with one slot, 30 with two, both on a busy machine), but a second request need not wait
# for the first to end before its first token.
SLOTS = 2
# Tokens of prompt and answer together, for each slot; two slots of SmolLM2 take 190 MB of cache.
CONTEXT_TOKENS = 4_096
# Prompt tokens processed in one step. A cancelled request ends at the next step, so a small number
# makes a disconnect take effect soon; the speed was the same with 64 and 2,048 (CPU time, two cores).
STEP_TOKENS = 64
# What nobody waits for leaves a slot to others. Answers come as fast, by the measurement above.
BACKGROUND_SLOTS = SLOTS - 1
# Requests that may wait for a slot before the next is refused; in the background as many again.
WAITING_MAX = 16

State = Literal["loading", "ready", "failed"]


class ChatBusy(Exception):
    """The queue is full; ``retry_after_seconds`` says when to come back."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Too many requests are waiting for the chat model.")
        self.retry_after_seconds = retry_after_seconds


class ChatModel:
    """A GGUF model with SLOTS slots; requests are served in the order they came.

    Those in the background have a line of their own and at most BACKGROUND_SLOTS of the slots. ``state`` is
    ``loading`` until ``load`` has returned.
    """

    def __init__(self, name: str, path: Path, threads: int) -> None:
        self.name = name
        self.state: State = "loading"
        self._path, self._threads = path, threads
        self._engine: Any = None
        self._foreground = ThreadPoolExecutor(SLOTS, thread_name_prefix="chat")
        self._background = ThreadPoolExecutor(BACKGROUND_SLOTS, thread_name_prefix="chat-background")
        self._open: set[Generation] = set()
        self._seconds_per_request = 2.0  # moving average; a first guess of one short answer

    @property
    def in_flight(self) -> int:
        """Requests that generate or wait."""
        return len(self._open)

    def load(self) -> None:
        """Load the model; takes a second for SmolLM2. To be run off the event loop."""
        try:
            self._engine = _load_engine(self._path, self._threads)
            self.state = "ready"
        except Exception:
            self.state = "failed"
            raise

    def start(
        self, messages: list[dict[str, str]], sampling: dict[str, Any], *, background: bool = False
    ) -> Generation:
        """Begin or queue a generation; to be called on the event loop. Raises ChatBusy."""
        slots = BACKGROUND_SLOTS if background else SLOTS
        # A cancelled request that still waits gives up its place at once.
        alike = [each for each in self._open if each.background == background and not each.cancelled]
        if len(alike) >= slots + WAITING_MAX:
            wait = self._seconds_per_request * WAITING_MAX / slots
            raise ChatBusy(retry_after_seconds=max(1, math.ceil(wait)))
        generation = Generation({**sampling, "messages": messages}, background)
        self._open.add(generation)
        pool = self._background if background else self._foreground
        pool.submit(self._generate, generation, asyncio.get_running_loop())
        return generation

    def cancel_all(self) -> None:
        """End every generation, also those that wait."""
        for generation in list(self._open):
            generation.cancel()

    def close(self) -> None:
        """End every generation and free the model."""
        self.cancel_all()
        self._foreground.shutdown(wait=True)
        self._background.shutdown(wait=True)
        self._engine = None

    def _generate(self, generation: Generation, loop: asyncio.AbstractEventLoop) -> None:
        began = time.monotonic()
        try:
            if not generation.cancelled:
                generation.run(self._engine, loop)
        finally:
            self._seconds_per_request += 0.2 * (time.monotonic() - began - self._seconds_per_request)
            # Only a loop that is closed already refuses the call, and then nobody reads on.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._open.discard, generation)


class Generation:
    """One answer in the making: an async iterator of the engine's events, which can be cancelled."""

    def __init__(self, request: dict[str, Any], background: bool) -> None:
        self.background = background
        # Always a stream inside, with progress reports: only the callback can end a generation early,
        # and progress calls it during the prompt too.
        inner = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
        self._request = {**request, **inner}
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._cancel = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def cancel(self) -> None:
        """End it at the next token or prompt step. May be called at any time, more than once."""
        self._cancel.set()

    def run(self, engine: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Generate on this thread; events go to ``loop``."""

        def deliver(event: dict[str, Any] | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        def on_event(event: dict[str, Any]) -> bool:
            deliver(event)
            return self.cancelled

        try:
            engine.handle_chat_completions(self._request, on_event)
        except Exception as error:  # the engine's own refusal of a request
            code = 400 if isinstance(error, ValueError) else 500
            deliver({"error": {"code": code, "type": type(error).__name__, "message": str(error)}})
        deliver(None)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while (event := await self._events.get()) is not None:
            yield event


def _load_engine(path: Path, threads: int) -> Any:
    # 100 MB of library, only where a chat model is wanted; its module has no type information.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = STEP_TOKENS
    params.fit_params = False
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0  # sleep while waiting: the embedding threads need the cores
    params.cache_ram_mib = 0  # prompts of past requests are kept in the slots alone
    params.warmup = False
    params.verbosity = -1
    params.ui = params.endpoint_slots = params.endpoint_props = False
    # The engine always opens a port on loopback. Nobody is told the key, so nobody can use it.
    params.api_keys = [secrets.token_urlsafe(32)]
    return xllamacpp.Server(params)

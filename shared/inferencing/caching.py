"""What the caches of this process have in common: bounds of time and memory, counts of hits and misses."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from .calls import CallContext
from .catalogue import Model
from .ledger import Source

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What one request lets caches do. ``semantic``: an answer to another wording of the question will do."""

    reads: bool = True
    writes: bool = True
    semantic: bool = False


class CacheMode(StrEnum):
    """What a request asks of caches; ``refresh``: make everything anew, and keep it."""

    OFF = "off"
    REFRESH = "refresh"
    EXACT = "exact"
    SEMANTIC = "semantic"

    @property
    def policy(self) -> CachePolicy:
        off, refresh = self is CacheMode.OFF, self is CacheMode.REFRESH
        return CachePolicy(not (off or refresh), not off, self is CacheMode.SEMANTIC)


# What an entry takes besides what is in it: its key, its place in the order, its time.
ENTRY_BYTES = 300


def digest(*parts: object) -> bytes:
    """A key made of ``parts``: the same for the same parts alone. 128 bits, so keys do not meet."""
    key = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = repr(part).encode("utf-8", "surrogatepass")
        key.update(len(text).to_bytes(8, "little"))
        key.update(text)
    return key.digest()


class BoundedCache(Generic[V]):
    """Keeps values for ``seconds`` in ``capacity_bytes`` at most; what was used longest ago goes first."""

    def __init__(
        self, capacity_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, int, V]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: bytes) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[0]:
            self.discard(key)
            return None
        self._entries.move_to_end(key)
        return entry[2]

    def put(self, key: bytes, value: V, size_bytes: int) -> None:
        """Keep ``value``, which takes ``size_bytes``, unless that is more than all may take."""
        self.discard(key)
        size = size_bytes + ENTRY_BYTES
        if size > self._capacity_bytes:
            return
        self._entries[key] = (self._clock() + self._seconds, size, value)
        self.size_bytes += size
        while self.size_bytes > self._capacity_bytes:
            self.discard(next(iter(self._entries)))

    def discard(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry[1]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


Count = Callable[[str, Source, Mapping[str, float]], None]


def count_lookups(
    count: Count | None, call: CallContext, model: str, version: str, cache: str, hits: int, misses: int
) -> None:
    """Let usage show how often ``cache`` (answer, retrieval, embedding) had what was looked up."""
    if count is not None:
        source = Source(call.user or "", call.purpose, model, version, call.prompt_version or "")
        count(call.tenant, source, {f"{cache}_hits": hits, f"{cache}_misses": misses})


class EmbeddingCache:
    """Vectors of texts, for queries and sentences that come again.

    A vector belongs to one tenant, model, version and text. Tenants do not share them, though a text has
    the same vector everywhere: otherwise the time of an answer would tell what others have asked.
    """

    def __init__(self, cache: BoundedCache[array[float]], count: Count | None = None) -> None:
        self._cache = cache
        self._count = count

    def find(self, call: CallContext, model: Model, texts: Sequence[str]) -> dict[str, array[float]]:
        """The vectors that are known, by their texts."""
        found = {}
        for text in texts:
            vector = self._cache.get(_key(call, model, text))
            if vector is not None:
                found[text] = vector
        count_lookups(
            self._count, call, model.name, model.version, "embedding", len(found), len(texts) - len(found)
        )
        return found

    def keep(self, call: CallContext, model: Model, text: str, vector: array[float]) -> None:
        self._cache.put(_key(call, model, text), vector, len(vector) * vector.itemsize)


def _key(call: CallContext, model: Model, text: str) -> bytes:
    return digest(call.tenant, model.name, model.version, call.data_zone, text)

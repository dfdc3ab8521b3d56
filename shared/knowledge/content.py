"""Content: the raw bytes of documents and what was read from them. Only this module knows where they lie.

Pieces that are kept together, such as the documents of a shard, share one blob, a pack: to write or read a
hundred small documents is one call. Whoever keeps a piece gets a claim, a text that names the pack and the
piece in it, and hands it back to read or to remove the piece. A piece that fills a pack by itself, or has no
company, is a blob as it is.

A pack begins with a line of JSON that lists its pieces with their lengths. Removing a piece truly removes
it: the pack is written anew without it, if it still is what was read; with its last piece it goes as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import StorageUnavailable
from shared.storage import PARSED, RAW, Changed, Exists, in_turns

if TYPE_CHECKING:
    from shared.storage import Storage

# As much as a shard reads at once; what is larger would only make removals dearer.
PACK_BYTES = 512 * 1024
# Removals of single pieces meet at their pack; each try waits a random time, longer from try to try.
WRITE_TRIES = 12
FIRST_WAIT_SECONDS = 0.02

Pieces = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Pack:
    """One blob of content, for those who look for what nobody refers to any more.

    ``job`` is the one that wrote it, ``written`` in UTC seconds since 1970.
    """

    kind: str
    name: str
    written: float

    @property
    def job(self) -> str:
        return self.name.partition("/")[0]


class ContentStore:
    """The content of all documents. Claims are good within one collection of one tenant."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def put(
        self, tenant: str, collection: str, kind: str, origin: str, pieces: Mapping[str, bytes]
    ) -> dict[str, str]:
        """Keep pieces of a kind (`RAW` or `PARSED`) under their names; the claim of each.

        ``origin`` is a path that begins with the job's id. The same pieces of the same origin have the same
        claims, so this may be repeated; other pieces never take their place.
        """
        claims: dict[str, str] = {}
        packs: list[Awaitable[None]] = []
        for pack in _in_packs(pieces):
            data = _encoded(pack)
            name = f"{origin}-{hashlib.sha256(data).hexdigest()[:16]}"
            alone = next(iter(pack)) if len(pack) == 1 else None
            if alone is not None:
                claims[alone] = f"{kind}/{name}/{alone}"
                packs.append(self._put_alone(kind, f"{tenant}/{collection}/{name}/{alone}", pack[alone]))
            else:
                claims |= {piece: f"{kind}/{name}#{piece}" for piece in pack}
                packs.append(self._put_pack(kind, f"{tenant}/{collection}/{name}", data, pack))
        await in_turns(packs)
        return claims

    async def _put_alone(self, container: str, blob: str, data: bytes) -> None:
        try:
            await self._storage.insert_blob(container, blob, data)
        except Exists:
            return  # its name tells its content

    async def _put_pack(self, container: str, blob: str, data: bytes, pieces: Pieces) -> None:
        try:
            await self._storage.insert_blob(container, blob, data)
        except Exists:
            # Kept before, and pieces may have been removed since.
            await self._change(container, blob, lambda present: present | pieces)

    async def get(self, tenant: str, collection: str, claims: Iterable[str]) -> dict[str, bytes]:
        """The pieces by their claims, each pack read once; removed ones are left out."""
        found: dict[str, bytes] = {}

        async def read(container: str, name: str, pieces: dict[str, str]) -> None:
            data = await self._storage.get_blob(container, f"{tenant}/{collection}/{name}")
            if data is None:
                return
            present = _decoded(data) if "" not in pieces else {"": data}
            found.update({claim: present[piece] for piece, claim in pieces.items() if piece in present})

        await in_turns([read(*pack) for pack in _by_pack(claims)])
        return found

    async def remove(self, tenant: str, collection: str, claims: Iterable[str]) -> None:
        """Remove pieces for good; what is gone already is fine."""

        async def remove(container: str, name: str, pieces: dict[str, str]) -> None:
            blob = f"{tenant}/{collection}/{name}"
            if "" in pieces:
                await self._storage.delete_blob(container, blob)
                return
            await self._change(
                container,
                blob,
                lambda present: {piece: data for piece, data in present.items() if piece not in pieces},
            )

        await in_turns([remove(*pack) for pack in _by_pack(claims)])

    async def remove_others(
        self, tenant: str, collection: str, kind: str, origin: str, claims: Iterable[str]
    ) -> None:
        """Remove the pieces of one origin and kind whose pack none of ``claims`` names."""
        root = f"{tenant}/{collection}/"
        kept = {f"{root}{name}" for container, name, _ in _by_pack(claims) if container == kind}
        listed = self._storage.list_blobs(kind, f"{root}{origin}-")
        await self._storage.delete_listed(kind, [blob async for blob in listed if blob.name not in kept])

    async def remove_collection(self, tenant: str, collection: str) -> None:
        """Remove all that a collection holds."""
        await self._remove_under(tenant, collection, "")

    async def remove_job(self, tenant: str, collection: str, job: str) -> None:
        """Remove all that a job has kept in a collection."""
        await self._remove_under(tenant, collection, f"{job}/")

    async def _remove_under(self, tenant: str, collection: str, prefix: str) -> None:
        for container in (RAW, PARSED):
            await self._storage.delete_blobs(container, f"{tenant}/{collection}/{prefix}")

    async def packs(self, tenant: str, collection: str) -> AsyncIterator[Pack]:
        """Every blob of content that a collection has."""
        root = f"{tenant}/{collection}/"
        for container in (RAW, PARSED):
            async for blob in self._storage.list_blobs(container, root):
                yield Pack(container, blob.name.removeprefix(root), blob.written)

    async def claims(self, tenant: str, collection: str, pack: Pack) -> list[str]:
        """The claims of all pieces that a pack holds; none where it has gone meanwhile."""
        if _is_alone(pack.name):
            return [f"{pack.kind}/{pack.name}"]
        data = await self._storage.get_blob(pack.kind, f"{tenant}/{collection}/{pack.name}")
        return [] if data is None else [f"{pack.kind}/{pack.name}#{piece}" for piece in _decoded(data)]

    async def _change(self, container: str, blob: str, change: Callable[[Pieces], Pieces]) -> None:
        """Write a pack as ``change`` makes it, without loss of what others change meanwhile."""
        for attempt in range(WRITE_TRIES):
            read = await self._storage.get_tagged_blob(container, blob)
            present = {} if read is None else _decoded(read.data)
            wanted = change(present)
            if wanted == present:
                return
            try:
                if read is None:
                    await self._storage.insert_blob(container, blob, _encoded(wanted))
                elif wanted:
                    await self._storage.replace_blob(container, blob, _encoded(wanted), read.etag)
                else:
                    await self._storage.delete_unchanged(container, blob, read.etag)
                return
            except (Changed, Exists):
                await asyncio.sleep(FIRST_WAIT_SECONDS * (attempt + 1) * random.random())
        raise StorageUnavailable("The content is being changed by others.", retry_after=1)


def piece_of(claim: str) -> str:
    """The name that a piece was kept under."""
    return claim.replace("#", "/").rpartition("/")[2]


def _is_alone(pack: str) -> bool:
    # The last part of a pack's name ends in a digest after a dash; names of pieces have none.
    return "-" not in pack.rpartition("/")[2]


def _in_packs(pieces: Mapping[str, bytes]) -> Iterable[Pieces]:
    """The pieces in their order, as many together as a pack takes."""
    pack: Pieces = {}
    size = 0
    for name, data in pieces.items():
        if pack and size + len(data) > PACK_BYTES:
            yield pack
            pack, size = {}, 0
        pack[name] = data
        size += len(data)
    if pack:
        yield pack


def _by_pack(claims: Iterable[str]) -> list[tuple[str, str, dict[str, str]]]:
    """Container and name of each pack, with the claims by the pieces; "" stands for a blob as it is."""
    packs: dict[str, dict[str, str]] = {}
    for claim in claims:
        pack, _, piece = claim.partition("#")
        packs.setdefault(pack, {})[piece] = claim
    return [(*_split(pack), pieces) for pack, pieces in packs.items()]


def _split(pack: str) -> tuple[str, str]:
    container, _, name = pack.partition("/")
    return container, name


def _encoded(pieces: Mapping[str, bytes]) -> bytes:
    head = json.dumps([[name, len(data)] for name, data in pieces.items()], separators=(",", ":"))
    return b"\n".join((head.encode(), b"".join(pieces.values())))


def _decoded(data: bytes) -> Pieces:
    head, _, body = data.partition(b"\n")
    pieces: Pieces = {}
    start = 0
    for name, length in json.loads(head):
        pieces[name] = body[start : start + length]
        start += length
    return pieces

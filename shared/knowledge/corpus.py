"""What one caller may find now, and how to tell it from what anybody could find at any other time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import Hidden, InvalidParameter
from shared.inferencing.caching import digest

if TYPE_CHECKING:
    from shared.identity import Principal
    from shared.inferencing import Catalogue
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.documents import Documents, Stamp
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.layouts import Layout


@dataclass(frozen=True, slots=True)
class Corpus:
    """The collections of a search by their embedding models.

    Two searches with the same ``fingerprint`` find the same: it is made of the tenant, of what the caller's
    names admit, of the collections' settings and content, and of the models their vectors are from. It is
    None where nobody asked for it. What is found is worth keeping only where ``settled``: otherwise an
    index may not show yet what was uploaded last.
    """

    by_model: Mapping[str, Sequence[tuple[Collection, Layout]]]
    fingerprint: bytes | None = None
    settled: bool = False


async def open_corpus(
    principal: Principal,
    names: Sequence[str],
    *,
    collections: Collections,
    documents: Documents,
    indexes: Indexes,
    catalogue: Catalogue,
    layouts: Mapping[str, Layout],
    fingerprint: bool,
) -> Corpus:
    """The corpus of ``principal`` in the collections of those names.

    Raises `InvalidParameter` and `NotFound`. The stamps are read before anything is searched: a change that
    comes later has another stamp, so what is kept under this one is not found after it.
    """
    if not names:
        raise InvalidParameter("Name at least one collection.", parameter="collections")
    for name in names:
        if not principal.reaches(name):
            raise Hidden("collection", name)
    distinct = list(dict.fromkeys(names))
    tenant = principal.tenant
    stamps: list[Stamp] = []
    if fingerprint:
        stamped = asyncio.gather(*(documents.stamp(tenant, name) for name in distinct))
        found, stamps = await asyncio.gather(
            asyncio.gather(*(collections.get(tenant, name) for name in distinct)), stamped
        )
    else:
        found = await asyncio.gather(*(collections.get(tenant, name) for name in distinct))
    by_model: dict[str, list[tuple[Collection, Layout]]] = {}
    for collection in found:
        layout = layouts.get(collection.name) or collection.serving
        by_model.setdefault(layout.embedding_model, []).append((collection, layout))
    if not fingerprint:
        return Corpus(by_model)
    parts = [
        (
            collection.name,
            collection.generation,
            collection.etag,
            stamp.value,
            access(principal, collection, stamp),
            collection.serving,
            _version(catalogue, collection.serving.embedding_model),
        )
        for collection, stamp in zip(found, stamps, strict=True)
    ]
    # A later writer's clock may be ahead: what seems to be changed in the future is not settled either.
    settled = all(time.time() - stamp.changed >= indexes.lag_seconds for stamp in stamps)
    return Corpus(by_model, digest(tenant, parts), settled)


def access(principal: Principal, collection: Collection, stamp: Stamp) -> tuple[str, ...]:
    """Those of the caller's names that decide what it may see in a collection.

    Where no document has an access list of its own, they are those in the collection's: callers whom it
    admits in the same way see the same. Elsewhere any of the caller's names may decide.
    """
    names = set(principal.readers)
    if not stamp.own_lists:
        names &= set(collection.readers)
    return tuple(sorted(names))


def _version(catalogue: Catalogue, model: str) -> tuple[object, ...]:
    entry = catalogue.models.get(model)
    return (model, entry.version, entry.index) if entry else (model,)

"""The physical indexes in use: one for each embedding model, opened and made at first use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidParameter
from shared.knowledge.index import IndexSpec, SearchIndex, open_index

if TYPE_CHECKING:
    from shared.inferencing import Catalogue
    from shared.knowledge.collections import Collection

EMBEDDED_SCHEME = "embedded:"
# Azure AI Search makes an upload searchable within seconds, without saying when.
SERVICE_LAG_SECONDS = 30.0


class Indexes:
    """The search indexes behind the embedding models of ``catalogue``."""

    def __init__(
        self, target: str, catalogue: Catalogue, credential: Callable[[], Any] | None = None
    ) -> None:
        """``target`` is ``embedded:FOLDER`` or the service's address; it takes ``credential``'s tokens."""
        self._target = target
        self._catalogue = catalogue
        self._credential = credential
        self._open: dict[str, SearchIndex] = {}
        self._opening = asyncio.Lock()

    @property
    def lag_seconds(self) -> float:
        """How long after an upload a search may still miss it."""
        return 0.0 if self._target.startswith(EMBEDDED_SCHEME) else SERVICE_LAG_SECONDS

    async def of(self, model: str) -> SearchIndex:
        """The index of an embedding model; raises `InvalidParameter` where there is no such model."""
        spec = self._spec(model)
        if spec.name not in self._open:
            async with self._opening:
                if spec.name not in self._open:
                    self._open[spec.name] = await self._opened(spec)
        return self._open[spec.name]

    async def all_of(self, collection: Collection) -> list[SearchIndex]:
        """Every index that holds chunks of a collection, whatever its layout.

        A layout whose model the catalogue no longer has is left out: its index cannot be found.
        """
        models = {layout.embedding_model for layout in collection.layouts} & self._catalogue.models.keys()
        return list(dict.fromkeys([await self.of(model) for model in sorted(models)]))

    def _spec(self, name: str) -> IndexSpec:
        model = self._catalogue.models.get(name)
        if model is None or model.dimensions is None or model.index is None:
            raise InvalidParameter(f"There is no embedding model {name!r}.", parameter="embedding_model")
        return IndexSpec(model.index, model.dimensions)

    async def _opened(self, spec: IndexSpec) -> SearchIndex:
        target = self._target
        credential = None
        if target.startswith(EMBEDDED_SCHEME):
            target = f"{target}/{spec.name}"
        elif self._credential is not None:
            credential = self._credential()
        index = open_index(target, spec, credential=credential)
        await index.ensure()
        return index

    async def close(self) -> None:
        for index in self._open.values():
            await index.close()
        self._open.clear()

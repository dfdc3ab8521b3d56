"""The physical indexes in use: one for each embedding model, opened and made at first use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidParameter
from shared.knowledge.index import IndexSpec, SearchIndex, open_index

if TYPE_CHECKING:
    from shared.inferencing import Catalogue

EMBEDDED_SCHEME = "embedded:"


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

    async def of(self, model: str) -> SearchIndex:
        """The index of an embedding model; raises `InvalidParameter` where there is no such model."""
        if model not in self._open:
            async with self._opening:
                if model not in self._open:
                    self._open[model] = await self._opened(model)
        return self._open[model]

    async def _opened(self, name: str) -> SearchIndex:
        model = self._catalogue.models.get(name)
        if model is None or model.dimensions is None or model.index is None:
            raise InvalidParameter(f"There is no embedding model {name!r}.", parameter="embedding_model")
        target = self._target
        credential = None
        if target.startswith(EMBEDDED_SCHEME):
            target = f"{target}/{model.index}"
        elif self._credential is not None:
            credential = self._credential()
        index = open_index(target, IndexSpec(model.index, model.dimensions), credential=credential)
        await index.ensure()
        return index

    async def close(self) -> None:
        for index in self._open.values():
            await index.close()
        self._open.clear()

"""Products that are broken on purpose, each in one place, so that it is seen that the checks notice it.

A break replaces a function of the app in the process that runs it: a campaign breaks its hosts before they
start, a test its own process for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

Replace = Callable[[Any, str, Any], None]
"""Sets an attribute, as `setattr` does and pytest's monkeypatch does for a while."""


def lost(put: Replace) -> None:
    """Of writers' documents the outcome says that they are visible, and no record does."""
    from shared.knowledge.ingestion import settlement

    sound = settlement._settled

    def settled(outcome: Any, prepared: Any, *rest: Any) -> Any:
        changed, outcome = sound(outcome, prepared, *rest)
        return (None if outcome.id.startswith("w") else changed), outcome

    put(settlement, "_settled", settled)


def doubled(put: Replace) -> None:
    """Each batch is uploaded a second time, and the ids of its chunks are others then."""
    from shared.knowledge.index.embedded import EmbeddedIndex

    sound = EmbeddedIndex.upload

    async def upload(self: Any, chunks: Any) -> None:
        await sound(self, chunks)
        await sound(self, [replace(chunk, id=uuid4().hex) for chunk in chunks])

    put(EmbeddedIndex, "upload", upload)


def orphan(put: Replace) -> None:
    """Nobody removes the chunks of versions that are not visible any more."""
    from shared.knowledge.ingestion.settlement import Settlement

    async def clean(*_: Any) -> None:
        return None

    put(Settlement, "_clean_index", clean)


def mixed(put: Replace) -> None:
    """A search believes the index, whatever the records say of versions, and old chunks stay there."""
    from shared.knowledge import retrieval

    orphan(put)
    put(retrieval, "_is_visible", lambda *_: True)
    put(retrieval, "_is_overtaken", lambda *_: False)


BREAKS: dict[str, Callable[[Replace], None]] = {
    each.__name__: each for each in (lost, doubled, orphan, mixed)
}


def break_for_good(name: str) -> None:
    """Break this process."""

    def put(owner: Any, attribute: str, value: Any) -> None:
        assert hasattr(owner, attribute), (
            f"{owner} has no {attribute} any more: there is another way to break it"
        )
        setattr(owner, attribute, value)

    BREAKS[name](put)

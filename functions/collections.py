"""Collections and documents over HTTP: settings, states, the text behind a citation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.http import Call, Model, route
from functions.services import services
from shared.errors import Hidden, InvalidParameter, NotFound
from shared.identity import Role, check_name, check_readers
from shared.inferencing import Kind
from shared.knowledge.collections import EVERYONE
from shared.knowledge.documents import check_id
from shared.knowledge.layouts import EMBEDDING_MODEL, MAX_CHUNK_CHARACTERS, MIN_CHUNK_CHARACTERS
from shared.knowledge.texts import VersionText

if TYPE_CHECKING:
    from shared.inferencing import Model as EmbeddingModel

blueprint = df.Blueprint()


# All of a list lie in one property of a table row, which holds 32,768 characters (Azure Tables).
Reader = Annotated[str, Field(max_length=210)]
MAX_READERS = 50


class CollectionSettings(Model):
    """A collection's settings. ``readers``: ``tenant:*``, ``user:NAME`` or ``group:NAME``."""

    description: str = Field("", max_length=2000)
    embedding_model: str | None = Field(None, max_length=64)
    chunk_characters: int | None = Field(None, ge=MIN_CHUNK_CHARACTERS, le=MAX_CHUNK_CHARACTERS)
    readers: tuple[Reader, ...] = Field(EVERYONE, min_length=1, max_length=MAX_READERS)


@route(
    blueprint,
    "PUT",
    "/api/collections/{collection}",
    role=Role.CONTRIBUTOR,
    body=CollectionSettings,
    statuses=(200, 201),
)
async def put_collection(call: Call) -> Response:
    """Make a collection, or change its settings."""
    name = check_name("collection", call.path("collection"))
    wanted = await call.json(CollectionSettings)
    model = embedding_model(EMBEDDING_MODEL if wanted.embedding_model is None else wanted.embedding_model)
    check_readers(wanted.readers)
    collection, new = await services().collections.put(
        call.principal.tenant,
        name,
        description=wanted.description,
        readers=wanted.readers,
        embedding_model=wanted.embedding_model,
        model_version=model.version,
        chunk_characters=wanted.chunk_characters,
    )
    return JSONResponse(collection.to_document(), status_code=201 if new else 200)


def embedding_model(name: str) -> EmbeddingModel:
    """The catalogue's embedding model of that name; raises `InvalidParameter`."""
    model = services().catalogue.models.get(name)
    if model is None or model.kind is not Kind.EMBEDDING:
        raise InvalidParameter(f"There is no embedding model {name!r}.", parameter="embedding_model")
    return model


@route(blueprint, "GET", "/api/collections")
async def list_collections(call: Call) -> Response:
    """The tenant's collections."""
    found = services().collections.list(call.principal.tenant)
    items = [each.to_document() async for each in found if call.principal.reaches(each.name)]
    return JSONResponse({"items": items})


@route(blueprint, "GET", "/api/collections/{collection}")
async def get_collection(call: Call) -> Response:
    """A collection's settings and layouts, and how fresh its documents are."""
    collection = await services().collections.get(call.principal.tenant, call.path("collection"))
    freshness = await services().documents.freshness(collection.tenant, collection.name)
    return JSONResponse({**collection.to_document(), "freshness": freshness})


@route(blueprint, "GET", "/api/collections/{collection}/documents")
async def list_documents(call: Call) -> Response:
    """The documents of a collection: states, versions, errors; paged."""
    tenant, collection = call.principal.tenant, call.path("collection")
    settings = await services().collections.get(tenant, collection)
    after = call.query("after")
    if after and not (after.isascii() and after.isalnum()):
        raise InvalidParameter("'after' is the 'next' of an earlier page.", parameter="after")
    records, following = await services().documents.list(
        tenant, collection, after=after, limit=call.number("limit", 100, 1000)
    )
    listed = [record for record in records if _admits(call, record.upload.readers, settings.readers)]
    if len(listed) < len(records) and call.principal.may(Role.OPERATOR):
        listed = records
        call.note_use(Role.OPERATOR)
    return JSONResponse(
        {"items": [record.to_document(settings.serving.number) for record in listed], "next": following}
    )


@route(blueprint, "GET", "/api/collections/{collection}/documents/{*document}")
async def get_document(call: Call) -> Response:
    """A document's record; with ``view=text`` its text as it was read, for showing a citation in context."""
    tenant, collection = call.principal.tenant, call.path("collection")
    settings = await services().collections.get(tenant, collection)
    document = check_id(call.path("document"))
    record = await services().documents.get(tenant, collection, document)
    _check_may_read(call, document, record.upload.readers, settings.readers)
    if call.query("view") != "text":
        return JSONResponse(record.to_document(settings.serving.number))
    version = call.number("version", record.visible, 1 << 31) if record.visible else 0
    claim = record.texts.get(version, "")
    found = await services().content.get(tenant, collection, [claim]) if claim else {}
    if claim not in found:
        raise NotFound("text of the document", document)
    text = VersionText.from_bytes(found[claim])
    _check_may_read(call, document, text.readers, settings.readers)
    parsed = text.document
    return JSONResponse(
        {
            "id": record.id,
            "version": version,
            "title": record.upload.title or parsed["title"],
            "text": parsed["text"],
            "pages": parsed["pages"],
            "headings": parsed["headings"],
            "chunks": text.chunks,
        }
    )


def _admits(call: Call, own: Sequence[str] | None, defaults: Sequence[str]) -> bool:
    """Whether the document's access list, or its collection's where it has none, admits the caller."""
    readers = defaults if own is None else own
    return not {*readers}.isdisjoint(call.principal.readers)


def _check_may_read(call: Call, document: str, own: Sequence[str] | None, defaults: Sequence[str]) -> None:
    """Raise `Hidden` where the caller may not read the document; operators may, and it is on record."""
    if _admits(call, own, defaults):
        return
    if not call.principal.may(Role.OPERATOR):
        raise Hidden("document", document)
    call.note_use(Role.OPERATOR)

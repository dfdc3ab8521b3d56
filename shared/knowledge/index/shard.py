"""The embedded index itself: one Qdrant Edge shard, its blocking operations, and the loop that serves them.

It runs in a process of its own (`shared.knowledge.index.embedded` starts it), for two reasons that were
measured: every call into the library holds Python's global lock, a search for 5 to 25 ms, so that in the
host's process no stream would flow meanwhile; and a shard takes 50 MB per 10,000 chunks, which the host's
memory must not grow by.

Durability: a write is acknowledged after its write-ahead log and segments are synced to disk. However little
was written, that takes 8 ms of computing and, on a busy disk, 200 ms of waiting: writes that wait at the same
time are synced together.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import queue
import struct
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from shared.errors import Conflict, GroundworkError, IndexUnavailable, InvalidParameter
from shared.knowledge.index.filters import And, AnyOf, Eq, Filter, In, Ne, Not, Or, Range, Value
from shared.knowledge.index.fusion import fuse
from shared.knowledge.index.lexical import chunk_terms, query_terms
from shared.knowledge.index.protocol import (
    ContentDigest,
    DocumentVersion,
    FacetValue,
    Hit,
    IndexedChunk,
    SearchRequest,
    SearchResult,
    VersionRange,
    format_instant,
    from_payload,
    listed_versions,
    to_payload,
)

if TYPE_CHECKING:
    import qdrant_edge as edge

DENSE, TERMS = "dense", "terms"
SCHEMA_VERSION = 2
FUSION_DEPTH = 100  # candidates of each ranking; the depth of the published baselines
SLICE_CHUNKS = 64  # written at a time, about 15 ms, so that a search waits no longer than that
SCROLL_CHUNKS = 1000  # read at a time by listings
FACET_VALUES = 100  # most frequent values that a facet lists
LOCK_RETRY_SECONDS = 0.1
# A segment is rewritten without its deleted chunks when the index is opened and a fifth of it is deleted.
VACUUM_DELETED_SHARE = 0.2
VACUUM_MIN_CHUNKS = 1000
# Exhaustive search is exact under any filter and takes 20 ms over 100,000 chunks; building a graph took
# 17 s for 30,000 and would have to be repeated as documents change.
NO_GRAPH_THRESHOLD_KILOBYTES = 10**9

# Every condition of a filter costs 5 to 10 ms over 100,000 chunks, so two derived fields make one condition
# each of what nearly every request asks for: whose chunk it is, and who may find it there.
OWNER = "owner"  # tenant and collection
ACCESS = "access"  # tenant, collection, layout and reader, once for each reader
_KEYWORDS = (OWNER, ACCESS, "document", "title", "tags", "source", "media_type")
_INTEGERS = ("version", "page", "layout")


class Shard:
    """Blocking operations on one shard. The process that has it open locks its folder."""

    def __init__(
        self,
        path: Path,
        dimensions: int,
        lock_wait_seconds: float,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait for the lock, unless the waiting is ``given_up``. Raises `IndexUnavailable` without it."""
        import qdrant_edge

        self._edge = qdrant_edge
        self._dimensions = dimensions
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path / "lock", lock_wait_seconds, given_up)
        self._check_schema(path / "schema.json")
        self._shard = self._open(path / "shard")
        try:
            self._shard.optimize()
        except Exception as error:  # it takes room for a while, of which the disk may have none
            print(f"embedded index: left as it is: {error!r}", file=sys.stderr)
        self.is_written = True

    def _check_schema(self, file: Path) -> None:
        wanted = {"version": SCHEMA_VERSION, "dimensions": self._dimensions}
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            if found != wanted:
                raise Conflict(
                    f"The embedded index was made with {found}, but {wanted} is configured. Remove its "
                    "folder: reconciliation fills it again from what was read of the documents."
                )
        else:
            file.write_text(json.dumps(wanted), encoding="utf-8")

    def _open(self, path: Path) -> edge.EdgeShard:
        try:
            if (path / "edge_config.json").exists():
                shard = self._edge.EdgeShard.load(str(path), self._config())
            else:
                path.mkdir(exist_ok=True)
                shard = self._edge.EdgeShard.create(str(path), self._config())
            self._create_field_indices(shard)
            return shard
        except Exception as error:  # the library raises plain Exception
            raise IndexUnavailable(
                f"The embedded index cannot be opened: {error}. If that stays, remove its folder: "
                "reconciliation fills it again from what was read of the documents."
            ) from error

    def _config(self) -> edge.EdgeConfig:
        e = self._edge
        return e.EdgeConfig(
            vectors={
                DENSE: e.EdgeVectorParams(
                    self._dimensions,
                    e.Distance.Cosine,
                    datatype=e.VectorStorageDatatype.Float16,  # half of Float32's memory, same ranking
                    memory=e.Memory.Cold,
                )
            },
            sparse_vectors={TERMS: e.EdgeSparseVectorParams(modifier=e.Modifier.Idf, memory=e.Memory.Cold)},
            payload_memory=e.Memory.Cold,
            optimizers=e.EdgeOptimizersConfig(
                deleted_threshold=VACUUM_DELETED_SHARE,
                vacuum_min_vector_number=VACUUM_MIN_CHUNKS,
                indexing_threshold=NO_GRAPH_THRESHOLD_KILOBYTES,
            ),
        )

    def _create_field_indices(self, shard: edge.EdgeShard) -> None:
        e = self._edge
        present = shard.info().payload_schema
        schemas: dict[str, Any] = {name: e.KeywordIndexParams(memory=e.Memory.Cold) for name in _KEYWORDS}
        schemas |= {name: e.IntegerIndexParams(memory=e.Memory.Cold) for name in _INTEGERS}
        schemas["updated"] = e.DatetimeIndexParams(memory=e.Memory.Cold)
        for name, schema in schemas.items():
            if name not in present:
                shard.update(e.UpdateOperation.create_field_index(name, schema))

    def close(self) -> None:
        self.sync()
        self._shard.close()
        self._lock.close()

    def sync(self) -> None:
        """Bring to disk what was written; no write may be acknowledged before."""
        if self.is_written:
            self._shard.flush()
            self.is_written = False

    def _write(self, operation: edge.UpdateOperation) -> None:
        self.is_written = True
        self._shard.update(operation)

    # Writes are generators: between their steps the server answers waiting searches.

    def upload(self, chunks: Sequence[IndexedChunk]) -> Generator[None, None, None]:
        for start in range(0, len(chunks), SLICE_CHUNKS):
            points = [self._point(chunk) for chunk in chunks[start : start + SLICE_CHUNKS]]
            self._write(self._edge.UpdateOperation.upsert_points(points))
            yield

    def _point(self, chunk: IndexedChunk) -> edge.Point:
        vectors: dict[str, Any] = {}
        if chunk.vector is not None:
            if len(chunk.vector) != self._dimensions:
                raise InvalidParameter(
                    f"A vector has {len(chunk.vector)} dimensions, but the index has {self._dimensions}."
                )
            vectors[DENSE] = list(chunk.vector)
        terms = chunk_terms("\n".join((chunk.title, *chunk.headings, chunk.text)))
        if terms.indices:
            vectors[TERMS] = terms
        payload = to_payload(chunk)
        payload[OWNER] = _joined(chunk.tenant, chunk.collection)
        shelf = (chunk.tenant, chunk.collection, str(chunk.layout))
        payload[ACCESS] = [_joined(*shelf, reader) for reader in chunk.readers]
        return self._edge.Point(point_id(chunk.id), vectors, payload)

    def delete_document(
        self,
        tenant: str,
        collection: str,
        document: str,
        versions: VersionRange,
        layout: int | None,
        made_before: datetime | None,
    ) -> Generator[None, None, int]:
        of_document = (Eq(OWNER, _joined(tenant, collection)), Eq("document", document))
        return self._delete(And((*of_document, *versions.clauses(), *_made(layout, made_before))))

    def delete_collection(
        self, tenant: str, collection: str, layout: int | None
    ) -> Generator[None, None, int]:
        return self._delete(And((Eq(OWNER, _joined(tenant, collection)), *_made(layout, None))))

    def _delete(self, which: Filter) -> Generator[None, None, int]:
        rendered = self._filter(which)
        count = self._shard.count(self._edge.CountRequest(filter=rendered))
        yield
        if count:
            self._write(self._edge.UpdateOperation.delete_points_by_filter(rendered))
        return count

    def count(self, tenant: str, collection: str, document: str | None) -> int:
        clauses: list[Filter] = [Eq(OWNER, _joined(tenant, collection))]
        if document is not None:
            clauses.append(Eq("document", document))
        return self._shard.count(self._edge.CountRequest(filter=self._filter(And(tuple(clauses)))))

    def document_versions(self, tenant: str, collection: str, first: str, last: str) -> list[DocumentVersion]:
        # The library orders nothing by a text, so a page costs a look at every chunk: 1 s for 100,000.
        counts: Counter[tuple[str, int, int]] = Counter()
        for payload in self._scroll(tenant, collection, ["id", "document", "version", "layout"]):
            if payload["id"] >= first and (not last or payload["id"] < last):
                counts[payload["document"], payload["version"], payload["layout"]] += 1
        return listed_versions(counts)

    def digest(self, tenant: str, collection: str) -> str:
        digest = ContentDigest()
        for payload in self._scroll(tenant, collection, True):
            digest.add(payload)
        return digest.hexdigest()

    def _scroll(self, tenant: str, collection: str, fields: bool | list[str]) -> Generator[dict[str, Any]]:
        admitted = self._filter(Eq(OWNER, _joined(tenant, collection)))
        offset = None
        while True:
            records, offset = self._shard.scroll(
                self._edge.ScrollRequest(
                    offset=offset, limit=SCROLL_CHUNKS, filter=admitted, with_payload=fields
                )
            )
            yield from (record.payload or {} for record in records)
            if offset is None:
                return

    def search(self, request: SearchRequest) -> SearchResult:
        admitted = self._filter(_admitted(request))
        ranked = self._rank(request, admitted)
        page = ranked[request.skip : request.skip + request.top]
        records = self._shard.retrieve([point for point, _ in page], True, False)
        payloads = {str(record.id): record.payload for record in records}
        hits = tuple(
            Hit(from_payload(payload), score) for point, score in page if (payload := payloads.get(point))
        )
        return SearchResult(
            hits=hits,
            count=self._shard.count(self._edge.CountRequest(filter=admitted)) if request.count else None,
            facets={name: self._facet(name, admitted) for name in request.facets},
        )

    def _rank(self, request: SearchRequest, admitted: edge.Filter) -> list[tuple[str, float]]:
        """Point ids with their scores, best first, at least as far as the page asked for."""
        if request.top == 0:
            return []
        depth = max(FUSION_DEPTH, request.skip + request.top)
        vector = list(request.vector) if request.vector is not None else None
        if vector is not None and len(vector) != self._dimensions:
            raise InvalidParameter(
                f"The query has {len(vector)} dimensions, but the index has {self._dimensions}."
            )
        terms = query_terms(request.text) if request.text is not None else None
        if vector is None and terms is None:
            listed, _ = self._shard.scroll(
                self._edge.ScrollRequest(
                    limit=request.skip + request.top, filter=admitted, with_payload=False
                )
            )
            return [(str(record.id), 1.0) for record in listed]
        bm25 = self._nearest(terms, TERMS, admitted, depth) if terms is not None and terms.indices else {}
        if vector is None:
            scores = bm25
        else:
            scores = cosines = self._nearest(vector, DENSE, admitted, depth)
            if terms is not None:
                # Each ranking scores what only the other one found, so that none counts as worthless
                # for having been ranked 101st.
                cosines = cosines | self._score(vector, DENSE, bm25.keys() - cosines.keys())
                if terms.indices:
                    bm25 = bm25 | self._score(terms, TERMS, cosines.keys() - bm25.keys())
                scores = fuse(cosines, bm25)
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

    def _nearest(self, query: Any, using: str, admitted: edge.Filter, limit: int) -> dict[str, float]:
        found = self._shard.query(
            self._edge.QueryRequest(
                limit, query=self._edge.Query.Nearest(query, using), filter=admitted, with_payload=False
            )
        )
        return {str(point.id): point.score for point in found}

    def _score(self, query: Any, using: str, points: set[str]) -> dict[str, float]:
        if not points:
            return {}
        among = self._edge.Filter(must=[self._edge.HasIdCondition({uuid.UUID(point) for point in points})])
        return self._nearest(query, using, among, len(points))

    def _facet(self, name: str, admitted: edge.Filter) -> tuple[FacetValue, ...]:
        response = self._shard.facet(
            self._edge.FacetRequest(name, limit=FACET_VALUES, exact=True, filter=admitted)
        )
        found = [FacetValue(hit.value, hit.count) for hit in response.hits]
        return tuple(sorted(found, key=lambda facet: (-facet.count, str(facet.value))))

    def _filter(self, tree: Filter) -> edge.Filter:
        """The library's filter. No empty ``Filter`` may come out of it: an empty one matches everything."""
        e = self._edge
        match tree:
            case And(clauses) if clauses:
                return e.Filter(must=[self._filter(clause) for clause in clauses])
            case Or(clauses) if clauses:
                return e.Filter(should=[self._filter(clause) for clause in clauses])
            case Not(clause):
                return e.Filter(must_not=[self._filter(clause)])
            case Eq(field, value):
                return e.Filter(must=[self._equals(field, value)])
            case Ne(field, value):
                return e.Filter(must_not=[self._equals(field, value)])
            case In(field, values):
                if values and isinstance(values[0], str):
                    return e.Filter(
                        must=[e.FieldCondition(field, match=e.MatchAny([str(v) for v in values]))]
                    )
                return self._filter(Or(tuple(Eq(field, value) for value in values)))
            case AnyOf(field, values):
                return e.Filter(must=[e.FieldCondition(field, match=e.MatchAny(list(values)))])
            case Range():
                return e.Filter(must=[self._range(tree)])
        raise InvalidParameter("A filter without clauses matches everything and is refused.")

    def _equals(self, field: str, value: Value) -> edge.FieldCondition:
        if isinstance(value, str | int):
            return self._edge.FieldCondition(field, match=self._edge.MatchValue(value))
        return self._range(Range(field, ge=value, le=value))

    def _range(self, tree: Range) -> edge.FieldCondition:
        names = {"gt": "gt", "ge": "gte", "lt": "lt", "le": "lte"}
        bounds = tree.bounds()
        if all(isinstance(bound, int) for bound in bounds.values()):
            numbers: Any = {names[word]: float(bound) for word, bound in bounds.items()}  # type: ignore[arg-type]
            return self._edge.FieldCondition(tree.field, range=self._edge.RangeFloat(**numbers))
        times: Any = {names[word]: format_instant(bound) for word, bound in bounds.items()}  # type: ignore[arg-type]
        return self._edge.FieldCondition(tree.field, range=self._edge.RangeDateTime(**times))


def _locked(file: Path, wait_seconds: float, given_up: Callable[[], bool]) -> IO[bytes]:
    """The open ``file``, locked until it is closed or this process ends.

    The library has a lock as well, but looks at it last: whoever tries to open a shard has by then repaired,
    as it takes it, what another process was just writing.
    """
    stream = file.open("ab")
    deadline = time.monotonic() + wait_seconds
    while not _try_lock(stream):
        if given_up() or time.monotonic() >= deadline:
            stream.close()
            raise IndexUnavailable("Another process has the embedded index open.")
        time.sleep(LOCK_RETRY_SECONDS)
    return stream


def _try_lock(stream: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def point_id(chunk_id: str) -> str:
    """The library takes UUIDs only."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, chunk_id))


def _admitted(request: SearchRequest) -> Filter:
    readings = (
        _joined(request.tenant, collection, str(request.layout_of(collection)), reader)
        for collection in request.collections
        for reader in request.readers
    )
    access = AnyOf(ACCESS, tuple(readings))
    return access if request.filter is None else And((access, request.filter))


def _made(layout: int | None, before: datetime | None) -> tuple[Filter, ...]:
    """The conditions that narrow a deletion."""
    in_layout = () if layout is None else (Eq("layout", layout),)
    return in_layout if before is None else (*in_layout, Range("updated", lt=before))


def _joined(*names: str) -> str:
    """One text that no other sequence of names gives."""
    return json.dumps(names, ensure_ascii=False)


# The server: frames of a length and a pickle, from and to the parent process that started it.

FRAME_HEADER = struct.Struct("!Q")
_STOP, _READ, _WRITE = 0, 1, 2  # priorities: searches overtake writes between two of their steps
_WRITES = frozenset({"upload", "delete_document", "delete_collection", "close"})
# Whoever wrote first waits for no more than these.
WRITES_PER_SYNC = 32
# Priority, order of arrival, and the message: its number, the operation, its arguments or how far it is.
Waiting = queue.PriorityQueue[tuple[int, int, Any]]


def write_frame(stream: IO[bytes], message: object) -> None:
    """Send one message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(FRAME_HEADER.pack(len(body)) + body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Any:
    """Receive one message; ``EOFError`` when the other side is gone."""
    header = stream.read(FRAME_HEADER.size)
    if len(header) < FRAME_HEADER.size:
        raise EOFError
    (length,) = FRAME_HEADER.unpack(header)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return pickle.loads(body)


def serve(path: str, dimensions: str, lock_wait_seconds: str) -> None:
    """Open the shard and answer the parent until it closes or goes away."""
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may write into the replies
    waiting: Waiting = queue.PriorityQueue()
    threading.Thread(target=_receive, args=(requests, waiting), daemon=True).start()

    def given_up() -> bool:
        return bool(waiting.queue) and waiting.queue[0][0] == _STOP

    try:
        shard = Shard(Path(path), int(dimensions), float(lock_wait_seconds), given_up)
    except Exception as error:
        with suppress(OSError):  # the parent may have gone
            write_frame(replies, (0, False, _told("open", error)))
        os._exit(0)
    write_frame(replies, (0, True, None))
    answer(shard, waiting, replies)
    os._exit(0)  # the receiving thread blocks in a read, and an ordinary exit would wait for it


def _receive(requests: IO[bytes], waiting: Waiting) -> None:
    order = itertools.count(1)
    while True:
        try:
            message = read_frame(requests)
        except (EOFError, OSError):
            waiting.put((_STOP, 0, None))
            return
        waiting.put(arrived(next(order), message))


def arrived(order: int, message: tuple[int, str, Any]) -> tuple[int, int, Any]:
    """A message as it waits for its turn."""
    return (_WRITE if message[1] in _WRITES else _READ, order, message)


def answer(shard: Shard, waiting: Waiting, replies: IO[bytes]) -> None:
    """Run requests by priority. A write keeps its place among the writes while searches pass it."""
    written = _Written(shard, replies)
    while True:
        if written.numbers and not (_write_waits(waiting) and len(written.numbers) < WRITES_PER_SYNC):
            written.acknowledge()
        priority, order, message = waiting.get()
        if priority == _STOP:
            shard.close()
            return
        number, operation, arguments = message
        try:
            step = arguments if isinstance(arguments, Generator) else _start(shard, operation, arguments)
            if isinstance(step, Generator):
                next(step)
                waiting.put((priority, order, (number, operation, step)))
                continue
            reply = (number, True, step)
        except StopIteration as finished:
            written.numbers[number] = finished.value
            continue
        except Exception as error:
            reply = (number, False, _told(operation, error))
        write_frame(replies, reply)
        if operation == "close":
            return


class _Written:
    """Writes that are not on disk yet: their numbers, and what they gave."""

    def __init__(self, shard: Shard, replies: IO[bytes]) -> None:
        self._shard = shard
        self._replies = replies
        self.numbers: dict[int, Any] = {}

    def acknowledge(self) -> None:
        """Bring them to disk and answer them."""
        failure = None
        try:
            self._shard.sync()
        except Exception as error:
            failure = _told("sync", error)
        for number, value in self.numbers.items():
            write_frame(self._replies, (number, True, value) if failure is None else (number, False, failure))
        self.numbers.clear()


def _write_waits(waiting: Waiting) -> bool:
    with waiting.mutex:
        return any(priority == _WRITE and message[1] != "close" for priority, _, message in waiting.queue)


def _told(operation: str, error: Exception) -> tuple[str, str]:
    """The name and the text of the error that the caller gets."""
    if isinstance(error, GroundworkError):
        return type(error).__name__, error.detail
    # The library raises plain exceptions.
    print(f"embedded index: {operation} failed: {error!r}", file=sys.stderr)
    return "IndexUnavailable", f"The embedded index failed: {type(error).__name__}"


def _start(shard: Shard, operation: str, arguments: tuple[Any, ...]) -> Any:
    method: Callable[..., Any] = getattr(shard, operation)
    return method(*arguments)

"""Retrieval of the embedded index: speed over 100,000 chunks, and ranking quality with real embeddings.

    python dev.py bench retrieve [--chunks N] [--only speed|quality]

The texts come from the folder GROUNDWORK_BENCH_DATA (default: ../shared/data beside the project). Without
it the speed run makes up its words, and the quality run says that it cannot be done. Vectors of the speed
run are random: exhaustive search costs the same whatever they are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from shared.knowledge.index import Hit, IndexedChunk, IndexSpec, SearchRequest, chunk_key  # noqa: E402
from shared.knowledge.index.embedded import EmbeddedIndex  # noqa: E402

DIMENSIONS = 384
CHUNK_WORDS = 160  # about 1,000 characters
UPLOAD_CHUNKS = 500
QUERIES = 200
GROUPS = 10
P95_BAR_MILLISECONDS = 40.0
NDCG_BAR = 0.973
RRF_K, DEPTH = 60, 100  # of the published baseline
SETS = ("xquad_en", "xquad_de", "xquad_es")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench retrieve")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--only", choices=("speed", "quality"))
    options = parser.parse_args(argv)
    data = Path(os.environ.get("GROUNDWORK_BENCH_DATA", PROJECT.parent / "shared" / "data"))
    met = True
    if options.only != "quality":
        met &= asyncio.run(measure_speed(data, options.chunks))
    if options.only != "speed":
        met &= measure_quality(data)
    return 0 if met else 1


# Speed


async def measure_speed(data: Path, chunks: int) -> bool:
    words = corpus_words(data)
    host = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), IndexSpec("speed", DIMENSIONS))
        await index.ensure()
        shard = psutil.Process(index.process_id)
        host_before, shard_before = host.memory_info().rss, shard.memory_info().rss
        seconds = 0.0
        for batch in made_up_chunks(words, chunks):
            started = time.perf_counter()
            await index.upload(batch)
            seconds += time.perf_counter() - started
        cpu = shard.cpu_times()
        print(f"ingest            {chunks:,} chunks at {chunks / seconds:,.0f}/s, each batch synced to disk,")
        print(f"                  {(cpu.user + cpu.system) / chunks * 1e3:.2f} ms of the shard's CPU a chunk")
        per_10k = (shard.memory_info().rss - shard_before) / chunks * 10_000 / 2**20
        own = shard.memory_full_info().uss / 2**20
        print(f"memory            shard +{per_10k:.0f} MiB per 10,000 chunks ({own:.0f} MiB private),")
        print(f"                  host {(host.memory_info().rss - host_before) / 2**20:+.0f} MiB in all")
        met = await measure_searches(index, words, shard)
        await index.close()
    return met


async def measure_searches(index: EmbeddedIndex, words: Sequence[str], shard: psutil.Process) -> bool:
    access = SearchRequest("acme", ("c0", "c1", "c2"), ("user:alice", "group:1", "group:2"), top=10)
    admitted = (await index.search(replace(access, top=0, count=True))).count
    print(f"filter            admits {admitted:,} chunks: tenant, 3 collections, 3 principals")
    shapes: dict[str, Callable[[str, list[float]], SearchRequest]] = {
        "hybrid": lambda text, vector: replace(access, text=text, vector=vector),
        "hybrid, all": lambda text, vector: replace(
            access, text=text, vector=vector, readers=tuple(f"group:{n}" for n in range(GROUPS))
        ),
        "text only": lambda text, vector: replace(access, text=text),
        "vector only": lambda text, vector: replace(access, vector=vector),
    }
    chance, generator, p95 = random.Random(7), np.random.default_rng(7), {}
    for name, request in shapes.items():
        times, cpu_before = [], sum(shard.cpu_times()[:2])
        for _ in range(QUERIES):
            start = chance.randrange(len(words) - 12)
            text = " ".join(words[start : start + chance.randint(4, 12)])
            wanted = request(text, generator.standard_normal(DIMENSIONS).tolist())
            started = time.perf_counter()
            await index.search(wanted)
            times.append((time.perf_counter() - started) * 1e3)
        times.sort()
        p95[name] = times[int(QUERIES * 0.95)]
        cpu = (sum(shard.cpu_times()[:2]) - cpu_before) / QUERIES * 1e3
        print(f"{name:17} p50 {times[QUERIES // 2]:5.1f} ms   p95 {p95[name]:5.1f} ms   CPU {cpu:5.1f} ms")
    return verdict("hybrid p95", p95["hybrid"], "<=", P95_BAR_MILLISECONDS, "ms")


def corpus_words(data: Path) -> list[str]:
    """Running words of the document corpus, or made-up ones with the frequencies of language."""
    files = sorted((data / "well-architected").rglob("*.md"))
    if files:
        return [word for file in files for word in file.read_text(encoding="utf-8").split()]
    print(f"corpus            not found under {data}: the words are made up")
    generator = np.random.default_rng(3)
    return [f"word{rank}" for rank in np.minimum(generator.zipf(1.3, 500_000), 50_000)]


def made_up_chunks(words: Sequence[str], count: int) -> Iterator[list[IndexedChunk]]:
    chance, generator = random.Random(5), np.random.default_rng(5)
    updated = datetime(2026, 1, 1, tzinfo=UTC)
    for first in range(0, count, UPLOAD_CHUNKS):
        batch = []
        size = min(UPLOAD_CHUNKS, count - first)
        vectors = generator.standard_normal((size, DIMENSIONS)).astype(np.float32)
        for number in range(first, first + size):
            start = chance.randrange(len(words) - CHUNK_WORDS)
            tenant = "acme" if number % 10 else "globex"
            document, ordinal = f"documents/{number // 12}.md", number % 12
            collection = f"c{number // 12 % 4}"
            batch.append(
                IndexedChunk(
                    id=chunk_key(tenant, collection, document, 1, ordinal),
                    tenant=tenant,
                    collection=collection,
                    document=document,
                    version=1,
                    ordinal=ordinal,
                    text=" ".join(words[start : start + CHUNK_WORDS]),
                    title=f"Document {number // 12}",
                    headings=("Overview",),
                    page=ordinal + 1,
                    page_end=ordinal + 1,
                    start=ordinal * 1000,
                    end=ordinal * 1000 + 1000,
                    media_type="text/markdown",
                    source="wiki",
                    tags=(f"t{number % 7}",),
                    updated=updated,
                    readers=(f"group:{number % GROUPS}", f"group:{(number + 3) % GROUPS}"),
                    vector=vectors[number - first].tolist(),
                )
            )
        yield batch


# Quality

Question = tuple[str, frozenset[str]]  # its text and the ids of the passages that answer it


def measure_quality(data: Path) -> bool:
    from modelhost.embeddings import Embedder

    sets = [name for name in SETS if (data / name / "corpus.jsonl").exists()]
    if SETS[0] not in sets:
        print(f"quality           not measured: there is no {SETS[0]} under {data}")
        return False
    embedder = Embedder()
    print("nDCG@10 / recall@100     BM25            dense           RRF             fused")
    met = True
    for name in sets:
        figures = asyncio.run(measure_set(data / name, embedder))
        cells = "   ".join(f"{ndcg:.4f} / {recall:.3f}" for ndcg, recall in figures.values())
        print(f"{name:22}   {cells}")
        if name == SETS[0]:
            met = verdict(f"{name} nDCG@10", figures["fused"][0], ">=", NDCG_BAR)
    embedder.close()
    return met


async def measure_set(folder: Path, embedder: Any) -> dict[str, tuple[float, float]]:
    passages = read_lines(folder / "corpus.jsonl")
    questions = read_questions(folder)
    asked = embedder.embed([text for text, _ in questions])
    with tempfile.TemporaryDirectory() as index_folder:
        index = EmbeddedIndex(Path(index_folder), IndexSpec("quality", DIMENSIONS))
        await index.upload(list(passage_chunks(passages, embedder)))
        request = SearchRequest("bench", ("set",), ("tenant:*",), top=DEPTH)
        runs: dict[str, list[list[str]]] = {"bm25": [], "dense": [], "rrf": [], "fused": []}
        for (text, _), vector in zip(questions, asked, strict=True):
            lexical = await index.search(replace(request, text=text))
            dense = await index.search(replace(request, vector=vector))
            fused = await index.search(replace(request, text=text, vector=vector))
            runs["bm25"].append(documents(lexical.hits))
            runs["dense"].append(documents(dense.hits))
            runs["rrf"].append(reciprocal_ranks(runs["bm25"][-1], runs["dense"][-1]))
            runs["fused"].append(documents(fused.hits))
        await index.close()
    relevant = [answers for _, answers in questions]
    return {name: (ndcg_at_10(run, relevant), recall(run, relevant)) for name, run in runs.items()}


def passage_chunks(passages: Sequence[Mapping[str, Any]], embedder: Any) -> Iterator[IndexedChunk]:
    updated = datetime(2026, 1, 1, tzinfo=UTC)
    pieces = [
        (passage, ordinal, piece)
        for passage in passages
        for ordinal, piece in enumerate(cut_to_model(passage["text"], embedder))
    ]
    vectors = embedder.embed([piece for _, _, piece in pieces])
    for (passage, ordinal, piece), vector in zip(pieces, vectors, strict=True):
        yield IndexedChunk(
            id=chunk_key("bench", "set", passage["_id"], 1, ordinal),
            tenant="bench",
            collection="set",
            document=passage["_id"],
            version=1,
            ordinal=ordinal,
            text=piece,
            title=passage.get("title", "").replace("_", " "),
            headings=(),
            page=None,
            page_end=None,
            start=0,
            end=len(piece),
            media_type="text/plain",
            source="bench",
            tags=(),
            updated=updated,
            readers=("tenant:*",),
            vector=vector,
        )


def cut_to_model(text: str, embedder: Any) -> list[str]:
    """Halves of halves until the embedding model sees each whole, as the product's chunks are."""
    from modelhost.embeddings import InputTooLong

    try:
        embedder.encode([text])
        return [text]
    except InputTooLong:
        words = text.split()
        middle = len(words) // 2
        halves = " ".join(words[:middle]), " ".join(words[middle:])
        return [piece for half in halves for piece in cut_to_model(half, embedder)]


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_questions(folder: Path) -> list[Question]:
    answers: dict[str, set[str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, passage, score = line.split("\t")
        if int(score) > 0:
            answers.setdefault(question, set()).add(passage)
    lines = read_lines(folder / "queries.jsonl")
    return [(line["text"], frozenset(answers[line["_id"]])) for line in lines if line["_id"] in answers]


def documents(hits: Sequence[Hit]) -> list[str]:
    """The passages in the order of their best chunk."""
    return list(dict.fromkeys(hit.chunk.document for hit in hits))


def reciprocal_ranks(*rankings: Sequence[str]) -> list[str]:
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(ranking[:DEPTH], 1):
            scores[document] = scores.get(document, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores, key=lambda document: -scores[document])


def ndcg_at_10(runs: Sequence[Sequence[str]], relevant: Sequence[frozenset[str]]) -> float:
    total = 0.0
    for run, answers in zip(runs, relevant, strict=True):
        gained = sum(1 / math.log2(rank + 2) for rank, name in enumerate(run[:10]) if name in answers)
        total += gained / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(answers))))
    return total / len(runs)


def recall(runs: Sequence[Sequence[str]], relevant: Sequence[frozenset[str]]) -> float:
    found = (
        len(answers & set(run[:100])) / len(answers) for run, answers in zip(runs, relevant, strict=True)
    )
    return sum(found) / len(runs)


def verdict(what: str, figure: float, relation: str, bar: float, unit: str = "") -> bool:
    met = figure <= bar if relation == "<=" else figure >= bar
    print(f"{'met' if met else 'MISSED'}: {what} {figure:.4g}{unit} {relation} {bar:g}{unit}")
    return met


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

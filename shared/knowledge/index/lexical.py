"""BM25 term vectors of chunks and queries.

One stemmer serves every language, so that a word has one form whatever chunk it stands in. Stemming each
chunk in the language it seems to be written in was tried and is worse in a mixed collection: the few
chunks that are taken for another language hold rare forms, and rare forms weigh most in BM25
(`docs/search-index.md` has the figures).
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qdrant_edge import Bm25, SparseVector

TERM_SATURATION_K1 = 1.2  # Robertson & Zaragoza, "The Probabilistic Relevance Framework" (2009), and Lucene
LENGTH_NORMALISATION_B = 0.75  # the same
AVERAGE_TERMS = 150.0  # a chunk of 1,600 characters without its stop words
DEFAULT_LANGUAGE = "english"

# The most frequent function words: they tell which language's stop words to take out of a query.
FUNCTION_WORDS = {
    "english": "the of and to in is that for it was on with as by at from this be are or which not an what",
    "german": "der die und den von zu das mit sich des auf für ist im dem nicht ein eine auch es nach was",
    "french": "le les et des en un du une est pour que qui dans par sur au plus pas ce avec sont aux quel",
    "spanish": "el los y las en del se un por con una su para es al como más fue lo sus pero entre este qué",
    "italian": "il di che la per un del è con non una sono della si le dei nel gli alla come da più quale",
    "portuguese": "os e do da em um para com não uma dos no se na por mais as foi ao como das pelo são qual",
    "dutch": "de het een van en in is dat op te zijn met voor niet aan er om ook als door maar bij naar wat",
    "swedish": "och att det som en på är av för med till den har inte ett om var i från eller vid kan så vad",
    "danish": "og at det som en på er af for med til den har ikke et om var i fra eller ved kan så hvad",
    "finnish": "ja on ei se että oli hän mutta ovat kun myös joka tai sen niin kuin olla mukaan mikä mitä",
    "russian": "и в не на что с по как из к а для это от его но был за или при также до году",
}
_WORD = re.compile(r"[^\W\d_]+")
# Thai, Lao, Burmese, Khmer, kana and Han are written without spaces between words.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_UNSPACED_SHARE = 0.25  # of a chunk's letters, from which on it is cut by dictionary instead of by spaces


@cache
def _model(language: str, by_dictionary: bool = False) -> Bm25:
    import qdrant_edge as edge

    tokenizer = edge.TokenizerType.Multilingual if by_dictionary else edge.TokenizerType.Word
    return edge.Bm25(
        edge.Bm25Config(
            k=TERM_SATURATION_K1,
            b=LENGTH_NORMALISATION_B,
            avg_len=AVERAGE_TERMS,
            language=language,
            tokenizer=tokenizer,
        )
    )


def chunk_terms(text: str) -> SparseVector:
    """Term weights of a chunk: saturated frequency, normalised by length."""
    by_dictionary = len(_UNSPACED.findall(text)) > _UNSPACED_SHARE * len(text)
    return _model(DEFAULT_LANGUAGE, by_dictionary).embed_document(text)


def query_terms(text: str) -> SparseVector:
    """Each distinct stem of the query's content words once; empty where the query has none."""
    import qdrant_edge as edge

    content = content_words(text)
    stems = set(_model(DEFAULT_LANGUAGE).embed_query(content).indices)
    if _UNSPACED.search(content):
        stems.update(_model(DEFAULT_LANGUAGE, by_dictionary=True).embed_query(content).indices)
    return edge.SparseVector(indices=sorted(stems), values=[1.0] * len(stems))


def content_words(text: str) -> str:
    """The text without the stop words of the languages it may be in."""
    languages = likely_languages(text)
    return " ".join(
        word
        for word in text.split()
        if all(_model(language).embed_query(word).indices for language in languages)
    )


def likely_languages(text: str) -> list[str]:
    """Languages with at least half as many function words in the text as the first; else English."""
    languages_by_word = _languages_by_word()
    evidence: dict[str, float] = {}
    for word in _WORD.findall(text.lower()):
        languages = languages_by_word.get(word, ())
        for language in languages:
            evidence[language] = evidence.get(language, 0.0) + 1 / len(languages)
    first = max(evidence.values(), default=0.0)
    return [language for language, weight in evidence.items() if weight * 2 >= first] or [DEFAULT_LANGUAGE]


@cache
def _languages_by_word() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for language, words in FUNCTION_WORDS.items():
        for word in words.split():
            found[word] = (*found.get(word, ()), language)
    return found

"""Fusing vector similarity with keyword coverage: the embedding is lexical and blurs, exact words sharpen it.

score = 0.5 x cosine + 0.5 x coverage, where coverage is the share of the query's weight (inverse document frequency
among the candidates) that the passage holds, each word saturated as in BM25 (Robertson & Zaragoza 2009, k1 = 1.2).
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from driftwarden.contracts.ports import JsonObject
from driftwarden.knowledge.passages import Kind
from driftwarden.knowledge.texts import stems

VECTOR_WEIGHT = 0.5
SATURATION = 1.2


class Candidate(NamedTuple):
    """A passage that may answer: its cosine similarity to the query, what is known of it, and its text."""

    kind: Kind
    similarity: float
    metadata: JsonObject
    text: str


def rank(query: str, candidates: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
    """The candidates with scores 0..1, best first; equal scores in the order of parent and position."""
    counts = [_counts(candidate.text) for candidate in candidates]
    weights = _weights(set(stems(query)), counts)
    total = sum(weights.values())
    scored = []
    for candidate, count in zip(candidates, counts, strict=True):
        held = sum(weight * _saturated(count[stem]) for stem, weight in weights.items() if stem in count)
        coverage = held / total if total else 0.0
        score = VECTOR_WEIGHT * max(0.0, candidate.similarity) + (1 - VECTOR_WEIGHT) * coverage
        scored.append((min(1.0, score), candidate))
    return sorted(scored, key=lambda item: (-item[0], item[1].metadata["parent"], item[1].metadata["position"]))


@lru_cache(maxsize=4096)
def _counts(text: str) -> Counter[str]:
    return Counter(stems(text))


def _weights(query: set[str], counts: list[Counter[str]]) -> dict[str, float]:
    total = len(counts)
    return {
        stem: math.log(1 + (total + 0.5) / (sum(stem in count for count in counts) + 0.5)) for stem in sorted(query)
    }


def _saturated(count: int) -> float:
    return min(1.0, count * (SATURATION + 1) / (count + SATURATION) / 1.5)

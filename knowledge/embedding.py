"""An embedding that needs no download: hashed word stems and character n-grams, sublinear counts, unit length.

Method: feature hashing with signs (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning").
It is lexical, so search fuses it with keyword coverage (`ranking.py`). Import only where Chroma is used: it is heavy.
"""

import math
import zlib
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from driftwarden.knowledge.texts import stems

DIMENSIONS = 1024
GRAM_SIZES = (3, 4, 5)
GRAM_WEIGHT = 0.35


def embed(text: str, dimensions: int = DIMENSIONS) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """One text as a float32 vector of length 1; a text without words is the first unit vector, never the origin."""
    stemmed = Counter(stems(text))
    grams: Counter[str] = Counter()
    for stem, count in stemmed.items():
        for gram in _grams(stem):
            grams[gram] += count
    places: dict[int, float] = {}
    for hashed_of, features, weight in ((_word, stemmed, 1.0), (_gram, grams, GRAM_WEIGHT)):
        for feature, count in features.items():
            hashed = hashed_of(feature)
            told = weight * (1.0 + math.log(count))
            place = hashed % dimensions
            places[place] = places.get(place, 0.0) + (told if hashed & 0x80000000 else -told)
    vector = np.zeros(dimensions, dtype=np.float64)
    if places:
        vector[list(places)] = list(places.values())
    length = float(np.linalg.norm(vector))
    if length == 0.0:
        vector[0] = length = 1.0
    return (vector / length).astype(np.float32)


# Texts of incidents share most of their words: what a word comes to is remembered.
@lru_cache(maxsize=4096)
def _grams(stem: str) -> tuple[str, ...]:
    padded = f" {stem} "
    return tuple(padded[start : start + size] for size in GRAM_SIZES for start in range(len(padded) - size + 1))


@lru_cache(maxsize=4096)
def _word(stem: str) -> int:
    return zlib.crc32(f"w:{stem}".encode())


@lru_cache(maxsize=16384)
def _gram(gram: str) -> int:
    return zlib.crc32(f"g:{gram}".encode())


@register_embedding_function
class HashedText(EmbeddingFunction[Documents]):
    """The embedding as Chroma knows it, by name and configuration."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        """Embed into `dimensions` numbers."""
        self._dimensions = dimensions

    def __call__(self, input: Documents) -> Embeddings:
        """One float32 vector of unit length for each document."""
        return [embed(document, self._dimensions) for document in input]

    @staticmethod
    def name() -> str:
        """The name under which collections remember it."""
        return "driftwarden-hashed-text-1"

    def default_space(self) -> Any:
        """Cosine: one vector near the origin ruins recall under squared distance."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """What `build_from_config` needs."""
        return {"dimensions": self._dimensions}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "HashedText":
        """The embedding of a stored collection."""
        return HashedText(int(config.get("dimensions", DIMENSIONS)))

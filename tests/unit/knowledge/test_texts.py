"""Texts are cleaned, bounded and embedded the same way everywhere."""

import subprocess
import sys
import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.knowledge.embedding import DIMENSIONS, HashedText, embed
from driftwarden.knowledge.texts import TEXT_CHARS_MAX, bounded, clean, line, stems, words


@given(st.text(max_size=3_000))
def test_nothing_that_a_terminal_obeys_survives(text: str) -> None:
    """No control, format or surrogate character is left, and the bound holds."""
    result = bounded(text)
    assert len(result) <= TEXT_CHARS_MAX
    assert all(char in "\n\t" or unicodedata.category(char)[0] != "C" for char in result)
    assert "\n" not in line(text)


def test_escapes_and_overrides_are_removed() -> None:
    """An escape sequence loses its escape, a bidirectional override vanishes, line breaks stay."""
    assert clean("a\x1b[31mred\x00\u202eb\r\nc\u2028d") == "a[31mredb\nc\nd"


@given(st.text(max_size=300))
def test_every_text_becomes_a_unit_vector(text: str) -> None:
    """Length 1 whatever the text: nothing lies near the origin."""
    assert abs(float(np.linalg.norm(embed(text))) - 1.0) < 1e-5


def test_the_embedding_is_the_same_in_another_process() -> None:
    """String hashing that changes from process to process has no part in it."""
    code = "from driftwarden.knowledge.embedding import embed; print(embed('frozen sensor').tobytes().hex())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == embed("frozen sensor").tobytes().hex()


def test_the_embedding_can_be_made_again_from_its_configuration() -> None:
    """Chroma remembers name and configuration only, and knows the name."""
    from chromadb.utils.embedding_functions import known_embedding_functions

    function = HashedText.build_from_config(HashedText().get_config())
    assert known_embedding_functions[HashedText.name()] is HashedText
    assert function(["stuck sensor"])[0].shape == (DIMENSIONS,)
    assert function.default_space() == "cosine"


def test_words_of_one_root_meet() -> None:
    """Names give their parts, endings fall away, stop words have no weight."""
    assert words("the unit_change of it") == ["unit_change", "unit", "change"]
    assert set(stems("readings missing replaced")) == set(stems("reading missed replace"))

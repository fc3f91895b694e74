"""The text that an incident is stored as: JSON and nothing else."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.service.workflow.shard import _document

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_it_reads_back_as_it_was(document: dict[str, object]) -> None:
    """Whatever JSON can hold."""
    assert json.loads(_document(document)) == document


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    """Neither written as a word that no JSON has, nor as null, which would read as something that is not known."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        _document({"events": [{"score": number}]})


def test_their_names_in_a_text_are_a_text() -> None:
    """What a column is called is nobody's number."""
    document = {"columns": ["NaN", "Infinity"], "-Infinity": 'a "NaN", quoted'}
    assert json.loads(_document(document)) == document

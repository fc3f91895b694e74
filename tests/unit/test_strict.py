"""Strict reading and canonical writing: nothing is converted in silence, and one document has one form."""

import json
from decimal import Decimal
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.errors import BadInput
from driftwarden.strict import canonical_json, decimal_text, digest, load_yaml, loads_json, numbers_as_text, plain

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6)


@given(DOCUMENTS)
def test_canonical_json_is_rfc_8785(document: Any) -> None:
    """Byte for byte what an independent implementation writes, and it reads back as it was."""
    written = canonical_json(document)
    assert written == rfc8785.dumps(document)
    assert loads_json(written) == document


@pytest.mark.parametrize(
    "value", [1.5, float("nan"), {"é": 1}, {1: 2}, 2**53, -(2**53), Decimal(1), {"a": {1, 2}}, "\ud800"], ids=repr
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """Floats, keys that are not ASCII strings, integers beyond 2^53, sets and lone surrogates."""
    with pytest.raises(ValueError):
        canonical_json(value)


@given(
    st.recursive(
        SCALARS | st.floats() | DECIMALS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner, max_size=3)
    )
)
def test_plain_gives_every_document_a_canonical_form(value: Any) -> None:
    """Whatever comes, it can be written and read, and making it plain again changes nothing."""
    made = plain(value)
    assert loads_json(canonical_json(made)) == made
    assert plain(made) == made


@given(DECIMALS)
def test_decimal_text_is_exact_and_short(number: Decimal) -> None:
    """The same number, without exponent, trailing zeros or negative zero, however it was written."""
    text = decimal_text(number)
    assert Decimal(text) == number
    assert "e" not in text.lower()
    assert text != "-0"
    assert decimal_text(number * Decimal("1.000")) == text
    assert not (text.endswith(("0", ".")) and "." in text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_its_shortest_digits(number: float) -> None:
    """What Python shows is what is written: it reads back as the very same float."""
    assert float(plain(number)) == number


def test_an_enormous_exponent_stays_short() -> None:
    """One number cannot become a megabyte of zeros."""
    assert decimal_text(Decimal("1e999999")) == "1e999999"
    with pytest.raises(ValueError, match="finite"):
        decimal_text(Decimal("NaN"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"p": 0.9}, {"p": "0.90"}),
        ({"p": Decimal("0.900")}, {"p": "9e-1"}),
        ({"a": 1, "b": 2}, {"b": "2.0", "a": 1}),
        ((1, 2), ["1", "2"]),
    ],
)
def test_equal_numbers_have_one_digest(one: Any, other: Any) -> None:
    """However a number is written, as a number or as text, the digest is that of its value."""
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), [(True, "true"), (1, True), ("1a", "1.0a"), (None, "null"), ("", None)])
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    """Truth values, nothing, and text that only resembles a number stay themselves."""
    assert digest({"v": one}) != digest({"v": other})
    with pytest.raises(ValueError, match="cannot be digested"):
        numbers_as_text(object())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "duplicate key"),
        ('{"a": {"b": 1, "b": 1}}', "duplicate key"),
        ('{"a": NaN}', "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("[1e999]", "out of range"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ("{'a': 1}", "line 1"),
        ("", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "not a JSON number"),
    ],
)
def test_json_is_read_strictly(text: str | bytes, said: str) -> None:
    """One line that names the place and what was got; never another exception."""
    with pytest.raises(BadInput, match=r"facts\.json") as caught:
        loads_json(text, where="facts.json")
    assert said in caught.value.diagnostics()
    assert "\n" not in caught.value.diagnostics()


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_json_reading_has_one_way_to_fail(text: str | bytes) -> None:
    """Any text either is JSON as the standard library reads it, or BadInput."""
    try:
        value = loads_json(text)
    except BadInput:
        return
    assert json.dumps(value) == json.dumps(json.loads(text))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 22:30", 2, "22:30"),
        ("a: NO", 1, "NO"),
        ("a: .nan", 1, ".nan"),
        ("a: 1_000", 1, "1_000"),
        ("a: 1\na: 2", 2, "duplicate key"),
        ("a: &x [1]\nb: *x", None, "alias"),
        ("a: !!python/object:os.system x", 1, "os.system"),
        ("? [a]\n: b", 1, "YAML key"),
        ("<<: {a: 1}", 1, "YAML key"),
        ("a: [", 1, "not YAML"),
        ("a: 1\n---\nb: 2", None, "one YAML document"),
        ("[" * 5000, None, "policy.yml"),
    ],
)
def test_yaml_is_read_strictly(text: str, line: int | None, said: str) -> None:
    """What YAML would convert, merge or run in silence is refused, with file and line."""
    with pytest.raises(BadInput, match=r"policy\.yml") as caught:
        load_yaml(text, where="policy.yml")
    shown = caught.value.diagnostics()
    assert said in shown
    assert line is None or f"policy.yml:{line}" in shown


def test_yaml_keeps_values_and_lines() -> None:
    """Quoted stays text, dates stay text, and each path knows its line."""
    data, lines = load_yaml('a: "22:30"\nb:\n  - 2026-11-20\n  - true\n  - 1.5\nc: null\n', where="x")
    assert data == {"a": "22:30", "b": ["2026-11-20", True, 1.5], "c": None}
    assert (lines[("b",)], lines[("b", 2)], lines[("c",)]) == (2, 5, 6)
    assert load_yaml("1: 0o17", where="x")[0] == {"1": "0o17"}
    assert load_yaml("", where="x") == (None, {(): 1})

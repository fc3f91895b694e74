"""Canonical JSON against rfc8785, proofs against the definition of RFC 6962, the two codecs against each other."""

import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.audit import Record, json_schema
from driftwarden.audit.codec import (
    NotCanonical,
    _decode_fast,
    _decode_slow,
    _encode_plain,
    decode_canonical,
    encode,
    is_canonical_object,
)
from driftwarden.audit.export import Prover
from driftwarden.audit.merkle import Tree, leaf_hash, root_from_path
from driftwarden.audit.scan import FileScan
from driftwarden.strict import plain

_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(_DOCUMENTS)
def test_lines_are_those_of_rfc_8785(value: Any) -> None:
    """Given any document made plain, both encoders write what rfc8785 writes, and both decoders take it back."""
    document = plain(value)
    expected = rfc8785.dumps(document)
    assert encode(document) == _encode_plain(document) == expected
    assert _decode_fast(expected) == _decode_slow(expected) == document


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b'{"a":1.5}', b'{"a":1e3}', b'{"a":1.0}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-0}', b'{"a": 1}',
        b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":"\\u0041"}', b'{"a":"\\/"}', b'{"a":"\xff"}', b'{"a":"\\ud800"}',
        b'{"a":9007199254740992}', b'{"a":1' + b"0" * 5000 + b"}", '{"é":1}'.encode(), b"[" * 100_000, b'{"a":01}',
        b'{"a":"\x01"}', b'{"a":"\\u001F"}', b"{}\x00", b"\xef\xbb\xbf{}", b'{"a":"\xed\xa0\x80"}',
    ],
)  # fmt: skip
def test_other_spellings_are_refused_by_both_decoders(line: bytes) -> None:
    """Given bytes that are not canonical, both decoders refuse them alike, without any other error."""
    for decode in (_decode_fast, _decode_slow, decode_canonical):
        with pytest.raises(NotCanonical):
            decode(line)


def _is_object_slowly(data: bytes) -> bool:
    try:
        return type(_decode_slow(data)) is dict
    except NotCanonical:
        return False


@given(_DOCUMENTS, st.booleans(), st.booleans(), st.data())
def test_what_is_quickly_said_to_be_canonical_is(value: Any, ordered: bool, escaped: bool, data: st.DataObject) -> None:
    """Given any object in any spelling, whole and with some bytes exchanged, the quick answer is that of the slow way."""
    text = json.dumps({"x": value}, sort_keys=ordered, ensure_ascii=escaped, separators=(",", ":"))
    spelled = text.encode("utf-8", "surrogatepass")
    start = data.draw(st.integers(0, len(spelled)))
    end = data.draw(st.integers(start, min(len(spelled), start + 3)))
    middle = data.draw(
        st.sampled_from([b"", b" ", b'"', b"\\u0041", b"0", b".5", b"e1", b"-0", b",", b"}", b"\n", b"\xc3\xa9"])
    )
    for candidate in (spelled, spelled[:start] + middle + spelled[end:], encode(plain({"x": value}))):
        assert is_canonical_object(candidate) is _is_object_slowly(candidate)


def _root(entries: list[bytes]) -> bytes:
    if len(entries) < 2:
        return hashlib.sha256(b"\x00" + entries[0] if entries else b"").digest()
    split = 1 << (len(entries) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _root(entries[:split]) + _root(entries[split:])).digest()


@given(st.lists(st.integers(min_value=0, max_value=9), max_size=12))
def test_the_growing_tree_is_that_of_rfc_6962(steps: list[int]) -> None:
    """Given leaves that come one by one or in batches, the root is that of the recursive definition at every step."""
    tree, single = Tree(), Tree()
    entries: list[bytes] = []
    for step in steps:
        fresh = [bytes([len(entries) + index]) * 3 for index in range(step)]
        entries += fresh
        tree.extend(b"".join(leaf_hash(entry) for entry in fresh))
        for entry in fresh:
            single.add(leaf_hash(entry))
        assert tree.root() == single.root() == _root(entries)
        assert tree.size == single.size == len(entries)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_paths_lead_to_the_root_and_only_from_their_leaf(size: int, tmp_path: Any) -> None:
    """Given a proof, it leads from its leaf to the root; from another place or with another length it does not."""
    entries = [bytes([index]) for index in range(size)]
    scan = FileScan(tmp_path / "x", leaves=bytearray(b"".join(map(leaf_hash, entries))))
    (tmp_path / "none").mkdir()
    prover = Prover(tmp_path / "none")
    for index in range(size):
        path = prover._path(scan, 0, size, index)
        assert root_from_path(leaf_hash(entries[index]), index, size, path) == _root(entries)
        assert root_from_path(leaf_hash(b"other"), index, size, path) != _root(entries)
        with pytest.raises(ValueError, match="too long"):
            root_from_path(leaf_hash(entries[index]), index, size, [*path, b"\x00" * 32])
        if path:
            with pytest.raises(ValueError, match="too short"):
                root_from_path(leaf_hash(entries[index]), index, size, path[:-1])


def test_the_published_schema_names_the_fields_of_a_line(pristine: Any) -> None:
    """Given the JSON Schema, its properties are the keys of a line, and lines of the log read as records."""
    schema = json_schema()
    line = json.loads(next(pristine.glob("cli-*")).read_bytes().splitlines()[1])
    assert set(schema["properties"]) == set(schema["required"]) == set(line)
    assert schema["additionalProperties"] is False
    assert Record.model_validate(line).to_json() == line

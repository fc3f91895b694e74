"""The quick way through a file against the close look at every line: what one takes the other takes, fault by fault."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftwarden.audit import codec
from driftwarden.audit.record import HASH_END, REST, seal
from driftwarden.audit.scan import Scanner

_BODY = {"a": [1, -7, 2**53 - 1, None, True], "b": {"text": 'say "é"\n', "x": "\\u0041"}, "c": ""}


def _scanned(path: Path, *, strict: bool, quick: bool) -> dict[str, Any]:
    def closely(self: Scanner, lines: Iterator[bytes]) -> bytes | None:
        return next(lines, None)

    with mock.patch.object(Scanner, "_follow", Scanner._follow if quick else closely):
        return asdict(Scanner(path, strict=strict).run())


def _agreed(path: Path, *, strict: bool = True) -> dict[str, Any]:
    quick, close = (_scanned(path, strict=strict, quick=way) for way in (True, False))
    assert quick == close
    return quick


def _record(body: bytes, **fields: bytes) -> bytes:
    """A record without its hash after a first one of 64 zeros; `fields` in their canonical spelling."""
    values = {
        "actor": b'{"id":"worker-1","kind":"service"}', "body": body, "causation": b"null",
        "correlation_id": b'"%b"' % (b"ab" * 16), "incident": b'"inc-1"', "prev": b'"%b"' % (b"0" * 64), "seq": b"0",
        "stream": b'"serve"', "ts": b'"2026-11-20T09:00:00.000001Z"', "type": b'"event"', "v": b"1",
    } | fields  # fmt: skip
    return b"{" + b",".join(b'"%b":%b' % (key.encode(), value) for key, value in values.items()) + b"}"


_FIRST, _FIRST_HASH = seal(_record(b"{}"))


def _second(body: bytes, **fields: bytes) -> bytes:
    return _record(body, **{"prev": b'"%b"' % _FIRST_HASH.encode(), "seq": b"1", **fields})


def _write(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in (_FIRST, *(seal(record)[0] for record in records))))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the file of the moment stands."""
    return tmp_path_factory.mktemp("scan") / "serve.jsonl"


@pytest.mark.parametrize("strict", [True, False])
def test_both_ways_see_the_same_in_a_whole_log(pristine: Path, strict: bool) -> None:
    """Given every file of a whole log, both ways find the same hashes, leaves, references and checkpoints."""
    for file in pristine.glob("*.jsonl"):
        scan = _agreed(file, strict=strict)
        assert scan["fault"] is None
        assert scan["records"] == file.read_bytes().count(b"\n")


@pytest.mark.parametrize("strict", [True, False])
def test_a_changed_byte_that_is_hashed_again_is_judged_alike(path: Path, strict: bool) -> None:
    """Given every byte of a record replaced, doubled or dropped, and a hash that fits, both ways say the same of it."""
    whole = _second(codec.encode(_BODY))
    assert _agreed(_write(path, whole), strict=strict)["records"] == 2
    taken = 0
    for at in range(1, len(whole)):
        held = whole[at : at + 1]
        for other in (
            b"",
            held + held,
            b'"',
            b"\\",
            b" ",
            b"\x00",
            b"\x7f",
            b"\xff",
            b"0",
            b".",
            b"e",
            b"}",
            b",",
            b"A",
        ):
            taken += _agreed(_write(path, whole[:at] + other + whole[at + 1 :]), strict=strict)["records"] == 2
    assert taken > 100


def test_a_changed_byte_of_a_line_is_judged_alike(path: Path) -> None:
    """Given every byte of a line replaced or dropped, its hash included, no way takes it."""
    _write(path, _second(codec.encode(_BODY)))
    first, line, _ = path.read_bytes().split(b"\n")
    for at in range(len(line)):
        for other in (b"", b"\x00", bytes([line[at] ^ 1]), bytes([line[at] ^ 32])):
            path.write_bytes(first + b"\n" + line[:at] + other + line[at + 1 :] + b"\n")
            assert _agreed(path, strict=at % 2 == 0)["records"] == 1


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(_VALUES, st.booleans(), st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
@example({"b": 1, "a": 2}, False, False, (",", ":"))
@example({"a": 9007199254740992}, True, False, (",", ":"))
@example({"a": 1e22}, True, False, (",", ":"))
@example({"é": 1}, True, False, (",", ":"))
@example({"a": "\ud800"}, True, True, (",", ":"))
def test_other_spellings_of_a_body_are_judged_alike(
    path: Path, value: Any, ordered: bool, escaped: bool, separators: tuple[str, str]
) -> None:
    """Given any document in any spelling of the standard library, it is taken where the strict decoder takes the line."""
    text = json.dumps(value, sort_keys=ordered, ensure_ascii=escaped, separators=separators)
    record = _second(text.encode("utf-8", "surrogatepass"))
    try:
        taken = type(codec._decode_slow(seal(record)[0])["body"]) is dict
    except codec.NotCanonical:
        taken = False
    assert (_agreed(_write(path, record))["records"] == 2) is taken


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}', b'{"a":-0}', b'{"a":1.0}', b'{"a":1e2}', b'{"a":01}', b'{"a":"\\u0041"}', b'{"a":"\\/"}', b'{"a":1} ',
        b'{"a":"\xed\xa0\x80"}', b'{"a":"\xff"}', b"[1]", b"null", b'"{}"', b"", b'{},"body":{}', b'{}},"body":{', b'{"a":NaN}',
        b'{},"causation":null,"correlation_id":null,"incident":null', b'{"a":"\\u001F"}', b"{}\x00", b'{"a":9007199254740992}',
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ],
)  # fmt: skip
def test_what_the_strict_decoder_refuses_is_refused(path: Path, body: bytes) -> None:
    """Given a body in no canonical form, or that holds the fields that follow it, both ways refuse it alike."""
    scan = _agreed(_write(path, _second(body)))
    assert scan["records"] == 1
    assert scan["fault"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", b'{"id":"a\\nb","kind":"human"}'), ("actor", b'{"id":"\xc3\xa9","kind":"agent"}'), ("incident", b"null"),
        ("incident", b'"say \\"hello\\""'), ("incident", b'"\xc3\xa9"'), ("causation", b'"%b"' % (b"0" * 64)),
        ("correlation_id", b"null"), ("type", b'"close"'), ("ts", b'"2028-02-29T23:59:59.999999Z"'),
        ("incident", b'",\\"causation\\":null"'), ("incident", b'"\x7f"'),
    ],
)  # fmt: skip
def test_unusual_fields_are_taken(path: Path, field: str, value: bytes) -> None:
    """Given a field that the quick way does not know, or whose text looks like another field, the record is taken."""
    third = seal(_second(b"{}", **{field: value}))[1]
    later = b'"2028-12-31T00:00:00.000000Z"'
    last = _record(b"{}", prev=b'"%b"' % third.encode(), seq=b"2", ts=later)
    assert _agreed(_write(path, _second(b"{}", **{field: value}), last))["records"] == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ts", b'"2027-02-29T09:00:00.000000Z"'), ("ts", b'"2026-11-20T09:00:60.000000Z"'), ("v", b"2"), ("type", b'"novel"'),
        ("ts", b'"2026-11-20T08:00:00.000000Z"'), ("ts", b'"2026-11-20T09:00:00.00000aZ"'), ("seq", b"2"), ("seq", b"01"),
        ("prev", b'"%b"' % (b"0" * 64)), ("stream", b'"other"'), ("actor", b'{"id":"a","kind":"robot"}'),
        ("actor", b'{"id":7,"kind":"human"}'), ("actor", b'{"kind":"human","id":"a"}'), ("incident", b"7"), ("incident", b'"\t"'),
        ("causation", b'"%b"' % (b"A" * 64)), ("correlation_id", b'"%b"' % (b"a" * 31)), ("correlation_id", b'"\\u0061"'),
    ],
)  # fmt: skip
def test_fields_that_the_format_does_not_allow_are_refused(path: Path, field: str, value: bytes) -> None:
    """Given a field with a wrong value in canonical form or not, both ways refuse the record alike."""
    assert _agreed(_write(path, _second(b"{}", **{field: value})))["records"] == 1


def test_the_own_hash_stands_where_the_format_says() -> None:
    """Given the constants of a line, they cut out its hash and what is hashed."""
    assert _FIRST[10:HASH_END].decode() == _FIRST_HASH
    assert b"{" + _FIRST[REST:] == _record(b"{}")


def test_the_standard_library_alone_takes_the_same_bodies() -> None:
    """Given canonical and other bytes, `is_canonical_object` says the same with and without the fast libraries."""
    for data in (
        codec.encode(_BODY),
        b"{}",
        b"[1]",
        b'{"a":1.5}',
        b'{"a": 1}',
        b"",
        b"{",
        '{"é":1}'.encode(),
        b'{"a":"\xff"}',
    ):
        quick = codec.is_canonical_object(data)
        with mock.patch.object(codec, "FAST", False):
            assert codec.is_canonical_object(data) is quick
    assert codec.is_canonical_object(codec.encode(_BODY))

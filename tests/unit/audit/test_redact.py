"""Secrets never reach a record, and what is no secret stays as it was."""

from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.audit import codec
from driftwarden.audit.codec import encode
from driftwarden.audit.redact import _EMBEDDED, _PATTERNS, REDACTED, clean_bytes, redact, redact_text
from driftwarden.strict import plain

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals(allow_nan=True)
    | st.text()
    | st.just("a token")
)
_DOCUMENTS = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
)


@given(_DOCUMENTS)
def test_the_quick_way_is_the_plain_way(value: Any) -> None:
    """Given any document, the bytes are those of making it plain and redacting it."""
    assert clean_bytes({"x": value}) == encode(redact(plain({"x": value})))


# Pieces of secrets and of what only resembles them; "K" is the Kelvin sign, a k to a pattern that ignores case.
_PIECES = (
    "postgres://", "user:", "pa55", "@", "Bearer ", "Basic ", "AKIA", "ABCDEFGHIJKLMNOP", "AIza", "a" * 35, "sk-", "pk-",
    "lf-", "a1b2c3d4" * 4, "ghp_", "ghs_", "xoxb-", "eyJ" + "h" * 12, ".", "-----BEGIN RSA PRIVATE KEY-----",
    "-----END RSA PRIVATE KEY-----", "\n", '"', '\\"', "db_password", "api_key", "to\u212aen", "token", '": "', '":"', " ",
    'hunter2"', "\u00e9", "\ud800", "\\", "weight",
)  # fmt: skip
_SECRET_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join)
_SECRET_DOCUMENTS = st.recursive(
    _SECRET_TEXTS | st.sampled_from([None, True, 7, 2**53, 0.25]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["token", "API-key", "name", "\u00e9_token", "key", 5]), inner, max_size=3)
    ),
)


@given(_SECRET_TEXTS)
def test_looking_for_words_first_changes_no_result(text: str) -> None:
    """Given a text of pieces of secrets, the result is that of every pattern in its turn."""
    expected = text
    if len(text) >= 12:
        for _, pattern, replacement in _PATTERNS:
            expected = pattern.sub(replacement, expected)
        expected = _EMBEDDED.sub(r"\1" + REDACTED, expected)
    assert redact_text(text) == expected


@given(_SECRET_DOCUMENTS)
def test_the_quick_way_misses_no_secret(value: Any) -> None:
    """Given a document of pieces of secrets under keys that may name some, the bytes are those of redacting it, with and
    without the fast libraries."""
    expected = encode(redact(plain({"x": value})))
    assert clean_bytes({"x": value}) == expected
    with mock.patch.object(codec, "FAST", False):
        assert clean_bytes({"x": value}) == expected


@pytest.mark.parametrize(
    "key",
    ["password", "Password", "db_password", "api_key", "API-KEY", "apiKey", "x.secret", "auth_token", "client_secret",
     "Authorization", "cookie", "credentials", "private_key", "aws_secret_access_key"],
)  # fmt: skip
def test_values_under_a_secret_key_are_taken_out(key: str) -> None:
    """Given a key that names a secret, its value is gone, however it is nested, also within an event's text."""
    assert b"hunter2" not in clean_bytes({"a": [{key: "hunter2"}]})
    assert b"hunter2" not in clean_bytes({"a": {key: {"inner": "hunter2"}}})
    if key not in {"credentials"}:
        assert b"hunter2" not in clean_bytes({"event": '{"data": {"' + key + '" : "hunter2"}}'})


@pytest.mark.parametrize(
    "secret",
    [
        "postgres://user:hunter2hunter2@host/db",
        "Bearer abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
        "AIza" + "a" * 35,
        "sk-lf-" + "a1b2c3d4" * 4,
        "ghp_" + "a" * 36,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3In0.SflKxwRJSMeKKF2QT4",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_values_that_look_like_secrets_are_taken_out(secret: str) -> None:
    """Given a text with a secret in it, what identifies the secret is gone, and the words around it stay."""
    shown = redact_text(f"before {secret} after")
    assert REDACTED in shown
    assert secret not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert encode(shown) in clean_bytes({"text": f"before {secret} after"})


def test_what_is_no_secret_stays() -> None:
    """Given keys and texts that only resemble secrets, nothing is changed."""
    body = {
        "idempotency_key": "a" * 64,
        "tokens": {"input": 5, "output": 7},
        "input_tokens": 9,
        "public_key": "ssh-ed25519 AAAA",
        "uri": "https://host/path?x=1",
        "reason": "the token count rose by 20 %",
        "token": None,
    }
    assert redact(body) == body

"""Seals on what is kept where others can write: a MAC over kind, name and content, whose key is never kept there.

A sealed value is `<64 hex digits> <content>`: HMAC-SHA-256 (RFC 2104) over the three parts, each preceded by its length in
bytes, so that no two of them can be shifted against each other. What does not verify is not believed: it reads as None.
"""

import hashlib
import hmac
import os
from pathlib import Path

from driftwarden.errors import BadInput
from driftwarden.keyfile import check_mode, create_once

KEY_BYTES = 32
_MAC_DIGITS = 64


class Seal:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes, the same for every process that shares the state."""
        if len(key) != KEY_BYTES:
            raise BadInput("key of the state", got=f"{len(key)} bytes", expected=f"{KEY_BYTES} bytes")
        self._key = key

    def mac(self, kind: str, name: str, content: str) -> str:
        """64 hex digits."""
        code = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (kind, name, content):
            raw = part.encode("utf-8", "surrogatepass")
            code.update(len(raw).to_bytes(8, "big") + raw)
        return code.hexdigest()

    def close(self, kind: str, name: str, content: str) -> str:
        """The sealed value."""
        return f"{self.mac(kind, name, content)} {content}"

    def open(self, kind: str, name: str, sealed: str | bytes) -> str | None:
        """The content, or None where it was not sealed by us under this kind and name."""
        try:
            text = sealed.decode("utf-8") if isinstance(sealed, bytes) else sealed
        except UnicodeDecodeError:
            return None
        mac, content = text[: _MAC_DIGITS + 1], text[_MAC_DIGITS + 1 :]
        wanted = f"{self.mac(kind, name, content)} "
        return content if hmac.compare_digest(mac.encode("utf-8", "replace"), wanted.encode()) else None


def load_or_create_key(path: Path) -> bytes:
    """The 32 bytes of a key file (64 hex digits), made on first use with mode 0600; one that others can read is refused.

    Two processes that start at once agree on one key. Raises BadInput.
    """
    if not path.exists():
        create_once(path, os.urandom(KEY_BYTES).hex() + "\n")
    check_mode(path, "the state's key")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, OSError):
        key = b""
    if len(key) != KEY_BYTES:
        raise BadInput("key of the state", got="something else", expected="64 hex digits", where=str(path))
    return key

"""Personal data in the log: a salted commitment stands in the record, salt and value in a vault that can be erased.

`{"_c": "<64 hex>"}` where `_c` = HMAC-SHA256(key = 32 random bytes, canonical JSON of [path, value]). Without the salt the
commitment says nothing about the value, so erasing the vault's entry erases the value while the chain stays whole.
"""

import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwarden.audit.codec import encode
from driftwarden.keyfile import give_to_owner

VAULT_FILE = "vault.sqlite"
_SCHEMA = """CREATE TABLE IF NOT EXISTS entry (
  commitment TEXT PRIMARY KEY, stream TEXT NOT NULL, incident TEXT, correlation_id TEXT,
  path TEXT NOT NULL, salt BLOB NOT NULL, value BLOB NOT NULL) STRICT"""


@dataclass(frozen=True)
class Entry:
    """One personal value: where it stood and what it is committed to by."""

    commitment: str
    path: str
    incident: str | None
    correlation_id: str | None
    salt: bytes
    value: bytes


def commitment_of_bytes(salt: bytes, path: str, value: bytes) -> str:
    """HMAC-SHA256 of the canonical JSON of [path, value] under the salt, in hex; `value` is canonical JSON already."""
    return hmac.new(salt, b"[%b,%b]" % (encode(path), value), hashlib.sha256).hexdigest()


@contextmanager
def _vault(directory: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """The vault, with every commit on disk and erased bytes overwritten; sqlite's errors become OSError."""
    path = directory / VAULT_FILE
    try:
        if create and not path.exists():
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            give_to_owner(handle, directory)
            os.close(handle)
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute(_SCHEMA)
            with connection:
                yield connection
    except sqlite3.Error as error:
        raise OSError(5, f"the vault {path.name}: {error}") from error


class Committer:
    """Replaces the values at configured body paths by commitments and puts them into the vault, durably."""

    def __init__(self, directory: Path, stream: str, paths: tuple[str, ...]) -> None:
        """`paths`: dotted keys below the body, `*` for any key or list index."""
        self._directory, self._stream = directory, stream
        self._paths = tuple(tuple(path.split(".")) for path in paths)
        with _vault(directory, create=True):
            pass

    def commit(self, body: Any, *, incident: str | None, correlation_id: str | None) -> Any:
        """The body with commitments; raises OSError where the vault cannot be written."""
        found: list[Entry] = []
        for path in self._paths:
            body = _replace(body, path, "", found)
        if found:
            rows = [(e.commitment, self._stream, incident, correlation_id, e.path, e.salt, e.value) for e in found]
            with _vault(self._directory) as connection:
                connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return body


def _replace(value: Any, path: tuple[str, ...], here: str, found: list[Entry]) -> Any:
    if not path:
        if value is None or (isinstance(value, dict) and value.keys() == {"_c"}):
            return value
        salt = os.urandom(32)
        held = encode(value)
        made = commitment_of_bytes(salt, here, held)
        found.append(Entry(made, here, None, None, salt, held))
        return {"_c": made}
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {
            key: _replace(item, rest, f"{here}.{key}".lstrip("."), found) if first in ("*", key) else item
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            _replace(item, rest, f"{here}.{index}", found) if first in ("*", str(index)) else item
            for index, item in enumerate(value)
        ]
    return value


def entries(
    directory: Path, *, incident: str | None = None, correlation_id: str | None = None, made: str | None = None
) -> list[Entry]:
    """Entries of the vault that match every given criterion; empty where there is no vault."""
    if not (directory / VAULT_FILE).is_file():
        return []
    with _vault(directory) as connection:
        rows = connection.execute(
            "SELECT commitment, path, incident, correlation_id, salt, value FROM entry"
            " WHERE (?1 IS NULL OR incident = ?1) AND (?2 IS NULL OR correlation_id = ?2)"
            " AND (?3 IS NULL OR commitment = ?3) ORDER BY commitment",
            (incident, correlation_id, made),
        ).fetchall()
    return [Entry(*row) for row in rows]


def revealed(directory: Path, commitments: set[str]) -> dict[str, Any]:
    """The values behind commitments that the vault still holds."""
    return {e.commitment: json.loads(e.value) for e in entries(directory) if e.commitment in commitments}


def erase(directory: Path, commitments: list[str]) -> int:
    """Overwrite and delete entries; returns how many there were."""
    with _vault(directory) as connection:
        return sum(
            connection.execute("DELETE FROM entry WHERE commitment = ?", (made,)).rowcount for made in commitments
        )

"""Signed notes (C2SP signed-note, tlog-checkpoint; Ed25519) and the key of the log."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from driftwarden.audit.files import listing
from driftwarden.errors import BadInput, NotInstalled, unreadable
from driftwarden.keyfile import check_mode, create_once, give_to_owner
from driftwarden.strict import strict_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_NAME = "driftwarden-audit"
ORIGIN_PREFIX = "driftwarden-audit/"
_ED25519 = b"\x01"
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_ORIGIN = re.compile(re.escape(ORIGIN_PREFIX) + r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})/(0|[1-9][0-9]{0,15})")
NOTE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class Note:
    """A checkpoint: the first `size` records of the file of `stream` that begins at `first_seq` have this Merkle root."""

    stream: str
    first_seq: int
    size: int
    root: bytes
    text: str
    signature: str
    key_id: bytes
    signature_bytes: bytes

    @property
    def last_seq(self) -> int:
        """`seq` of the last record it covers (`first_seq` - 1 where it covers none)."""
        return self.first_seq + self.size - 1


def _ed25519() -> "type[Ed25519PrivateKey]":
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise NotInstalled("service", "cryptography") from None
    return Ed25519PrivateKey


def key_id(name: str, public: bytes) -> bytes:
    """The first four bytes of SHA-256(name ‖ newline ‖ 0x01 ‖ public key)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def verifier_key(public: bytes) -> str:
    """The public key as C2SP writes it: `name+<8 hex>+<base64 of 0x01 and the key>`."""
    return f"{KEY_NAME}+{key_id(KEY_NAME, public).hex()}+{base64.b64encode(_ED25519 + public).decode()}"


def parse_verifier_key(text: str, *, where: str = "key") -> bytes:
    """The 32 public bytes of a verifier key; raises BadInput."""
    parts = text.strip().split("+", 2)
    try:
        raw = base64.b64decode(parts[2], validate=True) if len(parts) == 3 else b""
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != 33 or raw[:1] != _ED25519 or parts[0] != KEY_NAME or parts[1] != key_id(KEY_NAME, raw[1:]).hex():
        raise BadInput("verifier key", got=text, expected=f"`{KEY_NAME}+<8 hex>+<base64>`", where=where)
    return raw[1:]


class LogKey:
    """The Ed25519 key that signs this log's checkpoints."""

    def __init__(self, private: "Ed25519PrivateKey") -> None:
        """Wrap a private key."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._private = private
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier_key = verifier_key(self.public)

    def sign(self, text: str) -> str:
        """The whole signed note over `text` (which ends with a newline)."""
        signature = self._private.sign(text.encode())
        payload = base64.b64encode(key_id(KEY_NAME, self.public) + signature).decode()
        return f"{text}\n— {KEY_NAME} {payload}\n"


def load_or_create_key(path: Path) -> LogKey:
    """Read the log's private key (32 raw bytes in hex), or create it on first use with mode 0600.

    A key that others can read is refused. Two processes that start at once agree on one key.
    """
    private_key = _ed25519()
    if not path.exists():
        create_once(path, _new_key(private_key).hex() + "\n")
    check_mode(path, "the log's key")
    try:
        raw = bytes.fromhex(path.read_text(encoding="ascii").strip())
        key = LogKey(private_key.from_private_bytes(raw))
    except (ValueError, OSError):
        raise BadInput("key of the log", got="unreadable", expected="64 hex digits", where=str(path)) from None
    public = path.with_suffix(".pub")
    if not public.exists():
        with public.open("w", encoding="ascii") as file:
            file.write(key.verifier_key + "\n")
            give_to_owner(file.fileno(), public.parent)
    return key


def _new_key(private_key: "type[Ed25519PrivateKey]") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return private_key.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def read_public_key(path: Path) -> bytes:
    """The public key in a file that holds a verifier key on its first line (as `keys/audit.pub`); raises BadInput."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("verifier key", got=unreadable(error), expected="a text file", where=str(path)) from None
    return parse_verifier_key(text.partition("\n")[0], where=str(path))


def note_text(stream: str, first_seq: int, size: int, root: bytes) -> str:
    """The signed part of a checkpoint: origin, size and root, a line each."""
    return f"{ORIGIN_PREFIX}{stream}/{first_seq}\n{size}\n{base64.b64encode(root).decode()}\n"


def parse_note(signed: str, *, where: str) -> Note:
    """Read one signed note strictly; raises BadInput. The signature is not checked here."""

    def refuse(what: str) -> BadInput:
        return BadInput("checkpoint", got=what, expected="a signed note over origin, size and root", where=where)

    text, separator, tail = signed.partition("\n\n")
    lines, signatures = text.split("\n"), tail.split("\n")
    if not separator or len(lines) != 3 or len(signatures) < 2 or signatures[-1]:
        raise refuse("other lines")
    origin = _ORIGIN.fullmatch(lines[0])
    if origin is None:
        raise refuse(f"origin {lines[0][:80]}")
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", lines[1]):
        raise refuse(f"size {lines[1][:40]}")
    root = strict_base64(lines[2])
    if root is None or len(root) != 32:
        raise refuse("a root that is not 32 bytes in base64")
    for line in signatures[:-1]:
        match = _SIGNATURE.fullmatch(line)
        payload = strict_base64(match.group(2)) if match else None
        if match is None or payload is None:
            raise refuse("a malformed signature line")
        if match.group(1) == KEY_NAME and len(payload) == 68:
            size, first = int(lines[1]), int(origin.group(2))
            return Note(
                origin.group(1), first, size, root, text + "\n", line, key_id=payload[:4], signature_bytes=payload[4:]
            )
    raise refuse(f"no signature of {KEY_NAME}")


def signed_text(note: Note) -> str:
    """The note as it was signed, its signature included."""
    return f"{note.text}\n{note.signature}\n"


def signature_holds(note: Note, public: bytes) -> bool:
    """Whether the note was signed by the holder of this public key."""
    return note.key_id == key_id(KEY_NAME, public) and _holds(public, note.signature_bytes, note.text.encode())


@lru_cache(maxsize=4096)
def _holds(public: bytes, signature: bytes, text: bytes) -> bool:
    _ed25519()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_notes(path: Path) -> list[Note]:
    """The notes at `path`: one file, or every `*.note` of a folder. Raises BadInput for what cannot be read, and for a
    folder that holds none: whoever names it expects the log to be held against something."""
    files = listing(path, ".note") if path.is_dir() else [path]
    if not files:
        raise BadInput("checkpoint", got="a folder without notes", expected="*.note files", where=str(path))
    notes = []
    for file in files:
        try:
            raw = file.read_bytes()[: NOTE_BYTES_MAX + 1]
            text = raw.decode("utf-8")
        except OSError as error:
            raise BadInput(
                "cannot read the checkpoint", got=error.strerror, expected="a file", where=str(file)
            ) from None
        except UnicodeDecodeError:
            raise BadInput("checkpoint", got="not UTF-8", expected="a signed note", where=str(file)) from None
        notes.append(parse_note(text, where=str(file)))
    return notes

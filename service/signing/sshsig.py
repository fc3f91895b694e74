"""SSH signatures (OpenSSH PROTOCOL.sshsig) with Ed25519 keys: made here, accepted by `ssh-keygen -Y verify`, and back."""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwarden.errors import BadInput, NotInstalled
from driftwarden.strict import strict_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_TYPE = "ssh-ed25519"
MAGIC, VERSION = b"SSHSIG", 1
HASHES = {"sha512": hashlib.sha512, "sha256": hashlib.sha256}
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMORED = re.compile(rf"{_BEGIN}\n([A-Za-z0-9+/=\n]+)\n{_END}\n?")
ARMORED_CHARS_MAX = 4096


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key: its 32 bytes."""

    raw: bytes

    @property
    def blob(self) -> bytes:
        """The key as SSH sends it (RFC 8709): the type and the key, each with its length before it."""
        return _string(KEY_TYPE.encode()) + _string(self.raw)

    @property
    def line(self) -> str:
        """OpenSSH's one line, without a comment."""
        return f"{KEY_TYPE} {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -l` shows: `SHA256:` and the unpadded base64 of the blob's SHA-256."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


def parse_public(line: str, *, where: str | None = None) -> PublicKey:
    """Read OpenSSH's one line (`ssh-ed25519 <base64> [comment]`); raises BadInput for any other kind of key."""
    parts = line.split(None, 2)
    blob = strict_base64(parts[1]) if len(parts) > 1 and parts[0] == KEY_TYPE else None
    raw = None if blob is None else _key_of(blob)
    if raw is None:
        raise BadInput("public key", got=line, expected=f"`{KEY_TYPE} <base64> [comment]`", where=where)
    return PublicKey(raw)


def public_of(private: "Ed25519PrivateKey") -> PublicKey:
    """The public half."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return PublicKey(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def sign(message: bytes, private: "Ed25519PrivateKey", namespace: str) -> str:
    """The armored signature of `message` for this namespace, hashed with SHA-512."""
    signature = private.sign(_signed_bytes(message, namespace, "sha512"))
    blob = b"".join(
        (
            MAGIC,
            VERSION.to_bytes(4, "big"),
            _string(public_of(private).blob),
            _string(namespace.encode()),
            _string(b""),
            _string(b"sha512"),
            _string(_string(KEY_TYPE.encode()) + _string(signature)),
        )
    )
    text = base64.b64encode(blob).decode()
    return "\n".join((_BEGIN, *(text[start : start + 70] for start in range(0, len(text), 70)), _END)) + "\n"


def verify(armored: str, message: bytes, namespace: str) -> PublicKey:
    """The key that signed `message` for this namespace; raises BadInput where the signature is malformed or does not hold.

    Whether that key is anyone's is for the caller to ask.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise NotInstalled("service", "cryptography") from None

    key, hash_name, signature = _parse(armored, namespace)
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, _signed_bytes(message, namespace, hash_name))
    except (InvalidSignature, ValueError):
        raise BadInput("signature", got="one that does not hold", expected=f"one of {key.fingerprint}") from None
    return key


def _parse(armored: str, namespace: str) -> tuple[PublicKey, str, bytes]:
    """Key, name of the hash and the 64 bytes of the signature; nothing may be missing, different or left over."""

    def refuse(got: str, expected: str = "an SSH signature in its armor") -> BadInput:
        return BadInput("signature", got=got, expected=expected)

    armor = _ARMORED.fullmatch(armored) if len(armored) <= ARMORED_CHARS_MAX else None
    blob = strict_base64(armor.group(1).replace("\n", "")) if armor else None
    head = MAGIC + VERSION.to_bytes(4, "big")
    if blob is None or not blob.startswith(head):
        raise refuse("something else")
    fields = _strings(blob[len(head) :])
    if fields is None or len(fields) != 5:
        raise refuse("other fields")
    public, named, reserved, hash_name, signature = fields
    raw, parts = _key_of(public), _strings(signature)
    if raw is None or parts is None or len(parts) != 2 or parts[0] != KEY_TYPE.encode() or len(parts[1]) != 64:
        raise refuse("another kind of key", f"a signature by a key of type {KEY_TYPE}")
    if named != namespace.encode() or reserved:
        raise refuse(f"namespace {named.decode('utf-8', 'replace')}", f"namespace {namespace}")
    name = hash_name.decode("ascii", "replace")
    if name not in HASHES:
        raise refuse(f"hash {name}", f"one of: {', '.join(HASHES)}")
    return PublicKey(raw), name, parts[1]


def _signed_bytes(message: bytes, namespace: str, hash_name: str) -> bytes:
    hashed = HASHES[hash_name](message).digest()
    return MAGIC + b"".join(map(_string, (namespace.encode(), b"", hash_name.encode(), hashed)))


def _string(value: bytes) -> bytes:
    """SSH's string (RFC 4251): four bytes of length, then the bytes."""
    return len(value).to_bytes(4, "big") + value


def _strings(data: bytes) -> list[bytes] | None:
    """The strings that `data` is made of, None where it does not end with the end of one."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            return None
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def _key_of(blob: bytes) -> bytes | None:
    parts = _strings(blob)
    known = parts is not None and len(parts) == 2 and parts[0] == KEY_TYPE.encode() and len(parts[1]) == 32
    return parts[1] if known and parts else None

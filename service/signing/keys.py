"""An approver's private key: an OpenSSH Ed25519 key of their own, or one made here, never readable by others."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from driftwarden.errors import BadInput, NotInstalled
from driftwarden.service.signing.sshsig import PublicKey, parse_public, public_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_EXPECTED = "an OpenSSH Ed25519 key (ssh-keygen -t ed25519)"
_BYTES_MAX = 64 * 1024

AskPassphrase = Callable[[Path], str | None]


def check_name(name: str) -> str:
    """A name that may stand in a file's name and on a terminal; raises BadInput."""
    if not NAME.fullmatch(name):
        raise BadInput("approver's name", got=name, expected="1-64 of A-Z a-z 0-9 . _ @ -")
    return name


def key_path(folder: Path, name: str) -> Path:
    """Where this approver's private key is kept below `folder`."""
    return folder / f"approver-{check_name(name)}"


def create_key(path: Path) -> "Ed25519PrivateKey":
    """Make a key and write it in OpenSSH's form, mode 0600, its public half beside it; raises BadInput where a file is there."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    except ImportError:
        raise NotInstalled("service", "cryptography") from None

    private = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadInput("key of an approver", got="a file that is there", expected="none yet", where=str(path)) from None
    with os.fdopen(handle, "wb") as file:
        file.write(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    path.with_name(path.name + ".pub").write_text(public_of(private).line + "\n", encoding="ascii")
    return private


def read_private(path: Path, ask: AskPassphrase | None = None) -> "Ed25519PrivateKey":
    """The private key of a file; `ask` is asked for the passphrase of an encrypted one (None: there is no terminal).

    Raises BadInput where it cannot be read, is of another kind, or others can read it.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    except ImportError:
        raise NotInstalled("service", "cryptography") from None

    data, where = _read(path), str(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise BadInput("mode of a private key", got=oct(mode), expected="0o600", where=where)
    try:
        try:
            key = load_ssh_private_key(data, None)
        except TypeError:  # it is encrypted
            passphrase = ask(path) if ask else None
            if not passphrase:
                raise BadInput(
                    "private key", got="one with a passphrase, and no terminal", expected=_EXPECTED, where=where
                ) from None
            key = load_ssh_private_key(data, passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput("private key", got=str(error) or type(error).__name__, expected=_EXPECTED, where=where) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput("private key", got="another kind of key", expected=_EXPECTED, where=where)
    return key


def read_key_file(path: Path, ask: AskPassphrase | None = None) -> tuple[PublicKey, bool]:
    """The public key of a file that holds a private key (True) or a public one (False); raises BadInput."""
    data = _read(path)
    if b"PRIVATE KEY-----" in data:
        return public_of(read_private(path, ask)), True
    text = data.decode("utf-8", "replace").strip()
    if "\n" in text:
        raise BadInput("key file", got="several lines", expected=_EXPECTED, where=str(path))
    return parse_public(text, where=str(path)), False


def find_private(
    places: tuple[Path, ...], wanted: frozenset[PublicKey], ask: AskPassphrase | None = None
) -> "Ed25519PrivateKey":
    """The first private key among these files whose public half is wanted; raises BadInput, naming where it looked.

    An encrypted key is opened only where the public half beside it (`.pub`) is not a stranger's.
    """
    for path in places:
        if not _is_there(path) or not _may_be(path, wanted):
            continue
        private = read_private(path, ask)
        if public_of(private) in wanted:
            return private
    looked = ", ".join(map(str, places))
    raise BadInput("private key", got="none that is enrolled", expected=f"one at: {looked} (or --key FILE)")


def _is_there(path: Path) -> bool:
    """False also below a folder of somebody else's, as the state folder of a shared service is."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _may_be(path: Path, wanted: frozenset[PublicKey]) -> bool:
    beside = path.with_name(path.name + ".pub")
    if not beside.is_file():
        return True
    try:
        return read_key_file(beside)[0] in wanted
    except BadInput:
        return False


def places_of(name: str, folders: Iterator[Path] | tuple[Path, ...]) -> tuple[Path, ...]:
    """Where a private key of this approver is looked for: below these folders, then OpenSSH's own place."""
    own = Path.home() / ".ssh" / "id_ed25519"
    return (*(key_path(folder, name) for folder in folders), own)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_BYTES_MAX)
    except OSError as error:
        raise BadInput(
            "key file", got=error.strerror or "an error", expected="a readable file", where=str(path)
        ) from None

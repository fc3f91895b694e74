"""Files that hold a secret key: made once with mode 0600, whoever comes first, and refused where others can read them."""

import os
from pathlib import Path

from driftwarden.errors import BadInput


def create_once(path: Path, text: str) -> None:
    """Write a new key file, durably; where another process was first, its key counts, and nothing is written."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, text.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(temporary, path)  # fails where another process was first
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def check_mode(path: Path, what: str) -> None:
    """Raise BadInput where the group or others may do anything with the file."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise BadInput(f"mode of {what}", got=oct(mode), expected="0o600", where=str(path))

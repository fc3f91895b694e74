"""Files that hold a secret key: made once with mode 0600, whoever comes first, and refused where others can read them.

What root makes in a folder of another account (a command by hand, beside a service) is given to that account.
"""

import os
from pathlib import Path

from driftwarden.errors import BadInput

# Not every account's business: tables, traces and messages below hold what the models see.
FOLDER_MODE = 0o750


def create_once(path: Path, text: str) -> None:
    """Write a new key file, durably; where another process was first, its key counts, and nothing is written."""
    make_folder(path.parent, 0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, text.encode())
        give_to_owner(handle, path.parent)
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


def make_folder(path: Path, mode: int = FOLDER_MODE) -> None:
    """Make a folder and those above it that are missing, each the property of the owner of the one above.

    Whatever makes the state folder, or the first thing in it, does it here. One that is there is left as it is.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        give_to_owner(handle, path.parent)
    finally:
        os.close(handle)


def give_to_owner(handle: int, folder: Path) -> None:
    """Where root made this open file, give it to the owner of the folder that it was made in, who could not read it else."""
    if os.geteuid() == 0:
        there = folder.stat()
        os.fchown(handle, there.st_uid, there.st_gid)

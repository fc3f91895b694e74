"""A copy of the state folder that a service can go on from, taken while it runs; and back again.

The order is the point: Redis first, then the registry, the audit log last. What happened in between is then known to the
log and not to Redis, and the log is the floor: an effect that the restored state does not know is not done again, and its
incident goes to a person. The other way round, effects would have no record.

A manifest lists every file with its SHA-256 and is written last: without it a folder is no backup. Chroma's index is left
out (it is made again from the records in Redis), and so are sockets, locks and the demo's folder.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from driftwarden import __version__
from driftwarden.clock import Clock, rfc3339
from driftwarden.errors import BadInput, Retry, unreadable
from driftwarden.settings import Settings
from driftwarden.strict import loads_json

if TYPE_CHECKING:
    from redis import Redis

MANIFEST: Final = "manifest.json"
FILES: Final = "files"
FORMAT: Final = 1
REWRITE_TIMEOUT_S: Final = 300.0
_POLL_S = 0.05
# Below the state folder: what is made again, belongs to running processes, or is not the service's.
_LEFT_OUT_FOLDERS: Final = frozenset({"knowledge", "demo"})
_LEFT_OUT_SUFFIXES: Final = (".sock", ".lock", ".pid", ".log", ".url", "-wal", "-shm", "-journal")

Say = Callable[[str], None]


def back_up(
    settings: Settings, client: "Redis | None", target: Path, clock: Clock, say: Say = lambda line: None
) -> dict[str, Any]:
    """Copy the state folder to `target`, which must not exist or be empty; returns the manifest.

    `client` of the embedded Redis, None where Redis is configured elsewhere (it is then backed up by its own means, before
    this). Raises BadInput (a target in use, or within the state folder), Retry (Redis goes on rewriting its log).
    """
    home, target = settings.home.resolve(), target.expanduser().absolute()
    if not home.is_dir():
        raise BadInput("state folder", got="nothing", expected="a folder with a service's state", where=str(home))
    if target.resolve().is_relative_to(home):
        raise BadInput("backup", got=str(target), expected=f"a folder outside {home}")
    log = settings.audit_dir.resolve()
    if log == home:
        raise BadInput("audit folder", got="the state folder itself", expected="a folder of its own", where=str(home))
    _make_empty(target, "backup")
    done: dict[str, str] = {}
    copy = partial(_copy, home=home, target=target, done=done, besides=log)
    try:
        if client is not None:
            say("redis")
            with _no_rewrite(client):
                copy(home / "redis")
        say("registry and files")
        for part in sorted(home.iterdir()):
            if part.name not in {"redis", "audit"}:
                copy(part)
        say("audit log")
        copy(home / "audit")  # an earlier one, where the log is elsewhere by now
        for part in sorted(log.iterdir()) if log.is_relative_to(home) and log.is_dir() else ():
            copy(part)
        manifest = {
            "format": FORMAT,
            "driftwarden": __version__,
            "at": rfc3339(clock.now()),
            "home": str(home),
            "redis": "embedded" if client is not None else "elsewhere",
            "audit": "here" if log.is_relative_to(home) else "elsewhere",
            "registry": "here" if settings.mlflow.tracking_uri is None else "elsewhere",
            "files": done,
        }
        _write(target / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    except OSError as error:
        raise BadInput(
            "backup", got=unreadable(error), expected="files that can be read and written", where=str(target)
        ) from None
    return manifest


def restore(settings: Settings, source: Path, say: Say = lambda line: None) -> dict[str, Any]:
    """Put a backup into the state folder, which must be empty and at the path it was copied from; returns its manifest.

    Every file is compared with the manifest before anything is written. Raises BadInput.
    """
    home, source = settings.home.absolute(), source.expanduser().absolute()
    manifest = read_manifest(source)
    if manifest["registry"] == "here" and str(home) != manifest["home"]:
        raise BadInput(
            "state folder", got=str(home), expected=f"{manifest['home']}: the registry's entries name files below it"
        )
    say(f"comparing {len(manifest['files'])} files with the manifest")
    for name, digest in manifest["files"].items():
        file = source / FILES / name
        if file.is_symlink() or not file.is_file() or _digest(file) != digest:
            raise BadInput("backup", got=f"`{name}` is not what was copied", expected="its SHA-256", where=str(source))
    _make_empty(home, "state folder")
    say("copying")
    try:
        for name, digest in manifest["files"].items():
            place, file = home / name, source / FILES / name
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise BadInput("backup", got=f"`{name}` changed meanwhile", expected="its SHA-256", where=str(source))
            _parents(place.parent, home)
            _write(place, content, file.stat().st_mode & 0o700)
    except OSError as error:
        raise BadInput(
            "state folder", got=unreadable(error), expected="a folder that can be written", where=str(home)
        ) from None
    return manifest


def read_manifest(source: Path) -> dict[str, Any]:
    """A backup's manifest; BadInput where the folder holds none, or one that names files elsewhere."""
    expected, where = f"a folder that `driftwarden backup` wrote, with its `{MANIFEST}`", str(source)
    try:
        found = loads_json((source / MANIFEST).read_bytes())
    except OSError as error:
        raise BadInput("backup", got=unreadable(error), expected=expected, where=where) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadInput("backup", got="another format", expected=expected, where=where)
    files, parts = found.get("files"), [found.get(name) for name in ("home", "at", "redis", "registry", "audit")]
    if not isinstance(files, dict) or not all(isinstance(part, str) for part in [*parts, *files.values()]):
        raise BadInput("backup", got="a manifest with other fields", expected=expected, where=where)
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts or name != Path(name).as_posix():
            raise BadInput("backup", got=f"file `{name}`", expected="names below the state folder", where=where)
    return found


def _make_empty(folder: Path, what: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise BadInput(what, got="a folder with files in it", expected="an empty one, or none", where=str(folder))
    except OSError as error:
        raise BadInput(
            what, got=unreadable(error), expected="a folder that can be written", where=str(folder)
        ) from None


def _copy(part: Path, home: Path, target: Path, done: dict[str, str], besides: Path) -> None:
    """Copy a file, or all files below a folder, and note their digests; links are nobody's state and are left out.

    `besides`: a folder whose turn comes later.
    """
    if part == besides or part.is_symlink() or part.name in _LEFT_OUT_FOLDERS or part.name.endswith(_LEFT_OUT_SUFFIXES):
        return
    if part.is_dir():
        try:
            inside = sorted(part.iterdir())
        except FileNotFoundError:
            return
        for inner in inside:
            _copy(inner, home, target, done, besides)
    elif part.is_file():
        name = part.relative_to(home).as_posix()
        copy = target / FILES / name
        _parents(copy.parent, target)
        try:
            if part.suffix == ".db":
                _copy_database(part, copy)
            else:
                # An append-only file that grows meanwhile: what was there when it was opened, and perhaps a torn last line.
                shutil.copyfile(part, copy)
            copy.chmod(0o600 | (part.stat().st_mode & 0o100))
        except FileNotFoundError:  # the service was done with it (sent from the spool, say) since the folder was listed
            copy.unlink(missing_ok=True)
            return
        _sync(copy)
        done[name] = _digest(copy)


def _copy_database(part: Path, copy: Path) -> None:
    """SQLite's own online copy: whole, whatever is written to it meanwhile."""
    try:
        with (
            closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(copy)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise BadInput("backup", got=str(error), expected="a SQLite database", where=str(part)) from None


@contextmanager
def _no_rewrite(client: Any) -> Iterator[None]:
    """While this lasts Redis does not begin to rewrite its append-only file, which would exchange it under the copy."""
    percentage = client.config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"]
    client.config_set("auto-aof-rewrite-percentage", 0)
    try:
        deadline = time.monotonic() + REWRITE_TIMEOUT_S
        while client.info("persistence")["aof_rewrite_in_progress"]:
            if time.monotonic() > deadline:
                raise Retry("redis goes on rewriting its append-only file")
            time.sleep(_POLL_S)
        yield
    finally:
        client.config_set("auto-aof-rewrite-percentage", percentage)


def _parents(folder: Path, root: Path) -> None:
    for one in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)]:
        (root / one).mkdir(mode=0o700, exist_ok=True)


def _write(file: Path, content: bytes, mode: int = 0o600) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

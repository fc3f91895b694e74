"""The kill switch: a key in Redis and a file in the state folder; either one halts, and what cannot be read halts too."""

import json
from pathlib import Path
from typing import Any

import redis

from driftwarden.clock import Clock, rfc3339
from driftwarden.errors import BadInput
from driftwarden.keyfile import make_folder

EVERYTHING = "*"


class Halts:
    """Halts by model; `*` is every model.

    Key `<prefix>halts` (hash: model or `*` -> JSON {reason, by, at}); files `<state>/halts/<model>` and `<state>/HALT`.
    """

    def __init__(self, client: Any, prefix: str, home: Path, clock: Clock) -> None:
        """Use this Redis and this state folder."""
        self._redis, self._key, self._home, self._clock = client, f"{prefix}halts", home, clock

    def _file(self, model: str | None) -> Path:
        return self._home / "HALT" if model is None else self._home / "halts" / model

    def halt(self, model: str | None, *, reason: str, by: str) -> None:
        """Halt everything (`model` None) or one model, by both means: where one of them fails, the other still halts.

        Raises whatever failed, afterwards.
        """
        record = json.dumps({"reason": reason, "by": by, "at": rfc3339(self._clock.now())})
        file = self._file(model)
        try:
            make_folder(file.parent)
            file.write_text(record + "\n", encoding="utf-8")
        finally:
            self._redis.hset(self._key, model or EVERYTHING, record)

    def plant(self) -> None:
        """Write the halts of this state folder to Redis again, for the hosts that have no file of them."""
        everything, folder = self._file(None), self._home / "halts"
        files = {EVERYTHING: everything} if everything.exists() else {}
        files |= {file.name: file for file in sorted(folder.iterdir())} if folder.is_dir() else {}
        for name, file in files.items():
            self._redis.hsetnx(self._key, name, file.read_text(encoding="utf-8", errors="replace").strip())

    def resume(self, model: str | None) -> bool:
        """Lift a halt; False where there was none."""
        file = self._file(model)
        there = file.exists()
        file.unlink(missing_ok=True)
        return bool(self._redis.hdel(self._key, model or EVERYTHING)) or there

    def is_halted(self, model: str) -> bool | None:
        """True, False, or None where it cannot be told (which the policy treats as unknown: nothing executes)."""
        try:
            if self._file(None).exists() or self._file(model).exists():
                return True
            return any(value is not None for value in self._redis.hmget(self._key, [EVERYTHING, model]))
        except (redis.RedisError, OSError):
            return None

    def all(self) -> dict[str, dict[str, Any]]:
        """Every halt in force, by model or `*`."""
        found: dict[str, dict[str, Any]] = {}
        for name, raw in self._redis.hgetall(self._key).items():
            found[name.decode()] = _read(raw.decode("utf-8", "replace"))
        if self._file(None).exists():
            found.setdefault(EVERYTHING, _read(self._file(None).read_text(encoding="utf-8", errors="replace")))
        folder = self._home / "halts"
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            found.setdefault(file.name, _read(file.read_text(encoding="utf-8", errors="replace")))
        return found


def _read(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"reason": text.strip() or "no reason given", "by": "?", "at": None}


def check_reason(reason: str) -> str:
    """A reason that says something; an empty one raises BadInput."""
    if not reason.strip():
        raise BadInput("option --reason", got="nothing", expected="why, in words that help whoever reads the log")
    return reason.strip()

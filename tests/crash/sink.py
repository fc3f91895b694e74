"""What the model registry says happened to it, read from its own tables, not through the product.

MLflow keeps no history of an alias. `keep_journal` adds a table and triggers to its SQLite database: the database itself
then writes down each move of an alias with its time, whoever makes it.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY_TAG, EFFECT_TAG = "driftwarden.idempotency_key", "driftwarden.effect."
STEPS = ("split", "compared", "begun")
_JOURNAL = """
CREATE TABLE IF NOT EXISTS alias_journal (
  number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, alias TEXT, before INTEGER, after INTEGER, at TEXT);
CREATE TRIGGER IF NOT EXISTS alias_set AFTER INSERT ON registered_model_aliases BEGIN
  INSERT INTO alias_journal (name, alias, before, after, at)
  VALUES (NEW.name, NEW.alias, NULL, NEW.version, strftime('%Y-%m-%dT%H:%M:%fZ')); END;
CREATE TRIGGER IF NOT EXISTS alias_moved AFTER UPDATE ON registered_model_aliases BEGIN
  INSERT INTO alias_journal (name, alias, before, after, at)
  VALUES (NEW.name, NEW.alias, OLD.version, NEW.version, strftime('%Y-%m-%dT%H:%M:%fZ')); END;
CREATE TRIGGER IF NOT EXISTS alias_dropped AFTER DELETE ON registered_model_aliases BEGIN
  INSERT INTO alias_journal (name, alias, before, after, at)
  VALUES (OLD.name, OLD.alias, OLD.version, NULL, strftime('%Y-%m-%dT%H:%M:%fZ')); END;
"""


@dataclass(frozen=True)
class Move:
    """One change of the alias `champion`, as the database saw it; `at` is RFC 3339 with ms."""

    model: str
    before: int | None
    after: int | None
    at: str


@dataclass(frozen=True)
class Effect:
    """The record that an effect left under its key (`<idempotency key>`, or `<idempotency key>.undo`)."""

    model: str
    key: str
    record: Mapping[str, Any]

    @property
    def happened(self) -> bool:
        """True where it is over and changed something."""
        return self.record.get("state") == "done" and bool(self.record.get("changed"))


@dataclass(frozen=True)
class Sink:
    """The registry: `versions` are (model, version, idempotency key); `moves` in order, None where no journal was kept."""

    champions: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[tuple[str, int, str | None], ...] = ()
    effects: tuple[Effect, ...] = ()
    moves: tuple[Move, ...] | None = None


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        yield connection


def keep_journal(database: Path) -> None:
    """Let the database write down every move of an alias from now on."""
    with _opened(database) as connection:
        connection.executescript(_JOURNAL)


def read_sink(database: Path) -> Sink:
    """The registry as it stands in MLflow's SQLite database."""
    with _opened(database) as connection:
        champions = connection.execute("SELECT name, version FROM registered_model_aliases WHERE alias = 'champion'")
        keys = "SELECT name, version, value FROM model_version_tags WHERE key = ?"
        tagged = {(name, int(version)): value for name, version, value in connection.execute(keys, (KEY_TAG,))}
        versions = connection.execute("SELECT name, version FROM model_versions ORDER BY name, version").fetchall()
        tags = "SELECT name, key, value FROM registered_model_tags WHERE substr(key, 1, ?) = ? ORDER BY name, key"
        effects = connection.execute(tags, (len(EFFECT_TAG), EFFECT_TAG)).fetchall()
        over = {(name, key.removeprefix(EFFECT_TAG)) for name, key, _ in effects}
        for step in reversed(STEPS):  # one that is not over is as far as its furthest step
            prefix = f"driftwarden.effect-{step}."
            for name, key, value in connection.execute(tags, (len(prefix), prefix)).fetchall():
                if (own := (name, key.removeprefix(prefix))) not in over:
                    over.add(own)
                    effects.append((name, EFFECT_TAG + own[1], value))
        kept = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alias_journal'").fetchone()
        journal = "SELECT name, before, after, at FROM alias_journal WHERE alias = 'champion' ORDER BY number"
        return Sink(
            champions={name: int(version) for name, version in champions},
            versions=tuple((name, int(version), tagged.get((name, int(version)))) for name, version in versions),
            effects=tuple(Effect(name, key.removeprefix(EFFECT_TAG), _record(value)) for name, key, value in effects),
            moves=tuple(Move(*row) for row in connection.execute(journal)) if kept else None,
        )


def _record(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {"state": "unreadable"}
    return found if isinstance(found, dict) else {"state": "unreadable"}

"""What the ledger keeps of each model that is neither open nor inside a window of the policy, out of the way of decisions.

Hash `<prefix>ledger:past{<prefix>ledger}` (the braces put it on the ledger's slot): model -> sealed JSON of a `Book`, and under
`#` the sealed time (ms) of the latest action that was put away: whoever counts further back than that, or finds none, reads
all books.

    entries  `<ledger's key>#@<at>` -> entry as the ledger's, until its incident has left Redis; in the book of each of its models
    track    `<action>|<incident>` -> whether it helped; never summed up: under its name it counts once, however often somebody
             puts it back where it came from
    before   the sum of what is gone: {cost (micro-USD), times (how many concerned the model), own (of these its own), last
             {at, failed, undo, action}, change {at, action}}: of a model's past there is never less than what was spent, its
             last action, and its last change of what is in force
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.errors import Retry
from driftwarden.sealing import Seal

Entry = dict[str, Any]
Of = Callable[[Collection[str]], Collection[str]]  # of these incidents, those of which something holds

_LATEST = "#"
_KIND = "past"


def models_of(entry: Mapping[str, Any]) -> set[str]:
    """The models that an action concerns."""
    return {entry["model"], *entry.get("models", ())}


def put_name(key: str, entry: Mapping[str, Any]) -> str:
    """Under which name a book has what the ledger has under this key: another one for what the incident does later."""
    return f"{key}{'' if '#' in key else '#'}@{entry['at']}"


@dataclass
class Book:
    """The past of one model."""

    entries: dict[str, Entry] = field(default_factory=dict)
    track: dict[str, bool] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)

    def as_entries(self, model: str) -> dict[str, Entry]:
        """All of it as entries of the ledger, what is gone as one."""
        last, change = self.before.get("last"), self.before.get("change")
        if last is None:
            return dict(self.entries)
        sums = {name: self.before.get(name, 1) for name in ("times", "own")}
        gone = {"model": model, **last, "cost": self.before["cost"], "state": "done", **sums}
        if change is not None:
            gone |= {"action": change["action"], "changed": change["at"]}
        return {**self.entries, f"before#{model}": gone}

    def outcomes(self, action: str) -> dict[str, bool]:
        """By incident whether it helped."""
        return {key.partition("|")[2]: helped for key, helped in self.track.items() if key.startswith(f"{action}|")}

    def incidents(self) -> set[str]:
        """Those whose effects it has."""
        return {key.partition("#")[0] for key in self.entries}

    def latest(self) -> int:
        """When (ms) the last action of all that it knows of happened."""
        return max(int(one["at"]) for one in ({"at": 0}, self.before.get("last", {"at": 0}), *self.entries.values()))

    def effects_of(self, incident: str) -> list[tuple[int, str]]:
        """When (ms) and under which key: its effects that happened and are no undo."""
        return [
            (entry["at"], key)
            for key, entry in self.entries.items()
            if key.partition("#")[0] == incident and not entry.get("undo") and entry["state"] != "released"
        ]

    def fold(self, model: str, gone: Collection[str]) -> bool:
        """Put the effects of these incidents into the sum; True where there was one."""
        entries = {key: entry for key, entry in self.entries.items() if key.partition("#")[0] in gone}
        for key, entry in entries.items():
            del self.entries[key]
            if entry["state"] != "released":
                self._add(model, entry)
        return bool(entries)

    def _add(self, model: str, entry: Mapping[str, Any]) -> None:
        own = entry["model"] == model  # what it cost is its own model's, once
        for name, more in {"cost": entry["cost"] if own else 0, "times": 1, "own": int(own)}.items():
            self.before[name] = self.before.get(name, 0) + more
        last, change = self.before.get("last"), self.before.get("change")
        if last is None or entry["at"] >= last["at"]:
            same = last if last is not None and last["at"] == entry["at"] else {}
            told = {name: bool(entry.get(name) or same.get(name)) for name in ("failed", "undo")}
            self.before["last"] = {"at": entry["at"], "action": entry["action"], **told}
        # Of rows that were kept out and are not any more nothing is left that would end a drift.
        changed = None if entry["action"] == ActionName.QUARANTINE_DATA else entry.get("changed")
        if changed is not None and (change is None or changed >= change["at"]):
            self.before["change"] = {"at": changed, "action": entry["action"]}


def with_past(found: Mapping[str, Entry | None], books: Mapping[str, Book | None]) -> dict[str, Entry | None]:
    """What the ledger has and what stands in the books, each once; None for a book that is none of ours.

    Of what stands in both, somebody wrote one again, or put it back: that it failed is true whichever says so.
    """
    past: dict[str, Entry | None] = {}
    for model, book in books.items():
        if book is None:
            past[f"before#{model}"] = None
            continue
        for key, entry in book.as_entries(model).items():
            # What concerned several models is summed up in the book of one after the other: its cost stands in that of its own.
            home = books.get(entry["model"])
            summed = key in book.entries and home is not None and key not in home.entries
            past[key] = {**entry, "cost": 0} if summed else entry
    hot: dict[str, Entry | None] = dict(found)
    for key, own in found.items():
        if own is not None and (moved := past.pop(put_name(key, own), None)) is not None:
            hot[key] = _worse(own, moved)
    return {**hot, **past}


def _worse(entry: Entry, other: Mapping[str, Any] | None) -> Entry:
    return {**entry, "failed": True} if other is not None and other.get("failed") else entry


class Books:
    """The books of one Redis; thread-safe. What is not of ours reads as None."""

    def __init__(self, client: Any, ledger: str, track: str, seal: Seal) -> None:
        """`ledger` and `track`: the keys of what they take from."""
        self._redis, self._ledger, self._track, self._seal = client, ledger, track, seal
        self.key = f"{ledger}:past{{{ledger}}}"
        self._put_away = client.register_script(files(__package__).joinpath("put_away.lua").read_text(encoding="utf-8"))

    def read(self, models: Sequence[str]) -> tuple[dict[str, Book | None], int | None]:
        """The books of these models that have one, and the time (ms) of the latest action in any book (0: nothing says).

        None for that time, too, where it is from before what stands in these books: somebody put an older one back.
        """
        found = dict(zip([_LATEST, *models], self._redis.hmget(self.key, [_LATEST, *models]), strict=True))
        latest = self._latest(found.pop(_LATEST))
        books = {model: self._book(model, raw) for model, raw in found.items() if raw is not None}
        is_older = latest and any(book is not None and book.latest() > latest for book in books.values())
        return books, None if is_older else latest

    def all(self) -> dict[str, Book | None]:
        """Every book."""
        found = {raw.decode("utf-8", "replace"): value for raw, value in self._redis.hgetall(self.key).items()}
        return {model: self._book(model, value) for model, value in found.items() if model != _LATEST}

    def put_away(self, now_ms: int, window_ms: int, over: Of, *, limit: int = 1000) -> int:
        """Move from the ledger what is over and further back than `window_ms` from its latest action; returns how many.

        Of `limit` incidents at most.

        `over` says which incidents have ended or are gone. What is further back by the host's clock alone stays: where the
        stream is the clock, decisions look back from its time.
        """
        entries: dict[str, tuple[bytes, Entry]] = {}
        for name, raw in self._redis.hgetall(self._ledger).items():
            key = name.decode("utf-8", "replace")
            text = self._seal.open("ledger", key.partition("#")[0], raw)
            if text is not None:
                entries[key] = raw, json.loads(text)
        since = min(now_ms, max((entry["at"] for _, entry in entries.values()), default=0)) - window_ms
        old: dict[str, dict[str, tuple[bytes, Entry]]] = {}
        for key, (raw, entry) in entries.items():
            if entry["state"] in {"done", "released"} and entry["at"] < since:
                old.setdefault(key.partition("#")[0], {})[key] = raw, entry
        ended = over(old) if old else ()
        return sum(self._move(old[incident]) for incident in [*ended][:limit])

    def _move(self, taken: Mapping[str, tuple[bytes, Entry]]) -> int:
        """All of these or, where one has changed since, none; what was released counts nowhere, and goes, also from where it was
        put before somebody released it."""
        entries = {key: entry for key, (_, entry) in taken.items()}
        models = sorted({model for entry in entries.values() for model in models_of(entry)})
        seen = self._raw([_LATEST, *models])
        latest, books = self._latest(seen[_LATEST]), {model: self._book_or_new(model, seen[model]) for model in models}
        if latest is None:
            return 0
        touched: dict[str, Book] = {}
        for key, entry in entries.items():
            for model in models_of(entry):
                book, name = books[model], put_name(key, entry)
                if book is None:
                    return 0
                if entry["state"] != "released":
                    book.entries[name], touched[model] = _worse(entry, book.entries.get(name)), book
                    latest = max(latest, entry["at"])
                elif book.entries.pop(name, None) is not None:
                    touched[model] = book
        new = {model: self._closed(model, book) for model, book in touched.items()}
        if touched:
            new[_LATEST] = self._seal.close(_KIND, _LATEST, str(latest))
        gone = {key: raw for key, (raw, _) in taken.items()}
        written = self._written(self._ledger, gone, {name: (seen[name], value) for name, value in new.items()})
        return len(taken) if written else 0

    def put_outcomes_away(self, over: Of) -> int:
        """Move the outcomes of incidents that are over; returns how many. In two steps, for theirs is another slot: until the
        second they stand in both, and count once."""
        found: dict[str, dict[str, tuple[bytes, bool]]] = {}
        for name, raw in self._redis.hscan_iter(self._track, count=500):
            key = name.decode("utf-8", "replace")
            text = self._seal.open("track", key, raw)
            if text is not None:
                found.setdefault(key.partition("|")[0], {})[key] = raw, text == "1"
        named = {key.rpartition("|")[2] for taken in found.values() for key in taken}
        ended, moved = frozenset(over(named) if named else ()), 0
        for model, taken in found.items():
            taken = {key: one for key, one in taken.items() if key.rpartition("|")[2] in ended}
            seen = self._raw([model])[model] if taken else None
            book = self._book_or_new(model, seen) if taken else None
            if book is None:
                continue
            book.track |= {key.removeprefix(f"{model}|"): helped for key, (_, helped) in taken.items()}
            if self._written(self._ledger, {}, {model: (seen, self._closed(model, book))}):
                moved += len(taken) * self._written(self._track, {key: raw for key, (raw, _) in taken.items()}, {})
        return moved

    def fold(self, cursor: int, limit: int, gone: Of) -> int:
        """Sum up what incidents left that `gone` says have left Redis, in some `limit` books; the next cursor, 0: all were seen."""
        cursor, page = self._redis.hscan(self.key, cursor, count=limit)
        found = {raw.decode("utf-8", "replace"): value for raw, value in page.items()}
        books = {model: book for model, raw in found.items() if model != _LATEST and (book := self._book(model, raw))}
        names = set().union(*(book.incidents() for book in books.values()))
        left = gone(names) if names else ()
        for model, book in books.items():
            if book.fold(model, left):
                self._written(self._ledger, {}, {model: (found[model], self._closed(model, book))})
        return int(cursor)

    def fail(self, incident: str) -> None:
        """The last effect of the incident that is no undo counts as a failure, in each book that has it; raises Retry."""
        for model, found in self.all().items():
            if found is None or incident not in found.incidents():
                continue
            seen = self._raw([model])[model]
            book = self._book_or_new(model, seen)
            effects = [] if book is None else book.effects_of(incident)
            if book is not None and effects:
                book.entries[max(effects)[1]] |= {"failed": True}
                if not self._written(self._ledger, {}, {model: (seen, self._closed(model, book))}):
                    raise Retry(f"the past of model `{model}` changed under this request; try again")

    def _raw(self, names: Sequence[str]) -> dict[str, bytes | None]:
        return dict(zip(names, self._redis.hmget(self.key, names), strict=True))

    def _latest(self, raw: bytes | None) -> int | None:
        if raw is None:
            return 0
        text = self._seal.open(_KIND, _LATEST, raw)
        return None if text is None else int(text)

    def _book(self, model: str, raw: bytes) -> Book | None:
        text = self._seal.open(_KIND, f"model {model}", raw)
        return None if text is None else Book(**json.loads(text))

    def _book_or_new(self, model: str, raw: bytes | None) -> Book | None:
        return Book() if raw is None else self._book(model, raw)

    def _closed(self, model: str, book: Book) -> str:
        document = {"entries": book.entries, "track": book.track, "before": book.before}
        return self._seal.close(_KIND, f"model {model}", json.dumps(document, sort_keys=True))

    def _written(self, leave: str, gone: Mapping[str, bytes], new: Mapping[str, tuple[bytes | None, str]]) -> bool:
        args: list[Any] = [len(gone), *(part for one in gone.items() for part in one)]
        for name, (seen, value) in new.items():
            args += [name, seen or b"", value]
        # Where only `leave` is changed it is on its own slot, and so is the second key.
        keys = [leave, self.key if new else leave]
        return bool(self._put_away(keys=keys, args=args) in {b"OK", "OK"})

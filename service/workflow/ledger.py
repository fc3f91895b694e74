"""The ledger of actions: what ran, what it cost, whether it failed; caps are reserved here before an effect.

One hash `<prefix>ledger`: incident -> sealed JSON {model, models (others that it concerns), action, cost (micro-USD), at (ms,
the decision's own time), state (`running`, `done`, `released`), begun (whether an intent to have its effect may stand in a log;
absent: an earlier version's), failed, undo, changed (ms, when it changed what is in force),
rows (by model those that it was about, where not all)}; `<incident>#<n>` its earlier effects, where another followed. An action
over several models counts for each of them, and once where all are counted. A second
hash `<prefix>track`: `<model>|<action>|<incident>` -> sealed `1` helped, `0` not (`driftwarden.sealing`).

What is neither open nor inside a window of the policy leaves both for the books of its models (`books.py`, `pruning.py`): a
decision reads what is left here and the books of the models that it is about.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import Retry
from driftwarden.sealing import Seal
from driftwarden.service.workflow.books import Book, Books, Entry, with_past
from driftwarden.service.workflow.caps import Caps

STATE_FACTS = (
    "spent_usd_today",
    "spent_usd_today_model",
    "actions_in_window_model",
    "actions_in_window_global",
    "seconds_since_last_action_model",
    "last_action_failed",
    "running_model",
    "running_global",
    "recent_runs",
    "recent_failures",
)
_MICRO = Decimal(1_000_000)


def _ms(moment: datetime) -> int:
    return math.floor(moment.timestamp() * 1000)


def _day_start_ms(now: datetime, zone: str) -> int:
    local = now.astimezone(ZoneInfo(zone))
    return _ms(local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0))


class Ledger:
    """Reserves, settles and counts actions."""

    def __init__(self, client: Any, prefix: str, seal: Seal) -> None:
        """Use this Redis; what stands there counts where `seal` opens it."""
        self._redis, self._seal = client, seal
        self._key, self._track = f"{prefix}ledger", f"{prefix}track"
        self.books = Books(client, self._key, self._track, seal)
        self._reserve, self._replace = (
            client.register_script(files(__package__).joinpath(name).read_text(encoding="utf-8"))
            for name in ("ledger.lua", "put_away.lua")
        )

    def reserve(
        self,
        incident: str,
        *,
        model: str,
        action: str,
        cost_usd: Decimal,
        now: str,
        caps: Caps,
        undo: bool = False,
        models: Sequence[str] = (),
    ) -> str | None:
        """Count the action against every cap atomically; None where it fits, else the id of the cap that it would break.

        Calling it again while the incident's reservation runs changes nothing; after that it is a further effect.
        `undo`: it takes an effect back; it counts against the caps, and is no run that could succeed or fail. `models`: the
        others that it concerns, whose own caps it must fit too.
        """
        moment = parse_rfc3339(now)

        def micro(amount: Decimal | None) -> str:
            return "" if amount is None else str(int((amount * _MICRO).to_integral_value(ROUND_CEILING)))

        def pair(rate: tuple[int, int] | None) -> list[str]:
            return ["", ""] if rate is None else [str(rate[0]), str(rate[1])]

        def count(limit: int | None) -> str:
            return "" if limit is None else str(limit)

        entry = {"model": model, "action": action, "cost": int(micro(cost_usd)), "at": _ms(moment), "state": "running"}
        told = {"begun": False, "undo": undo} | ({"models": [*models]} if models else {})
        sealed = self._sealed(incident, entry | told)
        answer = self._reserve(
            keys=[self._key, self.books.key],
            args=[
                incident, model, action, micro(cost_usd), str(_ms(moment)), str(_day_start_ms(moment, caps.zone)),
                micro(caps.per_day), micro(caps.per_model_day), *pair(caps.rate_model), *pair(caps.rate_global),
                count(caps.concurrency_model), count(caps.concurrency_global), sealed,
            ],
        )  # fmt: skip
        text = answer.decode() if isinstance(answer, bytes) else str(answer)
        return None if text == "OK" else text

    def begin(self, incident: str) -> None:
        """From here on an intent to have the effect may stand in some host's log; raises Retry where nothing is reserved."""
        raw = self._redis.hget(self._key, incident)
        entry = self._entry(incident, raw)
        if entry is None or entry["state"] != "running":
            raise Retry(f"nothing is reserved for {incident} any more")
        if not entry.get("begun") and not self._replaced(incident, raw, entry | {"begun": True}):
            raise Retry(f"the reservation of {incident} changed under this request")

    def release_unbegun(self, incident: str) -> bool:
        """As `release`, where it runs and no intent can stand in any log; False where that is not so."""
        raw = self._redis.hget(self._key, incident)
        entry = self._entry(incident, raw)
        if entry is None or entry["state"] != "running" or entry.get("begun") is not False:
            return False
        return self._replaced(incident, raw, entry | {"state": "released", "failed": False})

    def settle(
        self,
        incident: str,
        *,
        cost_usd: Decimal | None = None,
        failed: bool = False,
        changed_at: str | None = None,
        models: Sequence[str] | None = None,
        rows: Mapping[str, Any] | None = None,
    ) -> None:
        """The effect is over: what it cost, whether it failed, when it changed what is in force (RFC 3339; None: it did not).

        Settling again with `failed` only adds that. `models`: the others that it did something to, where those are fewer
        than were reserved for: what was not done to a model neither counts against it nor makes its drift one from before.
        `rows`: by model the rows that it was about, where it was not about all (`changes.rows_of`).
        """
        told: dict[str, Any] = {} if changed_at is None else {"changed": _ms(parse_rfc3339(changed_at))}
        told |= {} if models is None else {"models": [*models]}
        told |= {} if rows is None else {"rows": dict(rows)}
        self._change(incident, state="done", failed=failed, cost_usd=cost_usd, **told)

    def running_by_model(self, *, besides: str) -> dict[str, list[str]]:
        """Other incidents than `besides` whose action runs, by each model that it concerns."""
        found: dict[str, list[str]] = {}
        for key, entry in self._standing().items():
            if entry["state"] == "running" and key.partition("#")[0] != besides:
                for model in {entry["model"], *entry.get("models", ())}:
                    found.setdefault(model, []).append(key)
        return found

    def fail_effect(self, incident: str) -> None:
        """The effect did harm: the last entry of the incident that is no undo counts as a failure."""
        own = {key: entry for key, entry in self._all().items() if entry and key.partition("#")[0] == incident}
        effects = {key: entry for key, entry in own.items() if not entry.get("undo") and entry["state"] != "released"}
        if effects:
            last = max(effects, key=lambda key: (effects[key]["at"], key == incident, int(key.partition("#")[2] or 0)))
            entry = effects[last] | {"state": "done", "failed": True}
            self._redis.hset(self._key, last, self._sealed(incident, entry))
        else:
            self.books.fail(incident)

    def release(self, incident: str) -> None:
        """The effect did not happen: the reservation counts nowhere."""
        self._change(incident, state="released", failed=False, cost_usd=None)

    def abandon(self, incident: str) -> None:
        """The incident fails: a reservation that still runs is over, and counts as a failure."""
        entry = self._entry(incident)
        if entry is not None and entry["state"] == "running":
            self._change(incident, state="done", failed=True, cost_usd=None)

    def _change(
        self,
        incident: str,
        *,
        state: str,
        failed: bool,
        cost_usd: Decimal | None,
        **told: Any,
    ) -> None:
        entry = self._entry(incident)
        if entry is None:
            return
        entry |= {"state": state, "failed": failed or entry.get("failed", False), **told}
        if cost_usd is not None:
            entry["cost"] = int((cost_usd * _MICRO).to_integral_value(ROUND_CEILING))
        self._redis.hset(self._key, incident, self._sealed(incident, entry))

    def _replaced(self, incident: str, seen: bytes, entry: dict[str, Any]) -> bool:
        """Written, unless what stands there is not what was seen."""
        reply = self._replace(keys=[self._key, self._key], args=[0, incident, seen, self._sealed(incident, entry)])
        return reply in {b"OK", "OK"}

    def _sealed(self, incident: str, entry: dict[str, Any]) -> str:
        return self._seal.close("ledger", incident, json.dumps(entry, sort_keys=True))

    def _entry(self, key: str, raw: bytes | None = None) -> dict[str, Any] | None:
        """One entry; None where there is none, or none of ours."""
        raw = self._redis.hget(self._key, key) if raw is None else raw
        text = None if raw is None else self._seal.open("ledger", key.partition("#")[0], raw)
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return found

    def _all(self) -> dict[str, dict[str, Any] | None]:
        found = {key.decode("utf-8", "replace"): raw for key, raw in self._redis.hgetall(self._key).items()}
        return {key: self._entry(key, raw) for key, raw in found.items()}

    def _standing(self) -> dict[str, Entry]:
        return {key: entry for key, entry in self._all().items() if entry is not None and entry["state"] != "released"}

    def entries(self, models: Sequence[str] | None = None) -> dict[str, Entry]:
        """Every entry of ours that counts, by incident; `models`: of the past, that of these alone."""
        found = with_past(self._all(), self.books.all() if models is None else self.books.read(models)[0])
        return {key: entry for key, entry in found.items() if entry is not None and entry["state"] != "released"}

    def running(self) -> list[str]:
        """Incidents whose reservation is neither settled nor released."""
        return [incident for incident, entry in self._standing().items() if entry["state"] == "running"]

    def needed(self) -> frozenset[str] | None:
        """Incidents whose stored state is still of use: of a reservation that runs or cannot be read, of each model's last
        change, and of a quarantine that was not released: both may be undone. None, nobody knows: a book cannot be read."""
        last: dict[tuple[str, str], tuple[int, str]] = {}
        held_back: dict[str, tuple[int, bool]] = {}  # when it last kept data out or released them, and whether it kept
        needed = set()
        hot, books = self._all(), self.books.all()
        if None in books.values():
            return None
        for key, entry in with_past(hot, books).items():
            incident = key.partition("#")[0]
            if entry is None or entry["state"] == "running":
                needed.add(incident)
            if entry is None or entry.get("changed") is None:
                continue
            changed, action = entry["changed"], entry["action"]
            if action == "quarantine_data":
                held_back[incident] = max(held_back.get(incident, (0, True)), (changed, not entry.get("undo")))
                continue
            kind = action if action == "refresh_reference" else "version"
            for model in {entry["model"], *entry.get("models", ())}:
                last[model, kind] = max(last.get((model, kind), (0, "")), (changed, incident))
        needed |= {incident for incident, (_, kept) in held_back.items() if kept}
        return frozenset(needed | {incident for _, incident in last.values()})

    def facts(self, incident: str, *, model: str, now: str, caps: Caps) -> dict[str, Any]:
        """The `state.*` facts of contract §4, without the incident that is being decided.

        None for all of them (unknown) where an entry stands there that is not of ours: nobody knows what it replaced.
        """
        return self.facts_of(incident, models=[model], now=now, caps=caps)[model]

    def facts_of(self, incident: str, *, models: Sequence[str], now: str, caps: Caps) -> dict[str, dict[str, Any]]:
        """`facts` of several models from one look."""
        hot = self._all()
        books, latest = self.books.read(models)
        at = parse_rfc3339(now)
        back_ms = caps.rate_global[1] if caps.rate_global else 86_400_000
        # The policy looks further back than when that was put away, or nobody says when that was.
        if latest is not None and (not latest or latest >= min(_ms(at) - back_ms, _day_start_ms(at, caps.zone))):
            books = self.books.all()
        found = with_past(hot, books)
        if latest is None or None in found.values():
            return {model: dict.fromkeys(STATE_FACTS) for model in models}
        others = [
            entry
            for key, entry in found.items()
            if entry is not None and entry["state"] != "released" and key.partition("#")[0] != incident
        ]
        return {model: count_actions(others, model=model, now=now, caps=caps) for model in models}

    def record_outcome(self, incident: str, *, model: str, action: str, helped: bool) -> None:
        """Remember whether an action helped, once for each incident."""
        key = f"{model}|{action}|{incident}"
        self._redis.hset(self._track, key, self._seal.close("track", key, "1" if helped else "0"))

    def outcome(self, incident: str, *, model: str, action: str) -> bool | None:
        """Whether an incident's action helped; None where nobody judged it, or what stands there is not of ours."""
        key = f"{model}|{action}|{incident}"
        raw = self._redis.hget(self._track, key)
        if raw is None:
            book = self.books.read([model])[0].get(model)
            return None if book is None else book.outcomes(action).get(incident)
        text = self._seal.open("track", key, raw)
        return None if text is None else text == "1"

    def track_record(self, *, model: str, action: str) -> dict[str, Any]:
        """Successes, failures, and the lower end of the 90 % Wilson interval of the success rate (null without any).

        All null where an outcome stands there that is not of ours.
        """
        name = f"{model}|{action}|"
        outcomes: dict[str, bool | None] = {}
        for key, value in self._redis.hscan_iter(self._track, match=f"{_escape(name)}*", count=500):
            text = self._seal.open("track", key.decode("utf-8", "replace"), value)
            outcomes[key.decode("utf-8", "replace").removeprefix(name)] = None if text is None else text == "1"
        book = self.books.read([model])[0].get(model, Book())
        if book is None or None in outcomes.values():
            return {"successes": None, "failures": None, "lower_bound": None}
        told = [*({**book.outcomes(action), **outcomes}).values()]
        successes, failures = told.count(True), told.count(False)
        return {
            "successes": successes,
            "failures": failures,
            "lower_bound": wilson_lower(successes, successes + failures),
        }

    def spend_usd(self, model: str | None = None) -> Decimal:
        """All that was spent, ever, or on one model."""
        entries = [entry for entry in self.entries().values() if model is None or entry["model"] == model]
        return Decimal(sum(int(entry["cost"]) for entry in entries)) / _MICRO


def count_actions(entries: Iterable[Mapping[str, Any]], *, model: str, now: str, caps: Caps) -> dict[str, Any]:
    """The counting facts of contract §4 from entries `{model, models, at, cost, state, failed, undo}`.

    One with `times` and `own` is the sum of so many, none later than `at` (`books.py`): all of them count wherever it does, and
    how many of them failed is not known. One that is dated later than `now` counts as of now: clocks differ, and what happened
    must not vanish for that.
    """
    moment = parse_rfc3339(now)
    at, day = _ms(moment), _day_start_ms(moment, caps.zone)
    counted = [{**entry, "at": min(entry["at"], at)} for entry in entries]
    mine = [entry for entry in counted if _concerns(entry, model)]
    last = max(mine, key=lambda entry: (entry["at"], "times" in entry), default=None)  # a copy speaks for no sum
    since = at - caps.breaker_window_ms
    recent = [entry for entry in mine if entry["at"] > since]
    finished = [entry for entry in recent if entry["state"] == "done" and not entry.get("undo")]
    is_known = not any("times" in entry for entry in recent)

    def spent(entries: Sequence[Mapping[str, Any]]) -> str:
        return str(Decimal(sum(int(entry["cost"]) for entry in entries if entry["at"] >= day)) / _MICRO)

    def within(entries: Sequence[Mapping[str, Any]], rate: tuple[int, int] | None, many: str) -> int:
        window_ms = rate[1] if rate else 86_400_000
        return sum(entry.get(many, 1) for entry in entries if entry["at"] > at - window_ms)

    return {
        "spent_usd_today": spent(counted),
        "spent_usd_today_model": spent(mine),
        "actions_in_window_model": within(mine, caps.rate_model, "times"),
        "actions_in_window_global": within(counted, caps.rate_global, "own"),
        "seconds_since_last_action_model": None if last is None else (at - int(last["at"])) // 1000,
        # What was taken back last had failed, whoever found it so.
        "last_action_failed": bool(last and (last.get("failed") or last.get("undo"))),
        "running_model": sum(entry["state"] == "running" for entry in mine),
        "running_global": sum(entry["state"] == "running" for entry in counted),
        "recent_runs": len(finished) if is_known else None,
        "recent_failures": sum(bool(entry.get("failed")) for entry in finished) if is_known else None,
    }


def _concerns(entry: Mapping[str, Any], model: str) -> bool:
    return entry["model"] == model or model in entry.get("models", ())


def _escape(text: str) -> str:
    return "".join(f"\\{ch}" if ch in "*?[]\\" else ch for ch in text)


def wilson_lower(successes: int, runs: int, z: float = 1.645) -> str | None:
    """Lower end of Wilson's score interval, as a decimal string rounded down to four places (Wilson, 1927)."""
    if runs == 0:
        return None
    share = successes / runs
    centre = share + z * z / (2 * runs)
    margin = z * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return f"{max(0.0, math.floor((centre - margin) / (1 + z * z / runs) * 10_000) / 10_000):.4f}"

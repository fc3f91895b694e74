"""`bench remediation`: a real stream through the real service, beside fixed strategies on the same windows.

The fixed strategies run in the sandbox while the service plays; both see the same rows, and no label before its delay is
over. What is scored afterwards, on the labels of each window, is the model that was in force when the window began.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import BadInput
from driftwarden.service.bench_figures import autonomy_rate, is_wasted, mean_score, percentile, unauthorised

if TYPE_CHECKING:
    from driftwarden.audit.record import Record
    from driftwarden.service.stage import Played, Stage
    from driftwarden.service.streams import ReplayStream

OURS = "driftwarden"
FIXED_TIMEOUT_S = 4 * 3600.0
NO_EFFECT = frozenset({"none", "notify"})
Say = Callable[[str], None]


@dataclass(frozen=True)
class Seen:
    """One window as the service took it, right after it came to rest."""

    played: "Played"
    incident: str | None = None
    outcome: str | None = None
    action: str | None = None
    result: dict[str, Any] | None = None

    @property
    def executed(self) -> bool:
        """Whether an action was carried out about this window (a challenger that lost included)."""
        return self.result is not None and self.result["action"] not in NO_EFFECT


def check_metric(stream: "ReplayStream") -> None:
    """Raise BadInput where the metric does not exist or does not fit the task, before anything is trained."""
    from driftwarden.pipelines import estimator
    from driftwarden.pipelines.diagnostics.metrics import PROBABILITY_METRICS, scorer_name

    try:
        name = scorer_name(stream.metric)
    except ValueError:
        raise BadInput("metric", got=stream.metric, expected="a scikit-learn scorer, like accuracy or r2") from None
    truth = estimator.truth(stream.train[stream.target], stream.task)
    if name in PROBABILITY_METRICS:
        classes = len(set(truth.tolist()))
        if stream.task != "classification" or classes != 2:
            raise BadInput(
                f"metric of a {stream.task}", got=stream.metric, expected="one without probabilities of two classes"
            )
        return
    _try_metric(stream, truth)


def _try_metric(stream: "ReplayStream", truth: Any) -> None:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.metrics import get_scorer

    from driftwarden.pipelines.diagnostics.metrics import scorer_name

    dummy = DummyClassifier() if stream.task == "classification" else DummyRegressor()
    head, name = truth[:500], scorer_name(stream.metric)
    inputs = [[0]] * len(head)
    try:
        dummy.fit(inputs, head)
        get_scorer(name)(dummy, inputs, head)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"metric of a {stream.task}", got=stream.metric, expected=f"one that fits ({reason})") from None


def run(
    stream: "ReplayStream", home: Path, *, policy: Path | None = None, workers: int = 2, say: Say = lambda text: None
) -> tuple[dict[str, Any], dict[str, int]]:
    """Replay the stream below `home` (absent or empty): the document of contract §8, and wasted retrainings by strategy."""
    from driftwarden.service.stage import open_stage

    check_metric(stream)
    with open_stage(home, stream, policy=policy, workers=workers) as stage, ThreadPoolExecutor(1) as beside:
        try:
            say("training the first champion")
            stage.train_first()
            fixed = beside.submit(_play_fixed, stage)
            seen = []
            for window in stream.windows:
                seen.append(_play_one(stage, window))
                say(_line(seen[-1], len(stream.windows)))
            undone = _undone(stage)
            ours = _ours(stage, [one.played.champion for one in seen])
            successions = _successions(stage, seen, ours)
            say("waiting for the fixed strategies")
            others = fixed.result()
        except BaseException:
            stage.service.sandbox.close()  # else leaving would wait for the fixed strategies
            raise
        audit_dir = stage.service.settings.audit_dir
    from driftwarden.audit import read_records

    return _document(stream, seen, undone, ours, successions, others, list(read_records(audit_dir)))


def _play_fixed(stage: "Stage") -> dict[str, Any]:
    settings, windows = stage.service.settings.rehearsal, stage.stream.windows
    folder = stage.service.settings.home / "truth" / stage.stream.name
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "train.parquet"
    stage.stream.train.to_parquet(first, index=False)
    paths = [str(first), *(stage.truth_of(window).paths[0] for window in windows)]
    recent = max(settings.recent_rows_min, settings.recent_windows * len(windows[0].rows))
    return dict(
        stage.service.sandbox.call(
            "driftwarden.service.bench_fixed:play",
            {
                "model": stage.model.model_dump(mode="json"),
                "batches": paths,
                "label_delay_windows": stage.stream.label_delay_windows,
                "recent_rows": recent,
            },
            timeout_s=FIXED_TIMEOUT_S,
        )
    )


def _play_one(stage: "Stage", window: Any) -> Seen:
    from driftwarden.service.workflow.stored import load_incident

    played = stage.play(window)
    if played.event is None:
        return Seen(played)
    identity = {"source": played.event["source"], "id": played.event["id"]}
    for record in stage.service.store.list(limit=100_000):
        incident = load_incident(record.doc) if record.doc else None
        if incident is not None and any(identity.items() <= one.items() for one in incident.events):
            candidate = incident.candidate
            return Seen(
                played,
                incident.id,
                incident.outcome,
                candidate.action.value if candidate else None,
                incident.result.model_dump(mode="json") if incident.result else None,
            )
    return Seen(played)


def _undone(stage: "Stage") -> set[str]:
    return {record.id for record in stage.service.store.list(limit=100_000) if record.state == "undone"}


def _ours(stage: "Stage", champions: list[int]) -> list[float | None]:
    """Each window scored by the champion that was in force when it began."""
    scores: dict[int, float | None] = {}
    for version in sorted(set(champions)):
        windows = [index for index, one in enumerate(champions) if one == version]
        scores |= dict(zip(windows, _score(stage, version, windows), strict=True))
    return [scores[index] for index in range(len(champions))]


def _score(stage: "Stage", version: int, windows: list[int]) -> list[float | None]:
    if not windows:
        return []
    return stage.score(version, [stage.truth_of(stage.stream.windows[index]) for index in windows])


def _successions(stage: "Stage", seen: list[Seen], ours: list[float | None]) -> list[dict[str, Any]]:
    """For each retraining: scores of the new and the replaced version on the windows until the next change.

    A challenger that lost its comparison is never in force: `promoted` False, no windows.
    """
    told = []
    for index, one in enumerate(seen):
        if not one.executed or one.result is None or one.result["action"] != "retrain":
            continue
        before, after = one.result["before"], one.result["after"]
        promoted = bool(one.result["changed"] and before is not None and after is not None)
        windows: list[int] = []
        for later in range(index + 1, len(seen)):
            if not promoted or seen[later].played.champion != after:
                break
            windows.append(later)
        told.append(
            {
                "promoted": promoted,
                "new": [ours[later] for later in windows],
                "old": _score(stage, before, windows) if promoted else [],
            }
        )
    return told


def _document(
    stream: "ReplayStream",
    seen: list[Seen],
    undone: set[str],
    ours: list[float | None],
    successions: list[dict[str, Any]],
    others: dict[str, Any],
    records: "list[Record]",
) -> tuple[dict[str, Any], dict[str, int]]:
    performance = {name: side["performance"] for name, side in others.items()} | {OURS: ours}
    wasted = {
        name: sum(is_wasted(one["new"], one["old"]) for one in side["successions"]) for name, side in others.items()
    }
    wasted[OURS] = sum(not one["promoted"] or is_wasted(one["new"], one["old"]) for one in successions)
    seconds = _seconds_to_decision(seen, records)
    outcomes = [one.outcome for one in seen]
    document = {
        "stream": stream.name,
        "metric": stream.metric,
        "higher_is_better": True,  # every score follows scikit-learn's sign
        "windows": [
            {
                "index": one.played.window.index,
                "rows": len(one.played.window.rows),
                "event": one.played.event is not None,
                "outcome": one.outcome,
                "action": one.action,
                "executed": one.executed,
                "undone": one.executed and one.incident in undone,
                "performance": {name: _round(scores[index]) for name, scores in performance.items()},
            }
            for index, one in enumerate(seen)
        ],
        "summary": {
            "performance": {name: _round(mean_score(scores)) for name, scores in performance.items()},
            "retrains": {name: side["retrains"] for name, side in others.items()} | {OURS: len(successions)},
            "retrains_wasted": wasted[OURS],
            "autonomy_rate": autonomy_rate(outcomes),
            "escalations": outcomes.count("escalate"),
            "unauthorised": len(unauthorised(records)),
            "seconds_to_decision": {"p50": _round(percentile(seconds, 50)), "p95": _round(percentile(seconds, 95))},
        },
    }
    return document, wasted


def _seconds_to_decision(seen: list[Seen], records: "list[Record]") -> list[float]:
    """From the moment an event was made to the first decision of its incident after it, both on real time."""
    decisions: dict[str | None, list[Any]] = {}
    for record in records:
        if record.type == "decision":
            decisions.setdefault(record.incident, []).append(record.moment)
    seconds = []
    for one in seen:
        if one.played.event is None or one.incident is None:
            continue
        made = parse_rfc3339(one.played.event["time"])
        after = [moment for moment in decisions.get(one.incident, []) if moment >= made]
        if after:
            seconds.append((min(after) - made).total_seconds())
    return seconds


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _line(one: Seen, windows: int) -> str:
    told = "no drift" if one.played.event is None else f"drift: {one.outcome} {one.action or ''}".rstrip()
    did = ""
    if one.executed and one.result is not None:
        did = f" -> version {one.result['after']}" if one.result["changed"] else " -> done"
    return f"window {one.played.window.index + 1}/{windows}: {told}{did}"

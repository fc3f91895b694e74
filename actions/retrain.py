"""`retrain`: train a challenger, compare it with the champion on rows it has not seen, promote it when it wins.

`exact` promotes the version that was compared. `refit` trains the recipe that won once more, on everything up to now, and
promotes that. Steps and what a retry finds of them: the split of the rows in the effect's record, the version by its key
tag, the comparison in the record, the refitted version by its own key tag, the alias itself.
"""

from typing import Any, Literal, cast, get_args

from driftwarden.actions.parts import Parts
from driftwarden.actions.promotion import effect_result, finish, move_champion, recorded, settled, undo_move
from driftwarden.actions.registry import CORRELATION_TAG, INCIDENT_TAG
from driftwarden.actions.rows import TrialRows, needs_split, trial_rows
from driftwarden.actions.windows import origin
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import ActionRequest, Comparison, EffectResult, Estimate, TrainingRequest
from driftwarden.errors import BadInput, GiveUp, Refused
from driftwarden.strict import plain

JsonObject = dict[str, Any]
Strategy = Literal["all", "recent", "since_drift", "reweighted"]


class Retrain:
    """Undone by pointing the champion back."""

    name = ActionName.RETRAIN

    def __init__(self, parts: Parts) -> None:
        """Over the real parts."""
        self._parts = parts

    def estimate(self, request: ActionRequest) -> Estimate:
        """The model's own cost of a retraining."""
        return Estimate(cost_usd=request.model.costs.retrain_usd)

    def precheck(self, request: ActionRequest) -> None:
        """Refused without a champion, an allowed strategy, or rows on which a challenger could be compared unseen."""
        if self._parts.registry.effect(request.model, request.idempotency_key) is not None:
            return
        champion = self._parts.registry.champion(request.model)
        if champion is None or champion != request.champion_version:
            raise Refused(
                f"champion of `{request.model.registered_model}` is version {champion},"
                f" the decision was made for {request.champion_version}"
            )
        _strategy(request)
        training, evaluation = _rows(request)
        if not needs_split(training, evaluation):
            self._trial(request, {})

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """The result that the registry records under this key."""
        record = recorded(self._parts, request, request.idempotency_key)
        return None if record is None else effect_result(self.name, request.idempotency_key, record, replayed=True)

    def execute(self, request: ActionRequest) -> EffectResult:
        """Train, compare, promote; takes up where a run that died has stopped, and trains nothing twice."""
        try:
            return self._execute(request)
        except BadInput as error:  # a table or a pipeline of the user's: nothing that another try would change
            raise GiveUp(f"retrain: {error.diagnostics()}") from error

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Point the champion back to the version it was, if it is still the one that this left."""
        return undo_move(self._parts, self.name, request, result)

    def _execute(self, request: ActionRequest) -> EffectResult:
        key = request.idempotency_key
        if found := settled(self._parts, request, key):
            return effect_result(self.name, key, found, replayed=True)
        record = self._parts.registry.effect(request.model, key)
        if record is None:
            self.precheck(request)
            record = self._record(request, {"state": "split", "split": self._split(request), "changed": False})
        if record["state"] == "split":
            record = self._challenge(request, record)
        if record["state"] == "compared":
            if not record["won"]:
                return self._result(request, finish(self._parts, request, key, record))
            target = self._target(request, record)
            record = {**record, "data": {**record["data"], "promoted": target}}
        record = move_champion(
            self._parts,
            request,
            key=key,
            target=int(record["data"]["promoted"]),
            expected=cast(int, request.champion_version),
            record=record,
            forward=True,
        )
        return self._result(request, record)

    def _split(self, request: ActionRequest) -> JsonObject:
        training, evaluation = _rows(request)
        if not needs_split(training, evaluation):
            return {}
        bounds = self._parts.settings.rehearsal
        return self._parts.sandbox.call(
            "driftwarden.actions.tasks:split",
            {
                "rows": training.model_dump(mode="json"),
                "share": bounds.holdout_share,
                "rows_min": bounds.holdout_rows_min,
                "rows_max": min(bounds.holdout_rows_max, evaluation.last_rows or bounds.holdout_rows_max),
                "window": self._parts.registry.training_window(request.model, cast(int, request.champion_version)),
            },
            timeout_s=bounds.timeout_s,
            memory_bytes=bounds.memory_mib * 1024 * 1024,
        )

    def _trial(self, request: ActionRequest, split: JsonObject) -> TrialRows:
        training, evaluation = _rows(request)
        if "cut" in split:
            evaluation = training.narrowed(row_start=int(split["cut"]), last_rows=None)
        bounds = self._parts.settings.rehearsal
        recent = max(bounds.recent_rows_min, int(bounds.recent_share * int(split.get("labelled", 0))))
        return trial_rows(training, evaluation, request.candidate.params, recent)

    def _challenge(self, request: ActionRequest, record: JsonObject) -> JsonObject:
        champion = cast(int, request.champion_version)
        rows = self._trial(request, record["split"])
        challenger = self._train(request, request.idempotency_key, rows.fit)
        comparison = self._parts.comparer.compare(
            request.model, champion=champion, challenger=challenger, rows=rows.evaluation
        )
        if (comparison.champion, comparison.challenger) != (champion, challenger):
            raise GiveUp(
                f"compared versions {comparison.champion} and {comparison.challenger}, expected {champion} and {challenger}"
            )
        self._parts.on_step("compared")
        won = self._won(comparison)
        return self._record(
            request,
            {
                **record,
                "state": "compared",
                "won": won,
                "before": champion,
                "cost_usd": str(request.model.costs.retrain_usd),
                "detail": _story(comparison, won),
                "data": {"challenger": challenger, "comparison": plain(comparison.model_dump(mode="json"))},
            },
        )

    def _record(self, request: ActionRequest, record: JsonObject) -> JsonObject:
        record = {**record, "action": self.name.value, **origin(request)}
        self._parts.registry.put_effect(request.model, request.idempotency_key, record, lock=self._parts.lease)
        self._parts.on_step(str(record["state"]))
        return record

    def _won(self, comparison: Comparison) -> bool:
        gain, win = comparison.relative_gain, comparison.win_probability
        return (
            gain is not None
            and win is not None
            and gain > 0
            and win >= self._parts.settings.actions.win_probability_min
        )

    def _target(self, request: ActionRequest, record: JsonObject) -> int:
        if self._parts.settings.actions.promotion == "exact":
            return int(record["data"]["challenger"])
        rows = self._trial(request, record["split"]).refit
        return self._train(request, f"{request.idempotency_key}:refit", rows)

    def _train(self, request: ActionRequest, key: str, rows: RowSelection) -> int:
        registry, lease = self._parts.registry, self._parts.lease
        lease.check()
        version = registry.find_by_key(request.model, key)
        if version is None:
            result = self._parts.trainer.train(
                TrainingRequest(
                    model=request.model,
                    strategy=_strategy(request),
                    rows=rows,
                    idempotency_key=key,
                    correlation_id=request.correlation_id,
                    incident=request.incident,
                    tracking_uri=registry.tracking_uri,
                    artifact_root=registry.artifact_root,
                    timeout_s=self._parts.settings.actions.train_timeout_s,
                )
            )
            version = registry.find_by_key(request.model, key)
            if version is None or version != result.version:
                raise GiveUp(
                    f"the training run says version {result.version}, the registry has {version} under its key"
                )
        self._parts.on_step("trained")
        tags = {INCIDENT_TAG: request.incident, CORRELATION_TAG: request.correlation_id}
        registry.tag_version(request.model, version, tags)
        registry.set_challenger(request.model, version, lock=lease)
        self._parts.on_step("challenger")
        return version

    def _result(self, request: ActionRequest, record: JsonObject) -> EffectResult:
        return effect_result(self.name, request.idempotency_key, record, replayed=False)


def _strategy(request: ActionRequest) -> Strategy:
    strategy = request.candidate.params.get("strategy", "all")
    if strategy not in get_args(Strategy):
        raise Refused(f"retrain: strategy `{strategy}` is not one of {', '.join(get_args(Strategy))}")
    return cast(Strategy, strategy)


def _rows(request: ActionRequest) -> tuple[RowSelection, RowSelection]:
    if request.training_rows is None or request.evaluation_rows is None:
        raise Refused("retrain: there are no labelled rows to train on and to compare on")
    return request.training_rows, request.evaluation_rows


def _story(comparison: Comparison, won: bool) -> str:
    gain = "unknown" if comparison.relative_gain is None else f"{comparison.relative_gain:+.4f}"
    win = "unknown" if comparison.win_probability is None else f"{comparison.win_probability:.3f}"
    return (
        f"challenger {comparison.challenger} {'beat' if won else 'did not beat'} champion {comparison.champion}"
        f" on {comparison.rows} rows: relative gain {gain}, win probability {win}"
    )

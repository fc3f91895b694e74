"""A scripted case and knowledge base: real measurement values, told rather than measured."""

from typing import Any

from driftwarden.contracts.measurements import (
    MEASURE_TYPES,
    CategoriesMeasure,
    ColumnQuality,
    ColumnShift,
    ConceptMeasure,
    DomainMeasure,
    LabelsMeasure,
    Measured,
    MeasurementName,
    NewCategory,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    SeasonalColumn,
    SeasonalityMeasure,
    ShiftMeasure,
    UnitChange,
    UnitMeasure,
)
from driftwarden.contracts.ports import KnowledgeHit

ROWS = {"rows_reference": 2000, "rows_current": 1000}
COLUMNS = ("temperature", "vibration", "pressure", "load")


def shift(*shifted: str, effect: float = 1.4) -> ShiftMeasure:
    """Every sensor tested; those named have shifted by `effect` robust spreads."""
    columns = [
        ColumnShift(
            name=name,
            type="numeric",
            method="kolmogorov-smirnov",
            statistic=0.62 if name in shifted else 0.02,
            p_value=1e-40 if name in shifted else 0.6,
            p_adjusted=4e-40 if name in shifted else 1.0,
            effect=effect if name in shifted else 0.01,
            shifted=name in shifted,
            reference={"median": 60.0, "spread": 5.0},
            current={"median": 60.0 + 5.0 * effect if name in shifted else 60.0, "spread": 5.0},
        )
        for name in COLUMNS
    ]
    return ShiftMeasure(**ROWS, columns=tuple(sorted(columns, key=lambda column: -column.effect)))


def quality(**suspects: dict[str, Any]) -> QualityMeasure:
    """Every sensor clean but for the fields that are given by column."""
    clean: dict[str, Any] = {"missing_reference": 0.0, "missing_current": 0.0, "missing_p_adjusted": 1.0}
    clean["missing_suspect"] = False
    columns = [ColumnQuality(name=name, **{**clean, **suspects.get(name, {})}) for name in COLUMNS]
    return QualityMeasure(**ROWS, columns=tuple(sorted(columns, key=lambda column: column.name not in suspects)))


def performance(reference: float = 0.93, current: float = 0.93, p_worse: float = 0.4) -> PerformanceMeasure:
    """Accuracy on a thousand labelled rows."""
    loss = max(0.0, min(1.0, (reference - current) / reference))
    return PerformanceMeasure(
        **ROWS,
        metric="accuracy",
        basis="measured",
        reference=reference,
        current=current,
        current_low=current - 0.015,
        current_high=current + 0.015,
        relative_loss=loss,
        relative_loss_low=max(0.0, loss - 0.02),
        relative_loss_high=min(1.0, loss + 0.02),
        p_worse=p_worse,
        labelled_rows=1000,
    )


def concept(changed: bool, *, expected: float = 0.01, measured: float = 0.01) -> ConceptMeasure:
    """Whether the relation of features and target changed."""
    return ConceptMeasure(
        **ROWS,
        loss_expected=expected,
        loss_measured=measured,
        loss_in_domain=measured,
        p_value=1e-6 if changed else 0.7,
        changed=changed,
        onset_row=310 if changed else None,
    )


def seasonality(*seen: str, shifted: tuple[str, ...] = ()) -> SeasonalityMeasure:
    """The shifted columns against ten earlier windows; those named were seen before."""
    columns = tuple(
        SeasonalColumn(
            name=name,
            distance_reference=0.6,
            distance_nearest=0.05 if name in seen else 0.58,
            typical=0.06,
            nearest="2025-11-18",
            seen_before=name in seen,
        )
        for name in shifted or seen
    )
    share = len(seen) / len(columns) if columns else 0.0
    return SeasonalityMeasure(**ROWS, windows=10, columns=columns, explained_share=share)


def unit_change(name: str = "temperature") -> UnitMeasure:
    """One column turned from celsius to fahrenheit."""
    change = UnitChange(
        name=name,
        factor=1.8,
        offset=32.0,
        before=0.98,
        residual=0.02,
        name_of_change="celsius to fahrenheit",
        confidence=0.97,
    )
    return UnitMeasure(**ROWS, columns=(change,))


def new_category(share: float = 0.25) -> CategoriesMeasure:
    """A machine type that training never saw."""
    return CategoriesMeasure(
        **ROWS,
        columns=(NewCategory(name="machine", values=("M-9",), rows=int(1000 * share), share=share, known_values=4),),
    )


QUIET: dict[MeasurementName, Measured] = {
    "schema": SchemaMeasure(**ROWS),
    "shift": shift(),
    "units": UnitMeasure(**ROWS),
    "quality": quality(),
    "categories": CategoriesMeasure(**ROWS),
    "seasonality": SeasonalityMeasure(**ROWS, windows=10),
    "labels": LabelsMeasure(**ROWS, method="chi-squared", statistic=0.2, p_value=0.7, effect=0.01),
    "performance": performance(),
    "domain": DomainMeasure(**ROWS, auc=0.51, auc_low=0.49, auc_high=0.53),
    "concept": concept(False),
}

SCENES: dict[str, dict[MeasurementName, Measured]] = {
    "quiet": {},
    "unit_change": {
        "shift": shift("temperature", effect=16.0),
        "units": unit_change(),
        "performance": performance(current=0.71, p_worse=1.0),
        "seasonality": seasonality(shifted=("temperature",)),
        "domain": DomainMeasure(
            **ROWS, auc=0.99, auc_low=0.98, auc_high=1.0, columns=({"name": "temperature", "importance": 0.95},)
        ),
        "concept": concept(False, expected=0.22, measured=0.23),
    },
    "concept_drift": {
        "performance": performance(current=0.80, p_worse=1.0),
        "concept": concept(True, expected=0.005, measured=0.14),
    },
    "covariate_shift": {
        "shift": shift("temperature", "load"),
        "performance": performance(current=0.86, p_worse=0.99),
        "seasonality": seasonality(shifted=("temperature", "load")),
        "domain": DomainMeasure(**ROWS, auc=0.9, auc_low=0.88, auc_high=0.92, columns=({"name": "temperature"},)),
        "concept": concept(False, expected=0.07, measured=0.075),
    },
    "seasonal_pattern": {
        "shift": shift("temperature", "load"),
        "seasonality": seasonality("temperature", "load"),
        "domain": DomainMeasure(**ROWS, auc=0.88, auc_low=0.86, auc_high=0.9, columns=({"name": "temperature"},)),
    },
    "missing_values": {
        "quality": quality(pressure={"missing_current": 0.4, "missing_p_adjusted": 1e-50, "missing_suspect": True}),
        "performance": performance(current=0.88, p_worse=0.97),
    },
    "stuck_values": {
        "quality": quality(vibration={"stuck_rows": 700, "stuck_share": 0.7, "stuck_suspect": True}),
        "shift": shift("vibration", effect=0.7),
        "seasonality": seasonality(shifted=("vibration",)),
        "performance": performance(current=0.87, p_worse=0.98),
    },
    "new_category": {
        "categories": new_category(),
        "performance": performance(current=0.84, p_worse=0.99),
        "concept": concept(False, expected=0.09, measured=0.1),
    },
}


class ScriptedCase:
    """A case file whose answers are given; counts how often each measurement was asked for."""

    def __init__(self, scene: str = "quiet", **changes: Any) -> None:
        """A scene's measurements over quiet ones; `changes`: `event`, `model`, `versions`, `history`, `changes`,
        or measurements by name."""
        self.measures = {**QUIET, **SCENES[scene]}
        self.measures.update({name: changes.pop(name) for name in list(changes) if name in MEASURE_TYPES})
        self.asked: list[str] = []
        self._event = {
            "model": "factory-failure",
            "kind": "data_drift",
            "environment": "production",
            "window": {
                "start": "2026-11-19T00:00:00.000000Z",
                "end": "2026-11-20T00:00:00.000000Z",
                "rows": 1000,
                "uri": "data/window-17.parquet",
            },
            "columns": [{"name": "temperature", "type": "numeric", "score": 0.4, "threshold": 0.1, "drifted": True}],
            "drift_share": 0.25,
        } | changes.pop("event", {})
        self._model = {
            "name": "factory-failure",
            "task": "classification",
            "target": "failure",
            "metric": "accuracy",
            "features": [*COLUMNS, "machine"],
            "costs": {"retrain_usd": "5.00"},
            "value": {"usd_per_point": "100.00"},
            "traffic_percent": 100,
            "fallback_version": None,
            "upstream": ["plant-a-sensors"],
        } | changes.pop("model", {})
        self._versions = changes.pop(
            "versions",
            [
                {"version": 3, "aliases": [], "tags": {}},
                {"version": 2, "aliases": ["champion"], "tags": {}},
                {"version": 1, "aliases": [], "tags": {}},
            ],
        )
        self._history = changes.pop("history", [])
        self._changes = changes.pop("changes", [])
        assert not changes, f"unknown: {sorted(changes)}"

    def event(self) -> dict[str, Any]:
        """The event."""
        return self._event

    def model(self) -> dict[str, Any]:
        """The card."""
        return self._model

    def measure(self, name: MeasurementName) -> Measured:
        """One measurement."""
        self.asked.append(name)
        return self.measures[name]

    def metric_history(self, limit: int = 20) -> list[dict[str, Any]]:
        """Earlier windows."""
        return list(self._history)[-limit:]

    def registry_history(self, limit: int = 10) -> list[dict[str, Any]]:
        """Versions."""
        return list(self._versions)[:limit]

    def recent_changes(self) -> list[dict[str, Any]]:
        """Changes."""
        return list(self._changes)


class ScriptedKnowledge:
    """A knowledge base of given passages: a runbook for every cause, and whatever incidents are told."""

    def __init__(self, *incidents: KnowledgeHit, runbook_text: str = "Check the sensor before the model.") -> None:
        """Keep the passages."""
        self.incidents = incidents
        self.runbook_text = runbook_text
        self.queries: list[dict[str, Any]] = []

    def search(
        self, text: str, *, kind: str | None = None, root_cause: str | None = None, limit: int = 5
    ) -> tuple[KnowledgeHit, ...]:
        """Passages of the kind and cause."""
        self.queries.append({"text": text, "kind": kind, "root_cause": root_cause})
        runbook = KnowledgeHit(
            id=f"runbook:{root_cause or 'general'}",
            kind="runbook",
            title=f"Runbook {root_cause or ''}",
            text=self.runbook_text,
            score=0.8,
            metadata={"root_cause": root_cause or ""},
        )
        passages = [runbook, *self.incidents]
        return tuple(hit for hit in passages if kind in (None, hit.kind))[:limit]


def past_incident(
    number: int,
    action: str,
    *,
    helped: bool | None,
    cause: str,
    model: str = "factory-failure",
    text: str = "As before.",
) -> KnowledgeHit:
    """An incident as the knowledge base returns it."""
    return KnowledgeHit(
        id=f"incident:inc-{number}",
        kind="incident",
        title=f"inc-{number}",
        text=text,
        score=0.7,
        metadata={"root_cause": cause, "action": action, "helped": helped, "model": model, "outcome": "execute"},
    )

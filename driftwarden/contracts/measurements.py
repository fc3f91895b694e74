"""What the diagnostics measure: pure results over a reference table and a window, the words that agents reason in.

Every result says how many rows it rests on; where nothing could be measured, `unavailable` says why and the lists are empty.
"""

from typing import Any, Literal

from driftwarden.contracts.base import Value

MeasurementName = Literal[
    "schema", "shift", "units", "quality", "categories", "seasonality", "labels", "performance", "domain", "concept"
]
MEASUREMENT_NAMES: tuple[MeasurementName, ...] = (
    "schema",
    "shift",
    "units",
    "quality",
    "categories",
    "seasonality",
    "labels",
    "performance",
    "domain",
    "concept",
)


class Measured(Value):
    """Rows of the reference and of the window; `unavailable` is empty where the measurement was made."""

    rows_reference: int = 0
    rows_current: int = 0
    unavailable: str = ""


class SchemaMeasure(Measured):
    """Columns that vanished, came, or changed type (`{name, reference, current}`); columns exchanged with each other."""

    vanished: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    type_changes: tuple[dict[str, str], ...] = ()
    swapped: tuple[tuple[str, str], ...] = ()


class ColumnShift(Value):
    """One column's shift. `p_adjusted` is corrected over all columns (Holm or Benjamini-Yekutieli); `effect` is a
    scale-free size: difference of medians over the reference's robust spread (numeric), total variation (categorical)."""

    name: str
    type: Literal["numeric", "categorical"]
    method: str
    statistic: float
    p_value: float
    p_adjusted: float
    effect: float
    shifted: bool
    reference: dict[str, Any] = {}
    current: dict[str, Any] = {}


class ShiftMeasure(Measured):
    """Every feature's shift, strongest first."""

    alpha: float = 0.01
    columns: tuple[ColumnShift, ...] = ()


class UnitChange(Value):
    """The window's values are `factor * reference + offset` in distribution; `residual` is the distance that remains
    after undoing it (0 same, 1 disjoint), `before` the distance as it stands; `name_of_change` e.g. `celsius to fahrenheit`."""

    name: str
    factor: float
    offset: float
    before: float
    residual: float
    name_of_change: str
    confidence: float


class UnitMeasure(Measured):
    """Columns whose unit changed."""

    columns: tuple[UnitChange, ...] = ()


class ColumnQuality(Value):
    """One column's quality. Shares are of rows. `stuck_rows` is the longest run of one value at the window's end or
    inside, `stuck_p` the probability of such a run in the reference; `outlier_share` is beyond the reference's far range."""

    name: str
    missing_reference: float
    missing_current: float
    missing_p_adjusted: float
    missing_suspect: bool
    infinite_rows: int = 0
    stuck_rows: int = 0
    stuck_share: float = 0.0
    stuck_suspect: bool = False
    outlier_share: float = 0.0
    outlier_reference: float = 0.0
    outlier_suspect: bool = False


class QualityMeasure(Measured):
    """Every column's quality, suspects first."""

    columns: tuple[ColumnQuality, ...] = ()


class NewCategory(Value):
    """Values that the reference never held; `share` of the window's rows."""

    name: str
    values: tuple[str, ...]
    rows: int
    share: float
    known_values: int


class CategoriesMeasure(Measured):
    """Columns with new categories."""

    columns: tuple[NewCategory, ...] = ()


class SeasonalColumn(Value):
    """How like earlier windows the window is in one column: `distance_reference` to the reference, `distance_nearest`
    to the nearest earlier window, `typical` between neighbouring windows; `seen_before` where the season explains it."""

    name: str
    distance_reference: float
    distance_nearest: float
    typical: float
    nearest: str
    seen_before: bool


class SeasonalityMeasure(Measured):
    """Shifted columns held against history; `explained_share` of the shifted columns were seen before."""

    windows: int = 0
    columns: tuple[SeasonalColumn, ...] = ()
    explained_share: float = 0.0


class LabelsMeasure(Measured):
    """The target's distribution, reference against window."""

    method: str = ""
    statistic: float | None = None
    p_value: float | None = None
    effect: float | None = None
    shifted: bool = False
    reference: dict[str, Any] = {}
    current: dict[str, Any] = {}


class PerformanceMeasure(Measured):
    """The champion's metric. `relative_loss` = (reference - current) / |reference| for a higher-is-better metric,
    0..1 after clipping, with its 90 % interval; `p_worse` is the bootstrap share in which it is worse.
    `basis`: `measured` on the window's labels, `reported` in the event, `estimated` without labels."""

    metric: str = ""
    higher_is_better: bool = True
    basis: Literal["measured", "reported", "estimated", "none"] = "none"
    reference: float | None = None
    current: float | None = None
    current_low: float | None = None
    current_high: float | None = None
    relative_loss: float | None = None
    relative_loss_low: float | None = None
    relative_loss_high: float | None = None
    p_worse: float | None = None
    labelled_rows: int = 0


class DomainMeasure(Measured):
    """A classifier told to tell window from reference: `auc` out of fold (0.5: it cannot) and what it used."""

    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    columns: tuple[dict[str, Any], ...] = ()


class ConceptMeasure(Measured):
    """Did the relation of features and target change? `loss_expected` is the relative loss that the moved inputs alone
    would bring (reference rows reweighted to the window), `loss_measured` the one seen, `loss_in_domain` the one on
    rows like the reference's; `p_value` tests that the relation is the same; `onset_row` where in the window it begins."""

    loss_expected: float | None = None
    loss_measured: float | None = None
    loss_in_domain: float | None = None
    p_value: float | None = None
    changed: bool = False
    onset_row: int | None = None
    trend: str = ""


Measure = (
    SchemaMeasure
    | ShiftMeasure
    | UnitMeasure
    | QualityMeasure
    | CategoriesMeasure
    | SeasonalityMeasure
    | LabelsMeasure
    | PerformanceMeasure
    | DomainMeasure
    | ConceptMeasure
)

MEASURE_TYPES: dict[MeasurementName, type[Measured]] = {
    "schema": SchemaMeasure,
    "shift": ShiftMeasure,
    "units": UnitMeasure,
    "quality": QualityMeasure,
    "categories": CategoriesMeasure,
    "seasonality": SeasonalityMeasure,
    "labels": LabelsMeasure,
    "performance": PerformanceMeasure,
    "domain": DomainMeasure,
    "concept": ConceptMeasure,
}

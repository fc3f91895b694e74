"""The base of every value, and the words of the contract (§3): root causes and actions."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen, complete, serialisable value; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RootCause(StrEnum):
    """Why a model drifted (contract §3)."""

    COVARIATE_SHIFT = "covariate_shift"
    CONCEPT_DRIFT = "concept_drift"
    LABEL_SHIFT = "label_shift"
    SEASONAL_PATTERN = "seasonal_pattern"
    UNIT_CHANGE = "unit_change"
    MISSING_VALUES = "missing_values"
    STUCK_VALUES = "stuck_values"
    SWAPPED_COLUMNS = "swapped_columns"
    NEW_CATEGORY = "new_category"
    OUTLIER_BURST = "outlier_burst"
    SCHEMA_CHANGE = "schema_change"
    UPSTREAM_FAILURE = "upstream_failure"
    SAMPLING_BIAS = "sampling_bias"
    FALSE_ALARM = "false_alarm"
    UNKNOWN = "unknown"


class ActionName(StrEnum):
    """What can be done about it (contract §3)."""

    RETRAIN = "retrain"
    ROLLBACK = "rollback"
    RECALIBRATE = "recalibrate"
    REFRESH_REFERENCE = "refresh_reference"
    QUARANTINE_DATA = "quarantine_data"
    FALLBACK_MODEL = "fallback_model"
    NOTIFY = "notify"
    NONE = "none"


class Outcome(StrEnum):
    """What the policy decides."""

    EXECUTE = "execute"
    ESCALATE = "escalate"
    MONITOR = "monitor"

"""One door to all measurements: by name, never raising for what the data hold."""

from collections.abc import Callable

from driftwarden.contracts.measurements import MEASURE_TYPES, Measured, MeasurementName
from driftwarden.pipelines.diagnostics.case import DiagnosticInput
from driftwarden.pipelines.diagnostics.concept import measure_concept
from driftwarden.pipelines.diagnostics.domain import measure_domain
from driftwarden.pipelines.diagnostics.performance import measure_performance
from driftwarden.pipelines.diagnostics.quality import measure_categories, measure_quality, measure_schema
from driftwarden.pipelines.diagnostics.seasonality import measure_seasonality
from driftwarden.pipelines.diagnostics.shift import measure_labels, measure_shift
from driftwarden.pipelines.diagnostics.units import measure_units

_MEASURES: dict[MeasurementName, Callable[[DiagnosticInput], Measured]] = {
    "schema": measure_schema,
    "shift": measure_shift,
    "units": measure_units,
    "quality": measure_quality,
    "categories": measure_categories,
    "seasonality": measure_seasonality,
    "labels": measure_labels,
    "performance": measure_performance,
    "domain": measure_domain,
    "concept": measure_concept,
}
_DATA_FAULTS = (ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError)


def measure(name: MeasurementName, case: DiagnosticInput) -> Measured:
    """Measure one thing (once per case); bad data give a result whose `unavailable` says why.

    An unknown name raises KeyError: that is the caller's mistake, not the data's.
    """
    make = _MEASURES[name]

    def guarded() -> Measured:
        try:
            return make(case)
        except _DATA_FAULTS as error:
            reason = f"could not be measured: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return MEASURE_TYPES[name](**case.facts, unavailable=reason)

    return case.keep(f"measure:{name}", guarded)

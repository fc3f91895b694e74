"""Pure measurements on tables: what changed, how much, does it hurt.

    case = DiagnosticInput(reference=..., current=..., target="failure", metric="roc_auc", ...)
    measure("shift", case)

Results are values of `driftwarden.contracts.measurements`; the same case always gives the same result.
"""

from driftwarden.pipelines.diagnostics.case import DiagnosticInput
from driftwarden.pipelines.diagnostics.measure import measure

__all__ = ["DiagnosticInput", "measure"]

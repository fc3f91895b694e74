"""Which events may share a cause upstream: names of groups, so that one broken table over many models is one incident. Pure.

Events of several models with a common name join one incident (`WorkflowStore.admit`). A name is a digest over the
environment, one upstream data set, and the drifted feature columns. The upstream is the configured one (`models.yml`);
only where none is configured, the one that the producer tells of (`data.upstream`, from the Kedro hook's lineage). What is
told only groups, it confirms nothing: every model of an incident is measured, decided and shown for itself, and the two
kinds never share a name, so that no producer can lead a model into the group of a configured upstream.
"""

import hashlib
from typing import Any

from driftwarden.contracts.event import DriftData, DriftEvent
from driftwarden.contracts.watch import WatchedModel
from driftwarden.strict import canonical_json

TOLD_MAX = 16
TOLD_CHARS_MAX = 512

# A changed relation, or a changed target, is the model's own affair: no table upstream breaks it.
_OWN_KINDS = frozenset({"concept_drift", "label_drift"})


def group_names(event: DriftEvent, model: WatchedModel | None) -> tuple[str, ...]:
    """64 hex digits for each upstream of the model; none where no drifted feature is named, or nothing is known upstream."""
    if model is None or not isinstance(event.data, DriftData) or event.data.kind in _OWN_KINDS:
        return ()
    columns = drifted_features(event.data, model)
    if not columns:
        return ()
    basis, names = upstream_of(event.data.model_dump(mode="json"), model)
    return tuple(dict.fromkeys(_name(basis, event.data.environment, name, columns) for name in names))


def drifted_features(data: DriftData, model: WatchedModel) -> tuple[str, ...]:
    """Names of the drifted feature columns, sorted; a column without a role is a feature unless it is the target."""
    return tuple(
        sorted(
            {
                column.name
                for column in data.columns
                if column.drifted and column.role in {None, "feature"} and column.name != model.target
            }
        )
    )


def upstream_of(data: dict[str, Any], model: WatchedModel) -> tuple[str, tuple[str, ...]]:
    """(`configured` or `told`, the data sets that the model is fed from); what is told and is no short list of names is none."""
    return ("configured", model.upstream) if model.upstream else ("told", _told(data.get("upstream")))


def first_told(event: DriftEvent) -> str | None:
    """The first data set that an event says its model is fed from; None where it says nothing of the kind."""
    told = _told((event.data.model_extra or {}).get("upstream"))
    return told[0] if told else None


def _told(told: object) -> tuple[str, ...]:
    if not isinstance(told, list) or not 0 < len(told) <= TOLD_MAX:
        return ()
    names = [name for name in told if isinstance(name, str) and 0 < len(name) <= TOLD_CHARS_MAX]
    return tuple(names) if len(names) == len(told) else ()


def _name(basis: str, environment: str, upstream: str, columns: tuple[str, ...]) -> str:
    # A list in canonical JSON: no text of a producer can be read as two fields.
    text = canonical_json(["driftwarden upstream v1", basis, environment, upstream, list(columns)])
    return hashlib.sha256(text).hexdigest()

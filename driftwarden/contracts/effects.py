"""What an action is given, what it leaves behind, and how that is judged later."""

from decimal import Decimal
from typing import Any, Literal

from driftwarden.contracts.base import ActionName, Value
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel


class ActionRequest(Value):
    """One effect to have: for which incident, on which model, from which champion, under which idempotency key.

    `idempotency_key` = SHA-256 of incident, candidate's action and params (never a counter): the sink is asked for it
    before anything is done. `now` is the decision's moment (RFC 3339). `training_rows` and `evaluation_rows` were chosen
    by the service from rows whose labels are known. `models`: all that the incident concerns, where they are several;
    `members`: the same effect on each of the others, with its own window, rows and key.
    """

    incident: str
    correlation_id: str
    idempotency_key: str
    model: WatchedModel
    candidate: Candidate
    champion_version: int | None
    now: str
    window_uri: str | None = None
    window_start: str | None = None
    window_end: str | None = None
    training_rows: RowSelection | None = None
    evaluation_rows: RowSelection | None = None
    models: tuple[str, ...] = ()
    members: tuple["ActionRequest", ...] = ()


class Estimate(Value):
    """What an action would cost and touch, before anything is done."""

    cost_usd: Decimal
    models_affected: int = 1
    reversible: bool = True


class EffectResult(Value):
    """What an effect left behind. `changed` False: it ran and changed nothing in force (a challenger that lost).

    `before`/`after`: champion versions, where versions are concerned. `undo`: all that `undo` needs. `replayed`: found
    by its key, not done again.
    """

    action: ActionName
    idempotency_key: str
    changed: bool
    before: int | None = None
    after: int | None = None
    cost_usd: Decimal = Decimal(0)
    detail: str = ""
    undo: dict[str, Any] = {}
    data: dict[str, Any] = {}
    replayed: bool = False


class Comparison(Value):
    """Two versions of a model on the same labelled rows; `relative_gain` > 0: `challenger` is better (as in Rehearsal)."""

    metric: str
    higher_is_better: bool
    rows: int
    champion: int
    challenger: int
    champion_score: float | None = None
    challenger_score: float | None = None
    relative_gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    win_probability: float | None = None
    detail: str = ""


class TrainingRequest(Value):
    """A training run in a process of its own: the shipped pipeline, or one of the user's Kedro project.

    `strategy` names the recipe (`all`, `recent`, `since_drift`, `reweighted`); `rows` are what it may see.
    """

    model: WatchedModel
    strategy: Literal["all", "recent", "since_drift", "reweighted"] = "all"
    rows: RowSelection
    idempotency_key: str
    correlation_id: str
    incident: str | None = None
    tracking_uri: str
    artifact_root: str
    timeout_s: float = 900.0


class TrainingResult(Value):
    """The version that a training run registered (tagged with its idempotency key)."""

    version: int
    run_id: str
    rows: int
    replayed: bool = False
    metrics: dict[str, float] = {}


class Verification(Value):
    """Did it help?

    `verdict`: `helped`, `no_difference`, `harmed`, `pending` (too few labelled rows yet), `reported` (someone else's
    figures), `confirmed` (read back: it stands as intended; there is nothing to compare).
    """

    verdict: Literal["helped", "no_difference", "harmed", "pending", "reported", "confirmed"]
    rows: int = 0
    comparison: Comparison | None = None
    detail: str = ""

"""What is kept of requests for approval once they are removed with their incident: the approvers' figures, and every rejection.

Hash `<prefix>approvals:book{<prefix>approvals}`, on the queue's slot, written in the step that removes the requests (`settled.py`):

    <model>   JSON of a `Tally`: a few hundred numbers at most, however many requests there were
    #<id>     JSON of a `Refusal`: its event may come again under the same name, years later, and the same plan is then
              rejected still, by the same signed word

Nothing that stands here allows anything: a tally is for people to read, and a refusal only ever refuses.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from driftwarden.clock import parse_rfc3339
from driftwarden.service.signing.grants import Grant

if TYPE_CHECKING:
    from driftwarden.service.workflow.approvals import ApprovalRequest

_STEP = math.log(1.05)  # waits that are within 5 % of each other are one


class Refusal(BaseModel):
    """What is left of a request that was rejected: `refused` None where nobody's word stood there, or it cannot be read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    requested_at: str | None = None
    refused: Grant | None = None


class Tally(BaseModel):
    """Figures of requests that are gone: how many ended in which state, how long an answer took, and how many of the approved
    effects that later rows judged had helped. `waited`: logarithm of the seconds, in steps of 5 % -> how many."""

    model_config = ConfigDict(extra="ignore")

    states: dict[str, int] = Field(default_factory=dict)
    waited: dict[int, int] = Field(default_factory=dict)
    judged: int = 0
    right: int = 0

    def add(self, request: "ApprovalRequest", *, helped: bool | None) -> None:
        """One more; `helped`: its effect, None where nobody judged it."""
        self.states[request.state] = self.states.get(request.state, 0) + 1
        if (seconds := waited_s(request)) is not None:
            step = int(math.log(max(1.0, seconds)) / _STEP)
            self.waited[step] = self.waited.get(step, 0) + 1
        if helped is not None and proves(request):
            self.judged, self.right = self.judged + 1, self.right + helped

    def waits_s(self) -> list[float]:
        """How long each answer took, to within 3 %."""
        return [math.exp((step + 0.5) * _STEP) for step, count in self.waited.items() for _ in range(count)]

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(
            states=dict(Counter(self.states) + Counter(other.states)),
            waited=dict(Counter(self.waited) + Counter(other.waited)),
            judged=self.judged + other.judged,
            right=self.right + other.right,
        )


def waited_s(request: "ApprovalRequest") -> float | None:
    """Seconds from the asking to the last answer; None where nobody answered."""
    answers = [*request.granted, *([request.refused] if request.refused else [])]
    if not answers:
        return None
    return (parse_rfc3339(answers[-1].at) - parse_rfc3339(request.requested_at)).total_seconds()


def proves(request: "ApprovalRequest") -> bool:
    """Whether what became of its effect says something of whoever approved it; an undo's does not."""
    return request.state == "executed" and "undo" not in request.params


def refusal_name(id: str) -> str:
    """Under which field the refusal of a request stands."""
    return f"#{id}"


def read_refusal(raw: bytes | None) -> Refusal | None:
    """The refusal that stands there; where it cannot be read, one by nobody: it refuses all the same."""
    if raw is None:
        return None
    try:
        refusal = Refusal.model_validate_json(raw)
        parse_rfc3339(str(refusal.requested_at))
    except (ValidationError, ValueError, RecursionError):
        return Refusal()
    return refusal


def read_tally(raw: bytes | None) -> Tally:
    """The tally that stands there; empty where there is none, or nothing that is one."""
    if raw is None:
        return Tally()
    try:
        return Tally.model_validate_json(raw)
    except (ValidationError, RecursionError):
        return Tally()


def read_book(found: Mapping[Any, Any], model: str | None = None) -> tuple[Tally, frozenset[str]]:
    """The tally of one model, or of all, and the ids of what was rejected and removed."""
    named: dict[str, Any] = {name.decode("utf-8", "replace"): raw for name, raw in found.items()}
    tally = Tally()
    for name, raw in named.items():
        if not name.startswith("#") and model in {None, name}:
            tally = tally.plus(read_tally(raw))
    return tally, frozenset(name[1:] for name in named if name.startswith("#"))

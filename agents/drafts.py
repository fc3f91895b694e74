"""What the agents are asked to write: drafts, from which `advice.py` makes the contract's finding and plan.

A draft is a claim. No figure in it is believed, and it has no field through which a file, a table or free text could
become a parameter of an action.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from driftwarden.contracts.base import RootCause


class EvidenceDraft(BaseModel):
    """One observation, and the tool that made it."""

    model_config = ConfigDict(extra="ignore")

    claim: str = Field(description="One sentence with the number in it.")
    measure: str = Field(default="", description="What was measured, e.g. `p_adjusted` or `relative_loss`.")
    value: float | str | None = Field(default=None, description="The number as the tool returned it.")
    columns: list[str] = Field(default_factory=list, description="Columns it concerns.")
    source: str = Field(default="", description="Name of the tool that returned it.")


class FindingDraft(BaseModel):
    """Why the model drifted, as the investigator sees it."""

    model_config = ConfigDict(extra="ignore")

    root_cause: RootCause = Field(description="The one cause that the measurements support best.")
    columns: list[str] = Field(default_factory=list, description="Columns concerned, exactly as the tools name them.")
    summary: str = Field(description="Two or three sentences for the person on call: what happened, and how one knows.")
    evidence: list[EvidenceDraft] = Field(default_factory=list, description="The observations it rests on.")
    citations: list[str] = Field(default_factory=list, description="Ids of knowledge passages that were used.")
    claimed_confidence: float | None = Field(default=None, ge=0, le=1, description="Your own confidence, 0 to 1.")


class CandidateDraft(BaseModel):
    """One remedy; fields that its action does not have are noted and dropped."""

    model_config = ConfigDict(extra="allow")

    action: str = Field(
        description="One of: retrain, rollback, recalibrate, refresh_reference, quarantine_data, fallback_model, "
        "notify, none."
    )
    strategy: str | None = Field(default=None, description="Only for retrain: `all`, `recent` or `since_drift`.")
    to_version: int | None = Field(default=None, description="Only for rollback: a version of the registry history.")
    rationale: str = Field(default="", description="One or two sentences: why it would help, with numbers.")
    citations: list[str] = Field(default_factory=list, description="Ids of knowledge passages that support it.")


class PlanDraft(BaseModel):
    """Remedies in order of preference, as the strategist sees them."""

    model_config = ConfigDict(extra="ignore")

    candidates: list[CandidateDraft] = Field(description="One to six remedies, best first.", min_length=1)
    summary: str = Field(default="", description="One or two sentences: what is proposed, and why in this order.")
    claimed_confidence: float | None = Field(default=None, ge=0, le=1, description="Your own confidence, 0 to 1.")


Retraining = Literal["all", "recent", "since_drift"]
RETRAINING: tuple[Retraining, ...] = ("all", "recent", "since_drift")

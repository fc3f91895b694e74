"""Descriptions in other words than the runbooks' find the right runbook."""

import pytest

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.knowledge import ChromaKnowledge, packaged_runbooks

DESCRIPTIONS = [
    (
        "covariate_shift",
        "Our users are a lot younger this quarter and feature distributions moved, though accuracy is fine.",
    ),
    (
        "covariate_shift",
        "Inputs come from a region where we had little training data; the mapping to the outcome is stable",
    ),
    ("concept_drift", "Input data look identical, yet the answers have been wrong ever since the regulation changed"),
    ("concept_drift", "quality of predictions erodes a little each month, as if the model were getting old"),
    (
        "concept_drift",
        "criminals adapted their behaviour and the detector misses them although the transactions look normal",
    ),
    ("label_shift", "The proportion of positive cases doubled while each class by itself looks unchanged"),
    ("label_shift", "base rate of churn went up, ranking is still good but probabilities are off"),
    ("seasonal_pattern", "Every December demand rises like this, it was the same in the previous year"),
    ("seasonal_pattern", "warm weather in July explains the move, this cycle repeats annually"),
    ("unit_change", "temperatures are now reported in degrees F where C was expected"),
    ("unit_change", "all lengths are multiplied by 1000, somebody switched from metres to millimetres"),
    ("unit_change", "prices appear as cents rather than euros"),
    ("missing_values", "a third of the rows have an empty pressure field"),
    ("missing_values", "there are many NaN and null entries in the income column since yesterday"),
    ("stuck_values", "vibration shows exactly 4.2 for six hours, the probe appears frozen"),
    ("stuck_values", "one gauge is flat while its neighbours keep moving"),
    ("swapped_columns", "height and weight got interchanged in the export"),
    ("swapped_columns", "contents of two fields were mixed up, each one holds the data of the other"),
    ("new_category", "an unseen machine type shows up in the feed"),
    ("new_category", "the payment method list contains a value the encoder does not know"),
    ("outlier_burst", "huge spikes for a few minutes, the median did not move"),
    ("outlier_burst", "a handful of absurdly extreme readings, probably electrical interference"),
    ("schema_change", "after the migration a field is gone and another one was renamed"),
    ("schema_change", "column type turned from number to string and parsing breaks"),
    ("upstream_failure", "last night's ETL crashed so the table is half empty for all models"),
    ("upstream_failure", "the same delivery arrived twice and rows are duplicated, several models alarm at once"),
    ("sampling_bias", "only one site is in the extract because someone added a filter"),
    ("sampling_bias", "we get outcomes solely for approved applicants, so the labelled set is not representative"),
    ("false_alarm", "detector fires on tiny differences with no business effect, it is just noise"),
    ("false_alarm", "with forty tests something is always significant by chance"),
    ("unknown", "nobody can explain the loss, measurements contradict one another"),
    ("unknown", "cause unclear and evidence inconclusive"),
]

WISHES = [
    ("retrain", "how many rows and which period should the new model be fitted on"),
    ("rollback", "the release from this morning is worse, go back to the version before it"),
    ("recalibrate", "scores are overconfident, adjust probabilities without training again"),
    ("refresh_reference", "the baseline of the monitoring is outdated and alerts daily"),
    ("quarantine_data", "isolate the corrupt file so it is not used for training"),
    ("fallback_model", "switch to a simple safe baseline during the emergency"),
    ("notify", "whom do we have to tell and what belongs in the message"),
    ("none", "is it acceptable to ignore this and simply watch"),
]


@pytest.mark.parametrize(("cause", "description"), DESCRIPTIONS)
def test_a_description_finds_a_runbook_of_its_cause(knowledge: ChromaKnowledge, cause: str, description: str) -> None:
    """The top three hold a runbook whose first cause is the right one."""
    hits = knowledge.search(description, kind="runbook", limit=3)
    assert cause in [hit.metadata["root_causes"][0] for hit in hits], [(hit.id, hit.score) for hit in hits]


@pytest.mark.parametrize(("action", "wish"), WISHES)
def test_a_wish_finds_the_runbook_of_its_action(knowledge: ChromaKnowledge, action: str, wish: str) -> None:
    """The top three hold the runbook that is about the action."""
    hits = knowledge.search(wish, kind="runbook", limit=3)
    assert [action] in [hit.metadata["actions"] for hit in hits], [(hit.id, hit.score) for hit in hits]


def test_every_cause_and_every_action_has_a_runbook() -> None:
    """Each of the contract's words is the main subject of a runbook, and there are at least 24 of them."""
    runbooks = packaged_runbooks()
    assert len(runbooks) >= 24
    assert {runbook.root_causes[0] for runbook in runbooks} == set(RootCause)
    assert {runbook.actions[0] for runbook in runbooks if len(runbook.actions) == 1} == set(ActionName)


def test_the_runbooks_are_whole() -> None:
    """Each says how it is verified, undone, what it costs, and what was read; none is a stub or a book."""
    for runbook in packaged_runbooks():
        headings = " ".join(section.heading for section in runbook.sections)
        for part in ("Checks", "Costs and risks", "Verification", "How it is undone", "References"):
            assert part in headings, runbook.id
        assert 40 <= len(runbook.source.split("\n")) <= 90, runbook.id

"""Which remedies suit which cause, and the arithmetic of costs and benefits."""

from decimal import Decimal

import pytest
from fakes.cases import performance

from driftwarden.agents import remedies
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.measurements import PerformanceMeasure

CARD = {"costs": {"retrain_usd": "5.00"}, "value": {"usd_per_point": "100.00"}}


@pytest.mark.parametrize("cause", list(RootCause))
@pytest.mark.parametrize("harm", ["yes", "no", "unknown"])
def test_every_cause_has_remedies_and_broken_data_is_never_trained_on(cause: RootCause, harm: remedies.Harm) -> None:
    """Whatever the harm, there is something to propose, and a data fault never leads to a retraining."""
    actions = [remedy.action for remedy in remedies.remedies(cause, harm)]
    assert 1 <= len(actions) <= 6
    if cause in remedies.DATA_FAULTS or cause is RootCause.UPSTREAM_FAILURE:
        assert actions[0] is ActionName.QUARANTINE_DATA
        assert ActionName.RETRAIN not in actions
    elif harm == "no":
        assert actions[0] is ActionName.NONE


def test_a_stale_reference_is_refreshed_only_where_nothing_was_harmed() -> None:
    """Three windows in a row that drifted and did no harm make the reference stale; two, or a loss, do not."""
    window = {"drift_share": 0.5, "value": 0.93, "reference": 0.93}
    assert remedies.reference_is_stale([window] * 3)
    assert not remedies.reference_is_stale([window] * 2)
    assert not remedies.reference_is_stale([window, {**window, "value": 0.8}, window])
    assert not remedies.reference_is_stale([window, {**window, "drift_share": None}, window])
    first = remedies.remedies(RootCause.SEASONAL_PATTERN, "no", stale_reference=True)[0]
    assert first.action is ActionName.REFRESH_REFERENCE


def test_harm_needs_a_loss_and_certainty() -> None:
    """A loss that chance explains is no harm; what was not measured is unknown, not harmless."""
    assert remedies.harm_of(performance(current=0.80, p_worse=0.99)) == "yes"
    assert remedies.harm_of(performance(current=0.92, p_worse=0.6)) == "no"
    assert remedies.harm_of(PerformanceMeasure(unavailable="no labels")) == "unknown"
    assert remedies.harm_of(None) == "unknown"


def test_benefit_is_points_times_value_times_a_week() -> None:
    """Thirteen points at 100 USD a day for seven days."""
    lost = performance(reference=0.93, current=0.80)
    assert remedies.benefit_usd(ActionName.RETRAIN, CARD, lost) == Decimal("9100.00")
    assert remedies.benefit_usd(ActionName.NOTIFY, CARD, lost) == Decimal("0.00")
    assert remedies.benefit_usd(ActionName.RETRAIN, {}, lost) is None
    assert remedies.benefit_usd(ActionName.RETRAIN, CARD, None) is None
    assert remedies.benefit_usd(ActionName.RETRAIN, CARD, performance(current=0.99)) == 0


def test_lower_is_better_metrics_lose_points_upwards() -> None:
    """An error that grew from 0.10 to 0.15 lost five points."""
    error = PerformanceMeasure(higher_is_better=False, basis="measured", reference=0.10, current=0.15)
    assert remedies.lost_points(error) == Decimal("5.00")


@pytest.mark.parametrize("stated", [None, "much", "-1", True, float("nan"), []])
def test_a_cost_that_cannot_be_read_is_not_free(stated: object) -> None:
    """Training then costs what the contract says by default."""
    assert remedies.cost_usd(ActionName.RETRAIN, {"costs": {"retrain_usd": stated}}) == Decimal("1.00")


def test_only_versions_before_the_champion_can_be_rolled_back_to() -> None:
    """A challenger that lost is newer, not earlier; without a champion nothing is earlier."""
    versions = [{"version": 4, "aliases": ["challenger"]}, {"version": "3", "aliases": ["champion"]}]
    versions += [{"version": number, "aliases": []} for number in (1, 2, -5, True)]
    assert remedies.earlier_versions(versions) == (2, 1)
    assert remedies.earlier_versions([{"version": 1, "aliases": []}]) == ()

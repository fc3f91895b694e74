"""`driftwarden models register`: from small files too, and what cannot be trained is refused before anything is written."""

import json
from pathlib import Path

import pytest

from driftwarden.actions.registry import MlflowRegistry
from driftwarden.clock import SystemClock
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import GiveUp
from driftwarden.service.cli.main import run
from driftwarden.service.registering import first_champion
from driftwarden.testing import CapturedAuditLog

ROWS = 30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one small table: `y` alternates between two classes, `one` is one class, `word` is text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path / "conf"))
    monkeypatch.delenv("DRIFTWARDEN_REDIS_URL", raising=False)
    lines = [f"{row},{row % 2},1,{'abc'[row % 3]}" for row in range(ROWS)]
    (tmp_path / "small.csv").write_text("x,y,one,word\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def register(target: str = "y", task: str = "classification", metric: str = "accuracy", *options: str) -> int:
    """Ask for a first champion on the small table."""
    asked = ["--data", "small.csv", "--target", target, "--task", task, "--metric", metric, *options]
    return run(["models", "register", "tiny", *asked])


def test_a_small_file_trains_on_its_first_fifth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No least number of rows but what the training itself needs: a fifth of 30 rows are 6."""
    assert register("y", "classification", "accuracy", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["rows"], said["metric"]) == (1, ROWS // 5, "accuracy")
    assert run(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["champion"], listed["previous"]) == ("tiny", 1, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("y", "classification", "no_such"), "metric, got `no_such`, expected a scikit-learn scorer"),
        (("y", "classification", "r2"), "metric of a classification, got `r2`"),
        (("x", "regression", "accuracy"), "metric of a regression, got `accuracy`"),
        (("word", "classification", "roc_auc"), "metric of a classification, got `roc_auc`"),
        (("word", "regression", "r2"), "target of a regression, got"),
        (("one",), "got `6 labelled rows of one class, 1`, expected two classes"),
        (("nowhere",), "column, got `nowhere`, expected one of: x, y, one, word"),
        (("y", "classification", "accuracy", "--train-rows", "31"), "got `31`, expected at most the file's 30 rows"),
        (("y", "classification", "accuracy", "--train-rows", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_trained_is_refused_first(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """One line, exit code 2, and nothing was trained, registered or written."""
    assert register(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "conf").exists()
    assert not (folder / "home" / "audit").exists()


class Failing:
    """A trainer whose training fails."""

    def train(self, request: TrainingRequest) -> TrainingResult:
        """Fail."""
        raise GiveUp(f"training of {request.model.name} was killed")


def test_a_training_that_fails_leaves_its_result_in_the_log(folder: Path) -> None:
    """The intent is not left open: the result says that nothing changed, and why."""
    model = WatchedModel(name="tiny", task="classification", target="y", metric="accuracy")
    audit = CapturedAuditLog()
    registry = MlflowRegistry(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    rows = RowSelection(paths=(str(folder / "small.csv"),), target="y")
    with pytest.raises(GiveUp):
        first_champion(model, rows, registry=registry, trainer=Failing(), audit=audit, clock=SystemClock())
    (intent,), (result,) = audit.of_type("intent"), audit.of_type("result")
    assert result["causation"] == intent["@hash"]
    assert (result["body"]["changed"], result["body"]["detail"]) == (False, "training of tiny was killed")
    assert registry.champion(model) is None


def test_the_doctor_names_a_metric_that_does_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry that was written by hand is looked at as one that is registered."""
    entries = folder / "conf" / "local" / "driftwarden"
    entries.mkdir(parents=True)
    (entries / "models.yml").write_text("models: {tiny: {task: regression, target: x, metric: f1}}\n", encoding="utf-8")
    assert run(["doctor", "--json"]) == 1
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["model tiny"]["state"] == "fault"
    assert "metric of a regression, got `f1`" in checks["model tiny"]["detail"]
    assert checks["model tiny"]["mend"] == "correct metric in models.yml"

"""Trains versions by running Kedro in a process of its own (Kedro's globals are not thread-safe)."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.errors import BadInput, GiveUp, Retry, shorten
from driftwarden.keyfile import make_folder
from driftwarden.pipelines import registry
from driftwarden.pipelines.quiet import LOGGING_VARIABLE, PROJECT_LOGGING
from driftwarden.sandbox import TELEMETRY_OFF, redact, secret_values
from driftwarden.strict import loads_json

JsonObject = dict[str, Any]

HOOK_VARIABLE = "DRIFTWARDEN_HOOK"
_OURS = re.compile(r"(DRIFTWARDEN|LANGFUSE|OLLAMA|OTEL)_.*|GOOGLE_API_KEY")
_TAIL_BYTES = 16_384
_TAIL_LINES = 4
_DYING_S = 10.0


class KedroTrainer:
    """The port `Trainer`: looks the idempotency key up in the registry first, else runs Kedro, bounded in time.

    `environ`: the environment runs start from; driftwarden's own settings and keys are taken out of it. `work_dir` keeps
    the output of each run in `<key>.log`.
    """

    def __init__(self, work_dir: Path, *, environ: Mapping[str, str], python: str = sys.executable) -> None:
        """Nothing is made before the first run."""
        self._work_dir, self._environ, self._python = work_dir, dict(environ), python

    def train(self, request: TrainingRequest) -> TrainingResult:
        """Train and register a version, or find the one this key left.

        Raises GiveUp (it failed; the last lines say why), BadInput (the request is wrong), Retry (the process was
        killed from outside, the registry is away).
        """
        found = self._found(request, replayed=True)
        if found is not None:
            return found
        if request.model.training.kedro_project is None:
            return self._shipped(request)
        self._project(request)
        left = self._found(request, replayed=False)
        if left is None:
            raise GiveUp(
                f"the pipeline `{request.model.training.pipeline}` left no version of {request.model.registered_model} "
                f"with the tag {registry.KEY_TAG}"
            )
        return left

    def log_file(self, idempotency_key: str) -> Path:
        """Where the output of a run is kept."""
        return self._work_dir / f"{re.sub(r'[^A-Za-z0-9._-]', '_', idempotency_key)[:128]}.log"

    def _found(self, request: TrainingRequest, *, replayed: bool) -> TrainingResult | None:
        name, uri = request.model.registered_model, request.tracking_uri
        version = registry.find_by_key(uri, name, request.idempotency_key)
        if version is None:
            return None
        rows = registry.window_of(version).get("rows", 0)
        metrics = registry.metrics_of(uri, version)
        return TrainingResult(
            version=int(version.version),
            run_id=str(version.run_id or ""),
            rows=rows if isinstance(rows, int) else 0,
            replayed=replayed,
            metrics=metrics,
        )

    def _shipped(self, request: TrainingRequest) -> TrainingResult:
        with TemporaryDirectory(prefix="driftwarden-train-") as folder:
            answer = Path(folder) / "answer.json"
            command = [self._python, "-P", "-m", "driftwarden.pipelines.run_training", str(answer)]
            code = self._run(request, command, request.model_dump_json(), Path(folder))
            if not answer.exists():
                raise self._failed(request, code)
            document = loads_json(answer.read_bytes(), where="training")
        if "result" in document:
            return TrainingResult.model_validate(document["result"])
        message = self._redacted(str(document.get("message")))
        kind = {"BadInput": BadInput, "Retry": Retry}.get(str(document.get("error")), GiveUp)
        raise kind(message)

    def _project(self, request: TrainingRequest) -> None:
        training = request.model.training
        project = Path(str(training.kedro_project)).expanduser().resolve()
        if not (project / "pyproject.toml").is_file():
            raise BadInput("kedro project", got=str(project), expected="a folder with a pyproject.toml")
        source = (Path(__file__).parent / "run_project.py").read_text(encoding="utf-8")
        rows = request.rows
        window = {"start": rows.start, "end": rows.end, "row_start": rows.row_start, "row_end": rows.row_end}
        ours = {
            "window": window | {"last_rows": rows.last_rows},
            "strategy": request.strategy,
            "idempotency_key": request.idempotency_key,
        }
        handed = json.dumps(
            {"pipeline": training.pipeline, "runtime_params": {**training.params, "driftwarden": ours}}, default=str
        )
        code = self._run(request, [training.python or self._python, "-c", source], handed, project)
        if code != 0:
            raise self._failed(request, code)

    def _run(self, request: TrainingRequest, command: list[str], stdin: str, cwd: Path) -> int:
        """Run to the end in a process group of its own; returns the exit code, negative for a signal."""
        make_folder(self._work_dir)
        with self.log_file(request.idempotency_key).open("wb") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=self._child_environ(request),
                    start_new_session=True,
                )
            except OSError as error:
                raise GiveUp(f"cannot start the training: {type(error).__name__}: {command[0]}") from None
            try:
                process.communicate(stdin.encode("utf-8"), timeout=request.timeout_s)
            except subprocess.TimeoutExpired:
                raise GiveUp(f"training was killed after {request.timeout_s:g} s") from None
            finally:
                _kill_group(process)
        return process.returncode

    def _child_environ(self, request: TrainingRequest) -> dict[str, str]:
        kept = {name: value for name, value in self._environ.items() if not _OURS.fullmatch(name)}
        return {
            **kept,
            **TELEMETRY_OFF,
            HOOK_VARIABLE: "off",
            LOGGING_VARIABLE: PROJECT_LOGGING,
            "MLFLOW_TRACKING_URI": request.tracking_uri,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def _failed(self, request: TrainingRequest, code: int) -> GiveUp | Retry:
        tail = self._tail(self.log_file(request.idempotency_key))
        if code < 0:
            return Retry(f"the training process was killed by signal {-code}{tail}")
        return GiveUp(f"training failed with exit code {code}{tail}")

    def _tail(self, file: Path) -> str:
        with file.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return f"; its last output: {shorten(self._redacted(' | '.join(lines[-_TAIL_LINES:])), 600)}" if lines else ""

    def _redacted(self, text: str) -> str:
        return redact(text, secret_values(self._environ))


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_DYING_S)

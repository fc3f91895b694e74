"""The shipped training pipeline in a process of its own.

`python -m driftwarden.pipelines.run_training ANSWER` reads a training request (JSON) on standard input and writes
`{"result": {...}}` or `{"error": "BadInput" | "GiveUp" | "Retry", "message": "..."}` to the file ANSWER. Exit code 0 or 1.
"""

import json
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from driftwarden.errors import BadInput, Error, Retry, shorten
from driftwarden.pipelines.quiet import quiet

JsonObject = dict[str, Any]

log = logging.getLogger("driftwarden.training")


def run(request: str) -> JsonObject:
    """Run Kedro's pipeline `train` once with this request (JSON text); returns the training result as JSON."""
    quiet()
    from kedro.framework.project import configure_project
    from kedro.framework.session import KedroSession

    import driftwarden.conf

    conf = Path(next(iter(driftwarden.conf.__path__)))
    configure_project("driftwarden.pipelines", preserve_logging=True)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(request, encoding="utf-8")
        session = KedroSession.create(
            project_path=folder,
            conf_source=str(conf),
            env="base",
            save_on_close=False,
            runtime_params={"driftwarden": {"request": str(file)}},
        )
        with session:
            outputs = session.run(pipeline_name="train")
            result: JsonObject = outputs["training_result"].load()
    return result


def main(answer: str) -> int:
    """Answer standard input's request in the file `answer`; returns the exit code."""
    try:
        document: JsonObject = {"result": run(sys.stdin.read())}
    except Error as error:
        kind = "BadInput" if isinstance(error, BadInput) else "Retry" if isinstance(error, Retry) else "GiveUp"
        document = {"error": kind, "message": error.diagnostics()}
    except Exception as error:  # the answer carries what went wrong, the log its traceback
        log.exception("training failed")
        document = {"error": "GiveUp", "message": f"training failed: {type(error).__name__}: {shorten(error, 400)}"}
    Path(answer).write_text(json.dumps(document), encoding="utf-8")
    return 0 if "result" in document else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""A pipeline of a user's own Kedro project in that project's interpreter; needs nothing but Kedro there.

The runner hands this file's text to the interpreter (`-c`), with the project as working directory and
`{"pipeline", "runtime_params"}` as JSON on standard input.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Run the pipeline once."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    request = json.load(sys.stdin)
    project = Path.cwd()
    bootstrap_project(project)
    session = KedroSession.create(project_path=project, runtime_params=request["runtime_params"])
    with session:
        session.run(pipeline_name=request["pipeline"])


if __name__ == "__main__":
    main()

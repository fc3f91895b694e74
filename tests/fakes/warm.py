"""Commands in processes of their own that need not import for seconds: one process has imported, and forks for each of them.

What a command sees is what it would see in a fresh process, but for modules that are there already: arguments, environment,
folder, standard input and output, exit code, and that it ends.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SERVER = """
import gc, importlib, json, os, sys, traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what imports print is no answer
modules, _, name = sys.argv[1].rpartition(":")
modules, entry = modules.split(","), None
for module in modules:
    entry = importlib.import_module(module)
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            for number, place in enumerate((os.devnull, asked["out"], asked["err"])):
                os.dup2(os.open(place, os.O_RDWR | os.O_CREAT, 0o600), number)
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(asked["environ"])
            sys.argv = asked["argv"]
            try:
                getattr(entry, name)()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            code = 1
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


class Warm:
    """Runs one entry point again and again; what `subprocess.run` would have answered."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        """Use `warm`."""
        self._process, self._folder = process, folder

    def run(self, argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        """One process, from fork to exit."""
        out, err = self._folder / "out", self._folder / "err"
        for file in (out, err):
            file.unlink(missing_ok=True)
        asked = {"argv": list(argv), "cwd": str(cwd), "environ": dict(environ), "out": str(out), "err": str(err)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(list(argv), code, out.read_text("utf-8"), err.read_text("utf-8"))


@contextlib.contextmanager
def warm(folder: Path, entry: str, *, preload: Sequence[str] = (), **environ: str) -> Iterator[Warm]:
    """`entry`: `module:function`, called without arguments; `preload`: what it will import; `environ`: known to the imports."""
    modules = ",".join((*preload, entry))
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environ},
    )
    try:
        yield Warm(process, folder)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()

"""Calls tests by their names, outside pytest's run: with one server for all of them, so that hundreds of calls take seconds.

A test is a function of a module below `tests`; its fixtures are the module's own and those of the conftest beside it, but
for those that start a server.
"""

import importlib.util
import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from driftwarden.stream.client import connect

TESTS = Path(__file__).parents[1]
MODULES = {
    "store": "integration/workflow/test_store.py",
    "work": "integration/workflow/test_store_work.py",
    "groups": "integration/workflow/test_groups.py",
    "admitting": "integration/workflow/test_admitting.py",
    "intake": "integration/stream/test_intake.py",
    "closed": "integration/workflow/test_closed.py",
    "shards": "integration/workflow/test_shards.py",
    "two_steps": "integration/stream/test_two_steps.py",
    "ledger": "unit/workflow/test_ledger.py",
    "books": "unit/workflow/test_books.py",
    "agreement": "unit/workflow/test_policy_agreement.py",
    "guards": "simulation/test_guards.py",
    "guards_intake": "simulation/test_guards_intake.py",
    "guards_ledger": "simulation/test_guards_ledger.py",
}


@cache
def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"named_{path.stem}_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tests_of(name: str) -> list[str]:
    """Names of the tests of a module."""
    return [one for one in vars(_module(TESTS / MODULES[name])) if one.startswith("test_")]


def _fixture(name: str, module: ModuleType) -> Callable[..., Any]:
    beside = TESTS / Path(str(module.__file__)).parent.relative_to(TESTS) / "conftest.py"
    for place in (module, _module(beside) if beside.is_file() else module):
        found = getattr(place, name, None)
        if found is not None:
            unwrapped: Callable[..., Any] = found._get_wrapped_function()
            return unwrapped
    raise LookupError(f"{module.__file__} has no fixture `{name}`")


class Fixtures:
    """The fixtures of one call of one test."""

    def __init__(self, url: str, module: ModuleType, stack: ExitStack) -> None:
        """`url`: the one server, emptied before."""
        self._url, self._module, self._stack = url, module, stack
        self._made: dict[str, Any] = {}

    def of(self, function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
        """What a test or fixture asks for by its parameters."""
        return given | {name: self.get(name) for name in inspect.signature(function).parameters if name not in given}

    def get(self, name: str) -> Any:
        """One fixture, made once a call."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Any:
        if name in {"url", "redis_url", "embedded_redis"}:
            return self._url
        if name in {"client", "redis_server", "redis_client"}:
            client = connect(self._url)
            self._stack.callback(client.close)
            return client
        if name == "tmp_path":
            return Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        if name == "monkeypatch":
            return self._stack.enter_context(pytest.MonkeyPatch.context())
        if name == "capsys":
            raise LookupError("a test of what is printed cannot be called by name")
        function = _fixture(name, self._module)
        made = function(**self.of(function, {}))
        if inspect.isgeneratorfunction(function):
            return self._stack.enter_context(contextmanager(lambda: made)())
        return made


def _cases(function: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
    if not marks:
        yield {}
        return
    assert len(marks) == 1, "tests with one parametrize mark can be called by name"
    names, values = marks[0].args[:2]
    split = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for value in values:
        yield dict(zip(split, value if len(split) > 1 else (value,), strict=True))


def call(url: str, name: str) -> None:
    """Run `<module>::<test>` with each of its parameters; raises what it raises."""
    short, _, test = name.partition("::")
    module = _module(TESTS / MODULES[short])
    function = getattr(module, test)
    for given in _cases(function):
        with ExitStack() as stack:
            connect(url).flushall()
            fixtures = Fixtures(url, module, stack)
            function(**fixtures.of(function, given))

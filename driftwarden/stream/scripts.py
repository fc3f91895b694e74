"""Lua scripts of the package, each sent again as it is while the server is away: every one of them is idempotent."""

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from driftwarden.stream.client import RETRY_FOR_S, patiently

if TYPE_CHECKING:
    from redis import Redis

Arg = str | bytes | int | float


_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


@cache
def _source(package: str, name: str) -> str:
    """The text of a script; a line `-- include: <name>` stands for the functions of another file."""
    text = (files(package) / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: _source(package, found[1]), text)


class Scripts:
    """The scripts of one package on one client."""

    def __init__(
        self,
        client: "Redis",
        package: str,
        *,
        retry_for_s: float = RETRY_FOR_S,
        before: Callable[[str], None] | None = None,
        after: Callable[[str], None] | None = None,
    ) -> None:
        """`before` and `after` are called with a script's name around each attempt (fail points of tests)."""
        self._client, self._package, self._retry_for_s = client, package, retry_for_s
        self._before, self._after = before, after
        self._loaded: dict[str, Callable[..., Any]] = {}

    def run(self, name: str, keys: list[str], args: list[Arg]) -> Any:
        """Run a script by name; raises Retry where the server stays away, BadInput where it refuses."""
        script = self._loaded.get(name)
        if script is None:
            script = self._loaded[name] = self._client.register_script(_source(self._package, name))

        def attempt() -> Any:
            if self._before:
                self._before(name)
            reply = script(keys=keys, args=args)
            if self._after:
                self._after(name)
            return reply

        return patiently(attempt, for_s=self._retry_for_s)

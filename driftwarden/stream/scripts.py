"""Lua scripts of the package, each sent again as it is while the server is away: every one of them is idempotent."""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from driftwarden.stream.client import RETRY_FOR_S, patiently

if TYPE_CHECKING:
    from redis import Redis

Arg = str | bytes | int | float
Call = tuple[list[str], list[Arg]]  # keys and arguments of one run

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
        fail_point: Callable[[str], None] | None = None,
    ) -> None:
        """`fail_point` is told `before:<script>` and `after:<script>` around each attempt (crash tests)."""
        self._client, self._package, self._retry_for_s = client, package, retry_for_s
        self._fail_point = fail_point or (lambda where: None)
        self._loaded: dict[str, Callable[..., Any]] = {}

    def run(self, name: str, keys: list[str], args: list[Arg]) -> Any:
        """Run a script by name; raises Retry where the server stays away, BadInput where it refuses."""
        script = self._loaded.get(name)
        if script is None:
            script = self._loaded[name] = self._client.register_script(_source(self._package, name))

        def attempt() -> Any:
            self._fail_point(f"before:{name}")
            reply = script(keys=keys, args=args)
            self._fail_point(f"after:{name}")
            return reply

        return patiently(attempt, for_s=self._retry_for_s)

    def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run one script many times in one round trip (a node), in this order; all again where one failed. Raises as `run`."""
        if not calls:
            return []

        def attempt() -> Any:
            self._fail_point(f"before:{name}")
            replies = self._send(name, calls)
            self._fail_point(f"after:{name}")
            return replies

        found: list[Any] = patiently(attempt, for_s=self._retry_for_s)
        return found

    def _send(self, name: str, calls: Sequence[Call]) -> list[Any]:
        from redis.exceptions import NoScriptError

        source = _source(self._package, name)
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        client: Any = self._client
        for last in (False, True):
            with client.pipeline(transaction=False) as pipe:
                for keys, args in calls:
                    pipe.execute_command("EVALSHA", digest, len(keys), *keys, *args)
                replies: list[Any] = pipe.execute(raise_on_error=False)
            wrong = [reply for reply in replies if isinstance(reply, Exception)]
            if not wrong:
                break
            if last or not all(isinstance(one, NoScriptError) for one in wrong):
                raise next((one for one in wrong if not isinstance(one, NoScriptError)), wrong[0])
            client.script_load(source)
        return replies

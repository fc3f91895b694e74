"""The mutants of mutants.toml."""

import tomllib
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """One guard of one script, taken out: the text, what stands in its place, and the test that must fail."""

    script: str
    what: str
    old: str
    new: str
    by: str
    redis_before: str = ""  # from this version on the server itself does it, and nobody misses it

    @property
    def name(self) -> str:
        """For people and test ids."""
        return f"{self.script}: {self.what}"

    @property
    def change(self) -> dict[str, tuple[str, str]]:
        """As `virtual_scripts` takes it."""
        return {self.script: (self.old, self.new)}


_DOCUMENT = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))
# Script -> line that decides or writes and has no mutant -> why.
EXEMPT: dict[str, dict[str, str]] = _DOCUMENT.get("exempt", {})


def mutants() -> list[Mutant]:
    """All of them, in the order of the file."""
    return [Mutant(**one) for one in _DOCUMENT["mutant"]]

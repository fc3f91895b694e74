"""What the writer makes durable in one go: lines, a new file, a note beside the log."""

import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rotate:
    """The lines that follow stand in a new file."""

    path: Path


@dataclass(frozen=True)
class Note:
    """A signed note to be put beside the log."""

    name: str
    text: str


Op = bytes | Rotate | Note


class Batch:
    """What one sync makes durable, or, as `failure` says, did not. Its gate is shut until it is done; where it is open
    before, the first who comes through writes it."""

    def __init__(self) -> None:
        """Begin an empty batch, its gate shut."""
        self.ops: list[Op] = []
        self.done = False
        self.failure: str | None = None
        self.gate = threading.Lock()
        self.gate.acquire()

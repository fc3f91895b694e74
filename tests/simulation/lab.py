"""What all cases of one process share: a server under a virtual clock, one connection, the scripts that are loaded."""

import hashlib
from importlib.resources import files

from simulation.virtual import Hub, VirtualRedis, Wire
from simulation.watching import AUDIT, DIGEST

from driftwarden.stream import scripts

PACKAGES = ("driftwarden.service.workflow", "driftwarden.stream")


def scripts_of(package: str) -> list[str]:
    """Names of a package's scripts."""
    return sorted(one.name.removesuffix(".lua") for one in files(package).iterdir() if one.name.endswith(".lua"))


class Lab:
    """One server, one connection, the names of the scripts by their digests."""

    def __init__(self, url: str) -> None:
        """Make it within `virtual_scripts`: it learns the digests of the scripts as they are then."""
        self.wire = Wire(url)
        self.hub = Hub(self.wire)
        self.client = VirtualRedis.of(self.hub)
        self.names: dict[str, str] = {}
        for package in PACKAGES:
            for name in scripts_of(package):
                text = scripts._source(package, name)
                self.names[hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()] = name
                said = self.wire.call(("SCRIPT", "LOAD", text))[0]
                assert isinstance(said, bytes), f"{name}.lua: {said}"
        self.audit: bytes = self.wire.call(("SCRIPT", "LOAD", AUDIT))[0]
        self.digest: bytes = self.wire.call(("SCRIPT", "LOAD", DIGEST))[0]
        self._cases = 0

    def prefix(self) -> str:
        """Of a case of its own; now and then what earlier ones left is cleared away."""
        self._cases += 1
        if self._cases % 200 == 1:
            self.wire.call(("FLUSHALL",))
        return f"s{self._cases}:"

    def close(self) -> None:
        """Hang up."""
        self.wire.close()

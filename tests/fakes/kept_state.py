"""What a service leaves behind, kept as a file: incidents in every state, as one version of driftwarden stores them.

`python tests/fakes/kept_state.py FILE` writes it with the version that is checked out; the upgrade tests read the files of
earlier versions with the present one. Files are named by the version of the stored state, and never made again.
"""

import base64
import gzip
import json
import os
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

# One model for each place where its worker died, as the walk's fail points name them; or for what then came of it.
DIED_AT = (
    "committed:triaged", "committed:investigated", "committed:planned", "committed:rehearsed", "committed:decided",
    "committed:executing", "effect:trained", "effect:moved", "stepped:executing", "committed:verifying",
)  # fmt: skip
ENDS = ("received", "awaiting", "rejected", "resolved", "undone", "monitored")


def name_of(place: str) -> str:
    """The model whose incident stands at a place."""
    return "m-" + place.replace(":", "-")


MODELS = tuple(name_of(place) for place in (*DIED_AT, *ENDS))


def leave_behind(world: Any) -> None:
    """Walk one incident to every place; the world's working directory is its folder."""
    from fakes.workflow_world import Crash

    def send(place: str) -> None:
        event = world.event(name_of(place), id=place)
        event["data"]["window"]["uri"] = "data/w.csv"
        world.send(event)

    def run(place: str, *, die: bool = False) -> None:
        def fail(where: str) -> None:
            if die and where == place:
                raise Crash(where)

        world.plant.die_at = fail
        with suppress(Crash):
            world.run(world.worker(f"worker {place}", fail))  # of one name each: nobody takes up what another left
        world.plant.die_at = lambda where: None

    for place, loss, win, gain in (
        ("resolved", 0.2, 0.97, 0.1), ("undone", 0.2, 0.97, -0.2), ("monitored", 0.0, 0.97, None),
        ("awaiting", 0.2, 0.6, None), ("rejected", 0.2, 0.6, None),
    ):  # fmt: skip
        world.script.loss, world.script.win = loss, win
        world.script.gain, world.script.gain_win = gain, None if gain is None else (0.99 if gain > 0 else 0.01)
        send(place)
        run(place)
        if gain is not None:
            world.later(seconds=301)
        if place == "rejected":
            waiting = [one for one in world.parts.approvals.list() if one.model == name_of(place)]
            world.parts.approvals.refuse(waiting[0].id, world.people.say(waiting[0], "bob", verdict="reject"))
            world.store.wake(waiting[0].incident, "approval")
            run(place)
    world.script.loss, world.script.win, world.script.gain, world.script.gain_win = 0.2, 0.97, None, None
    for place in DIED_AT:
        send(place)
        run(place, die=True)
    world.free_leases()
    send("received")
    world.take_in()


def keep(world: Any) -> dict[str, Any]:
    """The whole of Redis, the audit log, and the scripted outside, JSON-able."""
    client, plant = world.client, world.plant
    return {
        "folder": str(world.folder),
        "redis": {
            key.decode(): base64.b64encode(client.dump(key)).decode()
            for key in sorted(client.scan_iter("driftwarden:*"))
        },
        "audit": {file.name: file.read_text() for file in sorted(world.settings.audit_dir.glob("*.jsonl"))},
        "keys": {
            str(file.relative_to(world.folder)): base64.b64encode(file.read_bytes()).decode()
            for file in sorted(world.settings.audit_dir.rglob("*"))
            if file.is_file() and file.suffix != ".jsonl"
        },
        "now": world.clock.now().isoformat(),
        "plant": {
            "champions": plant.champions,
            "versions": plant.versions,
            "moves": plant.moves,
            "done": {key: result.model_dump(mode="json") for key, result in plant.done.items()},
        },
    }


def read_kept(file: Path) -> dict[str, Any]:
    """A kept state."""
    found: dict[str, Any] = json.loads(gzip.decompress(bytes.fromhex(file.read_text())))
    return found


def main(file: Path, folder: Path) -> None:
    """Make one below `folder`, which must be empty."""
    from fakes.workflow_world import World

    from driftwarden.policies import load_policy
    from driftwarden.stream.client import connect
    from driftwarden.stream.embedded import EmbeddedRedis

    os.chdir(folder)
    with EmbeddedRedis.acquire(folder) as server:
        world = World(folder, connect(server.url), models=MODELS)
        text = world.policy_text().replace('perDay: "20.00", perModelPerDay: "20.00"', 'perDay: "2000.00"')
        world.policy.replace(load_policy(text.replace("global: 3", "global: 30"), "policy.yml"))
        leave_behind(world)
        document = keep(world)
        world.log.close()
    packed = gzip.compress(json.dumps(document, sort_keys=True).encode(), mtime=0).hex()
    file.write_text("\n".join(textwrap.wrap(packed, 120)) + "\n")


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1]).resolve(), Path(scratch).resolve())

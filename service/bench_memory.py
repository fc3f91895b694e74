"""`bench throughput`, memory: one process under a long run of repeats, joins and new events, sampled as it goes.

Flat is what does not grow with the number of events. Redis keeps what it must for as long as it must (an incident, the
identity of each event for `service.identity_ttl`): what that is for each event is said, and not called flat.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from driftwarden.errors import GiveUp

MODELS = 200
JOINS, REPEATS = 4, 5  # beside each event that opens an incident
SAMPLES = 20
FLAT_SHARE = 0.05
_STALLED_AFTER_S = 120.0
Say = Callable[[str], None]


def measure(client: Any, store: Any, build: Callable[[str, str], bytes], events: int, say: Say) -> dict[str, Any]:
    """Send `events` events through whatever serves `store`, a tenth of them new, and sample after each twentieth.

    `build` makes an event of an identity and a model's name.
    """
    kinds, sent, opened = 1 + JOINS + REPEATS, 0, 0
    samples: list[dict[str, int]] = []
    for number in range(SAMPLES + 1):
        while sent < events * number // SAMPLES:
            groups = min(MODELS, max(1, (events * number // SAMPLES - sent) // kinds))
            with client.pipeline(transaction=False) as pipe:
                for model in range(groups):
                    for document in _of_one_model(build, opened + model, f"model-{model}"):
                        pipe.xadd(store.keys.intake, {"event": document})
                pipe.execute()
            sent, opened = sent + groups * kinds, opened + groups
            _settle(store)
        redis = int(client.info("memory")["used_memory"])
        samples.append({"events": sent, "rss_bytes": rss_bytes() or 0, "redis_bytes": redis})
        rss = samples[-1]["rss_bytes"] / 2**20
        say(f"memory: {sent} of {events} events, {rss:.1f} MiB of this process, {redis / 2**20:.1f} MiB of Redis")
    return {"events": sent, "incidents": sum(store.counts().values()), "samples": samples} | growth(samples)


def _of_one_model(build: Callable[[str, str], bytes], number: int, model: str) -> list[bytes]:
    """One event that opens an incident, those that join it, and repeats of all of them."""
    fresh = [build(f"memory-{number}-{which}", model) for which in range(1 + JOINS)]
    return fresh + [fresh[which % len(fresh)] for which in range(REPEATS)]


def _settle(store: Any) -> None:
    """Wait until nothing is open: a model's next event then opens an incident."""
    deadline, last = time.monotonic() + _STALLED_AFTER_S, None
    while True:
        backlog = store.backlog()
        if backlog == (0, 0):
            return
        if backlog != last:
            deadline, last = time.monotonic() + _STALLED_AFTER_S, backlog
        if time.monotonic() > deadline:
            raise GiveUp(f"the service stands still: {backlog} entries wait")
        time.sleep(0.005)


def growth(samples: Sequence[dict[str, int]]) -> dict[str, Any]:
    """Slopes over the second half of the samples, in bytes an event (least squares), and whether the process is flat."""
    later = samples[len(samples) // 2 :]
    rss, redis = (_slope(later, name) for name in ("rss_bytes", "redis_bytes"))
    grown = later[-1]["rss_bytes"] - later[0]["rss_bytes"]
    return {
        "rss_bytes_per_event": round(rss, 1),
        "rss_grown_in_second_half": round(grown / max(1, later[0]["rss_bytes"]), 4),
        "redis_bytes_per_event": round(redis, 1),
        "flat": later[0]["rss_bytes"] > 0 and grown <= FLAT_SHARE * later[0]["rss_bytes"],
    }


def _slope(samples: Sequence[dict[str, int]], name: str) -> float:
    count = len(samples)
    x_mean = sum(one["events"] for one in samples) / count
    y_mean = sum(one[name] for one in samples) / count
    spread = sum((one["events"] - x_mean) ** 2 for one in samples)
    return sum((one["events"] - x_mean) * (one[name] - y_mean) for one in samples) / spread if spread else 0.0


def rss_bytes() -> int | None:
    """This process's memory that is in RAM; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""The rates of `bench throughput`: events a second, and the CPU that each of them cost this process and Redis."""

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from redis import Redis


class Rate(NamedTuple):
    """Events a second; CPU of our processes, producers and all, and of the Redis server for each of them, in microseconds."""

    per_second: float
    own_us: float
    redis_us: float


class Meter:
    """Measures from now on. CPU times are those of whole processes, all threads, user and system."""

    def __init__(self, client: "Redis") -> None:
        """`client` of the server whose CPU counts."""
        self._client: Any = client
        self._redis_s, self._own_s, self._begun = self._redis_cpu_s(), time.process_time(), time.perf_counter()

    def rate(self, events: int) -> Rate:
        """What these events took until now."""
        spent_s, own_s = time.perf_counter() - self._begun, time.process_time() - self._own_s
        redis_s = self._redis_cpu_s() - self._redis_s
        return Rate(events / spent_s, own_s * 1e6 / events, redis_s * 1e6 / events)

    def _redis_cpu_s(self) -> float:
        told = self._client.info("cpu")
        return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])


def rates_document(
    rates: dict[str, list[Rate]], triage: dict[str, int], workers: int, processes: int
) -> dict[str, Any]:
    """What `--json` holds of the rates: medians over the rounds, and medians of each round's ratio."""

    def middle(name: str) -> int:
        return round(statistics.median(one.per_second for one in rates[name]))

    def cpu(name: str) -> dict[str, float]:
        own, redis = ([getattr(one, which) for one in rates[name]] for which in ("own_us", "redis_us"))
        return {"own": round(statistics.median(own), 1), "redis": round(statistics.median(redis), 1)}

    def ratio(name: str, yardstick: str) -> float:
        pairs = zip(rates[name], rates[yardstick], strict=True)
        return round(statistics.median(a.per_second / b.per_second for a, b in pairs), 4)

    def beside(name: str, processes: int = 1) -> dict[str, Any]:
        return {
            "workers": workers,
            "processes": processes,
            "per_second": middle(name),
            "share_of_bare_one_at_a_time": ratio(name, "bare_one"),
            "share_of_bare_batches": ratio(name, "bare_batch"),
        }

    return {
        "bare": {
            "one_at_a_time_per_second": middle("bare_one"),
            "batches_per_second": middle("bare_batch"),
        },
        "triaged": {
            "one_at_a_time_per_second": middle("triaged_one"),
            "batches_per_second": middle("triaged_batch"),
            "share_of_bare_one_at_a_time": ratio("triaged_one", "bare_one"),
            "share_of_bare_batches": ratio("triaged_batch", "bare_batch"),
            "batches_share_of_bare_one_at_a_time": ratio("triaged_batch", "bare_one"),
            "became": triage,
        },
        "no_op_one_process": beside("no_op_one_process"),
        "no_op": beside("no_op", processes),
        "decided": beside("decided"),
        "cpu_us_per_event": {
            name: cpu(of)
            for name, of in (
                ("bare_batches", "bare_batch"),
                ("triaged_batches", "triaged_batch"),
                ("no_op_one_process", "no_op_one_process"),
                ("no_op", "no_op"),
                ("decided", "decided"),
            )
        },
    }

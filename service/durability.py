"""What a Redis promises of the writes that it answers, read from its own settings (docs/redis.md)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from redis import Redis

_ASKED = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "min-replicas-to-write")
_VERSION_MIN = (6, 2)


@dataclass(frozen=True)
class Promise:
    """One thing that this Redis does with acknowledged writes; `mend` says what to change where it is not ok."""

    state: Literal["ok", "warning", "fault"]
    detail: str
    mend: str = ""


def promises(client: "Redis") -> list[Promise]:
    """What may be lost with this server, the worst first; one `ok` where nothing that was answered is."""
    from redis.cluster import RedisCluster
    from redis.exceptions import ResponseError

    server: Any = client
    if isinstance(server, RedisCluster):  # one node answers for all: they are configured alike
        cluster: Any = server
        server = cluster.get_redis_connection(cluster.get_default_node())
    about: Any = server.info()
    try:
        config: dict[str, str] = {name: str(server.config_get(name).get(name, "")) for name in _ASKED}
    except ResponseError:  # services that are rented often refuse CONFIG
        config = {}
    found = [
        *_of_the_server(about),
        *_of_its_memory(config),
        *_of_its_disk(about, config),
        *_of_its_replicas(about, config),
    ]
    if not config:
        mend = "see to appendfsync, maxmemory-policy and min-replicas-to-write where this Redis is configured"
        found.append(Promise("warning", "does not tell how it keeps what it answers (CONFIG GET is refused)", mend))
    worst = {"fault": 0, "warning": 1, "ok": 2}
    told = sorted(found, key=lambda promise: worst[promise.state])
    return told or [Promise("ok", "what it answers is on disk (appendonly, appendfsync always, noeviction)")]


def _of_the_server(about: dict[str, Any]) -> list[Promise]:
    found = []
    version = tuple(int(part) for part in str(about.get("redis_version", "0")).split(".")[:2] if part.isdigit())
    if version < _VERSION_MIN:
        found.append(Promise("fault", f"version {about.get('redis_version')}", "Redis 6.2 or later"))
    if about.get("role") == "slave":
        found.append(Promise("fault", "a replica: it takes no write", "the master's address, or the sentinels'"))
    if str(about.get("aof_last_write_status", "ok")) != "ok":
        found.append(Promise("fault", "cannot write its file: its disk is full or fails", "make room on its disk"))
    return found


def _of_its_memory(config: dict[str, str]) -> list[Promise]:
    policy = config.get("maxmemory-policy", "noeviction")
    if policy == "noeviction":
        return []
    bounded = config.get("maxmemory", "0") != "0"
    what = "throws state away when its memory is full" if bounded else "would throw state away under a memory limit"
    return [
        Promise("fault" if bounded else "warning", f"{what} (maxmemory-policy {policy})", "maxmemory-policy noeviction")
    ]


def _of_its_disk(about: dict[str, Any], config: dict[str, str]) -> list[Promise]:
    if not config:
        return []
    if config["appendonly"] != "yes":
        return [Promise("warning", "keeps no file of its writes: a restart loses them", "appendonly yes")]
    if config["appendfsync"] == "always":
        return []
    lost = (
        "about a second of writes, more where its disk stalls"
        if config["appendfsync"] == "everysec"
        else "many seconds"
    )
    detail = f"appendfsync {config['appendfsync']}: a loss of power loses {lost}"
    return [Promise("warning", detail, "appendfsync always (docs/redis.md has what it costs)")]


def _of_its_replicas(about: dict[str, Any], config: dict[str, str]) -> list[Promise]:
    replicas = int(about.get("connected_slaves", 0))
    if not replicas or config.get("min-replicas-to-write", "1") != "0":
        return []
    detail = f"{replicas} replica{'s' if replicas > 1 else ''} and min-replicas-to-write 0: a failover may lose writes"
    return [Promise("warning", detail, "min-replicas-to-write 1 on every server (docs/redis.md)")]

"""Connections to Redis: one address, no silent repetition, bounded waits, errors in one line without secrets.

redis-py repeats a command by itself when its reply was lost, which executes it twice (50 lost replies made 50 duplicate
entries when measured); so its retries are off, and whoever needs a retry sends the same idempotent script again.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from driftwarden.errors import Away, BadInput, Error, NotInstalled, Retry

if TYPE_CHECKING:
    from redis import Redis

BLOCK_MS_MAX = 2000  # below the socket's time-out: a blocking read that outlives it would strand its entries
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 3.0
CONNECTIONS_MAX = 100
RETRY_FOR_S = 15.0

T = TypeVar("T")

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_OPTIONS = {"db", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
_TRANSIENT_REPLIES = (
    "NOGROUP",
    "MISCONF",
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "OOM",
    "BUSY ",
    "NOREPLICAS",
)


class RedisAway(Away):
    """Redis does not answer, or cannot now; the same call may succeed later."""

    def __init__(self, message: str) -> None:
        """`message` is the whole line."""
        super().__init__("redis", message)
        self.args = (message,)


def redact_url(url: str) -> str:
    """The address without its password, for messages and logs."""
    return re.sub(r"://([^/@:]*):[^@]*@", r"://\1:***@", url)


def connect(url: str, *, check: bool = True, timeout_s: float | None = None) -> "Redis":
    """A thread-safe client that answers bytes, for the five kinds of address of contract §1.

    `redis+sentinel://[user:password@]host:26379,host2/service[/db]`, `redis+cluster://[user:password@]host:port,...`.
    `timeout_s`: the most that a connection or an answer may take (default: 3 s and 5 s); shorter ones must not block.
    Raises BadInput (the address or the password is wrong), Retry (the server is away; `check` asks it at once).
    """
    parts = _split(url)
    with redis_errors(url):
        client = _build(url, parts, SOCKET_TIMEOUT_S if timeout_s is None else timeout_s)
        _leave_replicas(client)
        if check:
            client.ping()
    return client


def _leave_replicas(client: "Redis") -> None:
    """Close the connections to a server that was demoted (READONLY), or has lost its replicas (NOREPLICAS) and is about to be.

    The address, or the sentinel, leads to another one by now, for new connections only. Redis 6.2 wraps what a script was
    answered in another error, which redis-py's own handling (Sentinel's) misses.
    """
    from redis import exceptions

    pool: Any = getattr(client, "connection_pool", None)
    if pool is None:  # a cluster's client, which follows its nodes
        return
    given: Any = pool.connection_class

    class LeavingReplicas(given):  # type: ignore[misc]
        def read_response(self, *args: Any, **named: Any) -> Any:
            try:
                return super().read_response(*args, **named)
            except exceptions.ResponseError as error:
                demoted = isinstance(error, exceptions.ReadOnlyError) or "READONLY" in str(error)
                if not demoted and "NOREPLICAS" not in str(error):
                    raise
                self.disconnect()
                pool.disconnect(inuse_connections=False)
                word = "is a replica now" if demoted else "has too few replicas to take a write"
                raise exceptions.ConnectionError(f"the server {word}: {_line(error)}") from None

    pool.connection_class = LeavingReplicas


_HOSTS = re.compile(r"([a-z+]+://)([^/?#]*)(.*)", re.DOTALL)


def _split(url: str) -> SplitResult:
    shown, expected = redact_url(url), "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
    try:
        found = _HOSTS.fullmatch(url)
        scheme, hosts, rest = found.groups() if found else ("", "", "")
        if "," in hosts:
            # Several hosts are not a netloc that urlsplit knows; some releases refuse brackets anywhere but in the first.
            parts = urlsplit(f"{scheme}several{rest}")._replace(netloc=hosts)
        else:
            parts = urlsplit(url)
            _ = parts.port
    except ValueError:
        raise BadInput("redis address", got=shown, expected=f"{expected}host:port") from None
    if parts.scheme not in _SCHEMES:
        raise BadInput("redis address", got=shown, expected=expected)
    wrong = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if name not in _OPTIONS]
    if wrong:
        raise BadInput("redis address, option", got=wrong[0], expected="one of " + ", ".join(sorted(_OPTIONS)))
    if parts.scheme == "unix" and not parts.path:
        raise BadInput("redis address", got=shown, expected="unix:///path/of/the/socket")
    if parts.scheme in {"redis", "rediss"} and not re.fullmatch(r"(/[0-9]{0,5})?", parts.path):
        raise BadInput("redis address, database", got=parts.path, expected="a number, like redis://host:6379/0")
    return parts


def _build(url: str, parts: SplitResult, timeout_s: float) -> "Redis":
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry as RedisRetry
    except ModuleNotFoundError:
        raise NotInstalled("service", "redis") from None
    common: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "protocol": 2,  # protocol 3 changes the shape of stream replies
        "max_connections": CONNECTIONS_MAX,
    }
    no_retry: dict[str, Any] = {"retry": RedisRetry(NoBackoff(), 0)}
    if parts.scheme in {"redis", "rediss", "unix"}:
        try:
            return Redis.from_url(url, **common, **no_retry)
        except ValueError as error:
            raise BadInput("redis address", got=redact_url(url), expected=str(error)) from None
    credentials = {
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
    }
    hosts = _hosts(url, parts)
    if parts.scheme == "redis+sentinel":
        from redis.sentinel import Sentinel

        service, _, db = parts.path.strip("/").partition("/")
        if not service or (db and not db.isdigit()):
            raise BadInput("redis address", got=redact_url(url), expected="redis+sentinel://host:26379/service[/db]")
        make_sentinel: Any = Sentinel
        sentinel = make_sentinel(
            hosts, sentinel_kwargs={**common, **no_retry}, **common, **no_retry, **credentials, db=int(db or 0)
        )
        return cast("Redis", sentinel.master_for(service))
    from redis.cluster import ClusterNode, RedisCluster

    make_node: Any = ClusterNode
    make_cluster: Any = RedisCluster
    nodes = [make_node(host, port) for host, port in hosts]
    return cast("Redis", make_cluster(startup_nodes=nodes, **common, **no_retry, **credentials))


def _hosts(url: str, parts: SplitResult) -> list[tuple[str, int]]:
    default = 26379 if parts.scheme == "redis+sentinel" else 6379
    hosts = []
    for text in parts.netloc.rpartition("@")[2].split(","):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::([0-9]{1,5}))?", text)
        if not match:
            raise BadInput("redis address, host", got=redact_url(url), expected="host:port, separated by commas")
        hosts.append((match.group(1).strip("[]"), int(match.group(2) or default)))
    return hosts


@contextmanager
def redis_errors(where: str = "redis") -> Iterator[None]:
    """Turn redis-py's errors into ours: RedisAway (a Retry: it may pass), BadInput (address, password or request is wrong)."""
    from redis import exceptions

    shown = redact_url(where)
    try:
        yield
    except Error:
        raise
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError):
        raise BadInput("redis refuses the user or the password", expected="valid credentials", where=shown) from None
    except exceptions.ResponseError as error:
        if str(error).startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
            raise BadInput(
                "redis refuses the user or the password", expected="valid credentials", where=shown
            ) from None
        if str(error).startswith("CROSSSLOT"):
            raise _needs_hash_tag(shown) from None
        if _passes(error):
            raise RedisAway(f"redis cannot answer now: {_line(error)} ({shown})") from None
        raise BadInput(
            "redis refuses the request", got=_line(error), expected="Redis 6.2 or later", where=shown
        ) from None
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        if "same" in str(error) and "slot" in str(error):
            raise _needs_hash_tag(shown) from None
        raise RedisAway(f"redis is away: {_line(error) or type(error).__name__} ({shown})") from None


def redis_away(error: BaseException) -> RedisAway | None:
    """What an error of redis-py that nobody turned into ours says of the server; None where it is not that it is away."""
    from redis import exceptions

    if not isinstance(error, exceptions.RedisError | exceptions.RedisClusterException):
        return None
    try:
        with redis_errors():
            raise error
    except RedisAway as away:
        return away
    except Error:
        return None


def beside(client: Any, key: str, anchor: str) -> str:
    """`key`, or on a cluster, where one script may touch both only on one slot, a name for it on the slot of `anchor`."""
    from redis.cluster import RedisCluster
    from redis.crc import key_slot

    if not isinstance(client, RedisCluster) or key_slot(key.encode()) == key_slot(anchor.encode()):
        return key
    return f"{key}{{{anchor}}}"


def _needs_hash_tag(where: str) -> BadInput:
    return BadInput(
        "a redis cluster needs keys that go together on one slot",
        expected="`redis.shards` above 1, or a `redis.prefix` with a hash tag, like `{driftwarden}:`",
        where=where,
    )


def _passes(error: BaseException) -> bool:
    from redis import exceptions

    if isinstance(error, exceptions.BusyLoadingError | exceptions.ReadOnlyError | exceptions.ClusterDownError):
        return True
    return isinstance(error, exceptions.ResponseError) and any(word in str(error) for word in _TRANSIENT_REPLIES)


def _line(error: BaseException) -> str:
    return redact_url(" ".join(str(error).split(" : <")[0].split()))[:200]


def patiently(call: Callable[[], T], *, where: str = "redis", for_s: float = RETRY_FOR_S) -> T:
    """Make an idempotent call again while the server is away, for `for_s` seconds, with growing pauses; then raise Retry."""

    def once() -> T:
        with redis_errors(where):
            return call()

    try:
        return once()
    except Retry:
        if for_s <= 0:
            raise
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

    retrying = Retrying(
        retry=retry_if_exception_type(Retry),
        stop=stop_after_delay(for_s),
        wait=wait_exponential_jitter(initial=0.05, max=1.0, jitter=0.1),
        reraise=True,
    )
    return retrying(once)

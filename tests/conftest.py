"""What holds for every test: no network beyond this machine, no language model, no telemetry, no configuration of the user's.

Processes that a test starts inherit the environment made here; a proxy that refuses every connection stands between
them and the network.
"""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
TELEMETRY_OFF = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "true",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# The processes of a run share the cores: one thread each costs a fifth less processor time, or better, as seen.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
CONFIGURED = (
    "DRIFTWARDEN_", "LANGFUSE_", "MLFLOW_", "OTEL_", "OLLAMA_", "GOOGLE_", "GEMINI_", "OPENAI_", "ANTHROPIC_", "KEDRO_",
)  # fmt: skip
DEAD_PROXY = "http://127.0.0.1:9"
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
OLLAMA_PORT = 11434  # a model that happens to run on this machine is a real model too

# The files that take longest, longest first: started first, so that the processes which share the files end together.
LONGEST = (
    "integration/demo/test_demo.py",
    "integration/service/test_killed.py",
    "integration/bench/test_remediation.py",
    "integration/pipelines/test_training.py",
    "model/test_protocol.py",
    "unit/agents/test_diagnosis.py",
    "integration/agents/test_remote_models.py",
    "unit/policies/test_properties.py",
    "integration/service/test_serve.py",
    "integration/pipelines/test_hook.py",
    "chaos/test_chaos.py",
    "integration/bench/test_commands.py",
    "integration/actions/test_retrain.py",
    "integration/service/test_policy_in_force.py",
    "simulation/test_workflow.py",
    "integration/service/test_health.py",
    "integration/pipelines/test_rehearsal.py",
    "integration/stream/test_failover.py",
)

_refused: list[str] = []


class NetworkRefused(OSError):
    """A test tried to leave this machine."""


def _refuse(address: object) -> NetworkRefused:
    _refused.append(str(address))
    return NetworkRefused(f"tests may not reach `{address}`, expected a loopback address or a Unix socket")


def _is_local(host: object) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    return text.startswith(LOCAL) or text in {"", "None", socket.gethostname()}


def _block_network() -> None:
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def check(address: Any) -> None:
        if isinstance(address, tuple) and (not _is_local(address[0]) or address[1] == OLLAMA_PORT):
            raise _refuse(address)

    def checked_connect(self: socket.socket, address: Any) -> None:
        check(address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return connect_ex(self, address)

    def checked_sendto(self: socket.socket, *arguments: Any) -> int:
        check(arguments[-1])
        return sendto(self, *arguments)

    def checked_getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        if str(host).endswith(".invalid"):  # what a resolver says of this domain, without asking one
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not _is_local(host):
            raise _refuse(host)
        return getaddrinfo(host, *arguments, **named)

    patches = {"connect": checked_connect, "connect_ex": checked_connect_ex, "sendto": checked_sendto}
    for name, function in patches.items():
        setattr(socket.socket, name, function)
    socket.getaddrinfo = checked_getaddrinfo


def _require_redis() -> None:
    """One line in place of a thousand errors; never a skip, which would let a suite pass that has tested little."""
    from driftwarden.errors import BadInput
    from driftwarden.stream.embedded import server_binary

    try:
        server_binary()
    except BadInput as error:
        raise pytest.UsageError(f"the tests use a real Redis: {error.diagnostics()}") from None


def pytest_configure() -> None:
    """Before any test module is imported."""
    for name in list(os.environ):
        if name.startswith(CONFIGURED) and name != "DRIFTWARDEN_DATA":
            del os.environ[name]
    os.environ |= TELEMETRY_OFF | ONE_THREAD
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = DEAD_PROXY
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1,::1"
    _block_network()
    _require_redis()
    # The same examples in every run, on a slow machine too; `--hypothesis-profile search` looks at new ones.
    calm = hypothesis.settings(deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.register_profile("search", calm)
    hypothesis.settings.register_profile("driftwarden", calm, derandomize=True)
    hypothesis.settings.load_profile("driftwarden")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; else as they were."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    gone = [str(path) for path in ranks if not path.is_file()]
    if gone:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST names {', '.join(gone)}, expected files of tests")
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _stays_on_this_machine() -> Iterator[None]:
    """A refused attempt fails the test, even where a library swallowed the error."""
    _refused.clear()
    yield
    assert not _refused, f"the test tried to reach {', '.join(_refused)}"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real data sets: DRIFTWARDEN_DATA, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("DRIFTWARDEN_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}: set DRIFTWARDEN_DATA")
    return folder


@pytest.fixture(scope="session")
def embedded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Redis server that lives for the session."""
    from driftwarden.stream.embedded import EmbeddedRedis

    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("embedded-redis")) as server:
        yield server.url


@pytest.fixture
def redis_prefix() -> str:
    """A prefix of keys that no other test has."""
    return f"t-{uuid.uuid4().hex[:12]}:"


@pytest.fixture
def redis_client(embedded_redis: str, redis_prefix: str) -> Iterator[Any]:
    """A client of the session's server; what lies below the test's prefix is removed afterwards."""
    from driftwarden.stream.client import connect

    client = connect(embedded_redis)
    yield client
    for key in client.scan_iter(match=f"{redis_prefix}*"):
        client.delete(key)
    client.close()

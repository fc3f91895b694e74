"""Publishing drift events: one entry of the intake stream each, checked before it leaves."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from driftwarden.clock import rfc3339
from driftwarden.contracts.event import DRIFT_TYPE, parse_event
from driftwarden.errors import EventRejected

if TYPE_CHECKING:
    from redis import Redis

    from driftwarden.stream.embedded import EmbeddedRedis

PREFIX = "driftwarden:"


def build_event(
    data: Mapping[str, Any],
    *,
    source: str,
    type: str = DRIFT_TYPE,
    id: str | None = None,
    time: datetime | str | None = None,
    subject: str | None = None,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """A CloudEvents 1.0 event around `data` (contract §2); without `id` a fresh UUID, without `time` the present."""
    moment = rfc3339(time or datetime.now(UTC)) if not isinstance(time, str) else time
    event = {"specversion": "1.0", "id": id or str(uuid.uuid4()), "source": source, "type": type, "time": moment}
    optional = {"subject": subject, "traceparent": traceparent}
    return event | {name: text for name, text in optional.items() if text is not None} | {"data": dict(data)}


class Publisher:
    """Publishes events to one Redis; connects when it first publishes, and may be used as a context manager.

    `url` None: the embedded server of `state_folder`, or where that is None too, what the settings say.
    """

    def __init__(self, url: str | None = None, prefix: str | None = None, *, state_folder: Path | None = None) -> None:
        """Remember the address; nothing is opened yet."""
        self._url, self._prefix, self._state_folder = url, prefix, state_folder
        self._client: Redis | None = None
        self._embedded: EmbeddedRedis | None = None

    def publish(self, event: Mapping[str, Any] | str) -> str:
        """Publish one event and return the id of its entry.

        Raises EventRejected (it would not be read: nothing is published), Retry (the server is away), BadInput (wrong
        address). A repeat after a lost reply publishes it twice; the pair of source and id makes that harmless.
        """
        content = _encoded(event)
        parse_event(content)
        from driftwarden.stream.client import patiently

        client = self._connected()
        stream = f"{self._prefix or PREFIX}events"
        entry_id = patiently(lambda: client.xadd(stream, {"event": content}), where=self._url or stream)
        assert isinstance(entry_id, bytes)
        return entry_id.decode()

    def close(self) -> None:
        """Disconnect, and leave the embedded server where it was joined."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._embedded is not None:
            self._embedded.release()
            self._embedded = None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _connected(self) -> "Redis":
        if self._client is None:
            from driftwarden.stream.client import connect

            self._client = connect(self._url or self._configured())
        return self._client

    def _configured(self) -> str:
        from driftwarden.stream.embedded import EmbeddedRedis

        folder = self._state_folder
        if folder is None:
            from driftwarden.settings import load_settings

            settings = load_settings()
            self._prefix = self._prefix or settings.redis.prefix
            if settings.redis.url is not None:
                return settings.redis.url.get_secret_value()
            folder = settings.home
        self._embedded = EmbeddedRedis.acquire(folder)
        return self._embedded.url


def _encoded(event: Mapping[str, Any] | str) -> bytes:
    try:
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError as error:
        raise EventRejected("event", got=f"character {error.start}, a lone surrogate", expected="text") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise EventRejected("event", got=error, expected="values that JSON knows") from None

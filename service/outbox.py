"""The producers' side of the commands: where they publish to."""

from driftwarden.settings import Settings
from driftwarden.stream.publisher import Publisher


def open_publisher(
    settings: Settings, *, timeout_s: float | None = None, retry_for_s: float | None = None
) -> Publisher:
    """A publisher to the configured Redis, else to the embedded one, which it joins or starts when it first publishes."""
    url = settings.redis.url.get_secret_value() if settings.redis.url else None
    return Publisher(
        url, settings.redis.prefix, state_folder=settings.home, timeout_s=timeout_s, retry_for_s=retry_for_s
    )

"""The agents' model by its configured name: the offline reasoner, Gemini, or a model of an Ollama server."""

from dataclasses import dataclass, field
from typing import Any

from driftwarden import telemetry
from driftwarden.errors import BadInput, GiveUp, Retry, shorten

OFFLINE = "offline"
OLLAMA_URL = "http://localhost:11434"


class ModelAway(Retry):
    """The model did not answer, or not in time; it may later."""


class ModelUseless(GiveUp):
    """The model refuses, or gives no answer that can be used."""


@dataclass(frozen=True)
class ModelSettings:
    """Which model, where, and how long one request may take; raises BadInput where the name or the key is wrong.

    `gemini_url` None: Google's own address.
    """

    name: str = OFFLINE
    google_api_key: str | None = field(default=None, repr=False)
    ollama_url: str = OLLAMA_URL
    gemini_url: str | None = None
    request_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Check the name, so that a wrong one is told at start-up and not at the first incident."""
        if self.name in {"gemini-", "ollama/"} or not (
            self.name == OFFLINE or self.name.startswith(("gemini-", "ollama/"))
        ):
            raise BadInput(
                "agents' model", got=shorten(self.name), expected="`offline`, `gemini-<name>` or `ollama/<name>`"
            )
        if self.name.startswith("gemini-") and not self.google_api_key:
            raise BadInput(f"agents' model `{self.name}` needs a key", expected="GOOGLE_API_KEY to be set")
        telemetry.register_secret(self.google_api_key)

    @property
    def remote(self) -> bool:
        """Whether a server is asked."""
        return self.name != OFFLINE


def build_models(settings: ModelSettings, *, capture_content: bool = True) -> tuple[Any, Any]:
    """Model objects of investigator and strategist, fresh for each run where they are remote (a client belongs to an event
    loop). `capture_content`: whether the offline reasoner's spans hold what it said; others' are the framework's."""
    if settings.name == OFFLINE:
        from driftwarden.agents.offline import OfflineLlm

        return (
            OfflineLlm(role="investigator", capture_content=capture_content),
            OfflineLlm(role="strategist", capture_content=capture_content),
        )
    model = _remote_model(settings)
    return model, model


async def close_models(models: tuple[Any, ...]) -> None:
    """Close the connections that a run opened; to be called in the loop that they belong to.

    A model of Google's has a client for each loop, and makes one where it has none yet.
    """
    client = getattr(models[0], "api_client", None) if models else None
    if client is not None:
        await client.aio.aclose()
        client.close()


def _remote_model(settings: ModelSettings) -> Any:
    if settings.name.startswith("ollama/"):
        from driftwarden.agents.ollama import OllamaLlm

        name = settings.name.removeprefix("ollama/")
        return OllamaLlm(model=name, url=settings.ollama_url, timeout_s=settings.request_timeout_s)
    from google.adk.models import Gemini
    from google.genai import types

    return Gemini(
        model=settings.name,
        base_url=settings.gemini_url,
        client_kwargs={"api_key": settings.google_api_key, "vertexai": False},
        # Without retry options a failed connection hides a random sleep of up to ten seconds.
        retry_options=types.HttpRetryOptions(attempts=2, initial_delay=0.2, max_delay=2.0),
    )

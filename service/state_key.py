"""The key that seals what is kept in Redis: where it is, and whether a Redis was sealed with it."""

from typing import TYPE_CHECKING, Any

from driftwarden.errors import BadInput
from driftwarden.sealing import Seal, load_or_create_key
from driftwarden.settings import Settings

if TYPE_CHECKING:
    from redis import Redis


def open_seal(settings: Settings) -> Seal:
    """The seal of the state in Redis; its key is made on first use, and never leaves its file."""
    return Seal(load_or_create_key(settings.service.state_key_file or settings.home / "keys" / "state.key"))


def seal_opens(client: "Redis", prefix: str, seal: Seal) -> bool | None:
    """Whether this Redis was sealed with this key; None where nobody has sealed it yet."""
    there: Any = client.get(f"{prefix}seal")
    return None if there is None else seal.open("seal", prefix, there) is not None


def check_seal(client: "Redis", prefix: str, seal: Seal) -> None:
    """Raise BadInput where this Redis was sealed with another key: every incident that is taken up would end for it."""
    client.set(f"{prefix}seal", seal.close("seal", prefix, "driftwarden"), nx=True)
    if not seal_opens(client, prefix, seal):
        raise BadInput(
            "key of the state",
            got="another one than this Redis was sealed with",
            expected="the same `service.state_key_file` on every host that shares it (docs/security.md)",
        )

"""Errors, named by what the caller does next: correct the request, try again, give up, ask a person, stop acting.

Every rejection says what was got, what was expected, and where. `diagnostics()` is the one line a person reads.
"""


class Error(Exception):
    """Base of every error that driftwarden raises on purpose."""

    def diagnostics(self) -> str:
        """One line for a person: lowercase, no final period, no traceback."""
        return " ".join(str(self).split())


class BadInput(Error):
    """The request is wrong (option, file, value): correct it and call again. Exit code 2."""

    def __init__(self, what: str, *, got: object = None, expected: str | None = None, where: str | None = None) -> None:
        """Keep the parts: `what` is wrong, `got`, `expected`, `where` (file, line, field)."""
        self.what, self.got, self.expected, self.where = what, got, expected, where
        parts = [f"{where}: {what}" if where else what]
        if got is not None:
            parts.append(f"got `{shorten(got)}`")
        if expected is not None:
            parts.append(f"expected {expected}")
        super().__init__(", ".join(parts))


class NotInstalled(BadInput):
    """A part of driftwarden that the command needs is not installed."""

    def __init__(self, part: str, missing: str) -> None:
        """Name the extra (`part`) and the module that is missing."""
        super().__init__(f"this needs `driftwarden[{part}]`: module `{missing}` is not installed")
        self.part = part


class NotFound(BadInput):
    """The thing that was asked for does not exist."""


class EventRejected(BadInput):
    """An event cannot be read; it belongs in the dead letters."""

    def __init__(self, field: str, *, got: object, expected: str) -> None:
        """Name the `field` of the event, what it held and what the contract expects."""
        super().__init__(f"event field `{field}`", got=got, expected=expected)
        self.field = field


class Retry(Error):
    """A passing fault (a server away, a lock held): the same call may succeed later."""


class NotYet(Retry):
    """It waits for people, settings or its turn, however long that takes: no failed try."""

    def __init__(self, reason: str = "", *, held: tuple[str, ...] = (), again_s: float = 0.0) -> None:
        """`held`: ids of the rules that hold it back; `again_s`: before that it need not be looked at again (0: soon)."""
        super().__init__(reason)
        self.held, self.again_s = held, again_s


class Away(Retry):
    """Something that the service leans on does not answer: it is waited for, and nothing is guessed in its place."""

    def __init__(self, dependency: str, reason: str, *, again_s: float = 0.0) -> None:
        """Name the `dependency`; `again_s`: before that nobody asks it (0: it may be asked at once)."""
        super().__init__(f"{dependency}: {reason}")
        self.dependency, self.reason, self.again_s = dependency, reason, again_s


class GiveUp(Error):
    """It cannot be done, and trying again will not change that; the incident fails with this reason."""


class AskHuman(Error):
    """What happened cannot be told apart from what did not (an ambiguous effect): a person must look."""


class Refused(Error):
    """An action is not permitted or not available; nothing was done."""


class LogUnwritable(Error):
    """The audit log cannot be made durable: nothing may execute until an operator acts."""

    what = "the audit log cannot be written"


class LogUnreadable(LogUnwritable):
    """The audit log cannot be read: what it accounts for is unknown, and nothing may execute either."""

    what = "the audit log cannot be read"


class Fenced(Error):
    """Another worker has taken over this incident; drop the work, change nothing."""


def shorten(value: object, limit: int = 80) -> str:
    """Render a value for a message: one line, at most `limit` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def kind_of(value: object) -> str:
    """What a JSON or YAML value is, in words for a message: `a list`, not the name of a class."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else "another thing"


def unreadable(error: Exception) -> str:
    """Why a file could not be read as text, in words for a message."""
    if isinstance(error, UnicodeDecodeError):
        return f"bytes that are not UTF-8, at byte {error.start}"
    if isinstance(error, RecursionError):
        return "too many levels"
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or shorten(error)).lower()

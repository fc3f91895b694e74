"""Incidents as they are stored, across versions of driftwarden: what an earlier one left is taken over.

A document says in which form it is (`stored_version`; the first form did not). A form is changed by adding a function to
`UPGRADES`; a kept state of the form before stays in the tests, which walk it to its end. A document of a later form is
left to the workers that know it: while versions run side by side, nobody guesses.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from driftwarden.errors import NotYet
from driftwarden.service.workflow.incident import STORED_VERSION, Incident

Document = dict[str, Any]


class LaterVersion(NotYet):
    """The document is of a form that this version does not know."""


def _first_to_second(doc: Document) -> Document:
    """The second form says which it is, and knows incidents of several models: the fields it added have defaults."""
    return doc


# From which form to the next.
UPGRADES: Final[Mapping[int, Callable[[Document], Document]]] = {1: _first_to_second}


def load_incident(doc: Mapping[str, Any]) -> Incident:
    """The incident of a stored document of this or an earlier form.

    Raises LaterVersion (written by a later driftwarden), ValueError (no document of an incident at all).
    """
    found = dict(doc)
    version = found.pop("stored_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("the form of a stored incident is not a number")
    if version > STORED_VERSION:
        raise LaterVersion(
            f"incident {str(found.get('id'))[:40]} is stored in form {version}; this process knows forms up to {STORED_VERSION}"
        )
    for form in range(version, STORED_VERSION):
        found = UPGRADES[form](found)
    # Told of the second form's members before they kept their windows; it can be told from their events again.
    members = [{name: member[name] for name in member if name != "rows_until"} for member in found.get("members", ())]
    found |= {"members": members} if members else {}
    return Incident.model_validate(found)

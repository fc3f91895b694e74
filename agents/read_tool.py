"""A tool of the agents' framework whose declaration is made once in a process.

The framework makes it of the function's signature and docstring, and keeps it by function; ours are made anew for each
case, so that it would make all of them again for every incident.
"""

from typing import Any

from google.adk.tools.function_tool import FunctionTool
from google.genai import types

from driftwarden.agents.tools import Tool

_declarations: dict[tuple[str, Any], types.FunctionDeclaration | None] = {}


class ReadTool(FunctionTool):
    """One of the toolbox's functions; a name always stands for the same signature and the same docstring."""

    def __init__(self, function: Tool) -> None:
        """Wrap `function`."""
        super().__init__(function)

    def _get_declaration(self) -> types.FunctionDeclaration | None:
        key = self.name, self._api_variant
        if key not in _declarations:
            _declarations[key] = super()._get_declaration()
        made = _declarations[key]
        return made.model_copy() if made is not None else None

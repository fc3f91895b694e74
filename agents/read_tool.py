"""The tools of an agent as the framework takes them: made once in a process, whichever case they read later.

A set of tools is resolved in one step for each turn; tools that are listed one by one cost a task and a context each.
"""

from collections.abc import Iterable
from typing import Any

from google.adk.agents.readonly_context import ReadonlyContext
from google.adk.models.llm_request import LlmRequest
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.base_toolset import BaseToolset
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from driftwarden.agents.tools import Tool

_declarations: dict[tuple[str, Any], types.FunctionDeclaration | None] = {}


class ReadTool(FunctionTool):
    """One of the reading functions; a name always stands for the same signature and the same docstring."""

    def __init__(self, function: Tool) -> None:
        """Wrap `function`."""
        super().__init__(function)
        self._needs = self._get_mandatory_args()

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """Call the function; wrong arguments are an answer to the model."""
        if not args and not self._needs:
            return await self.func()
        return await super().run_async(args=args, tool_context=tool_context)

    async def process_llm_request(self, *, tool_context: ToolContext, llm_request: LlmRequest) -> None:
        """Nothing: its set has told the request of all of them."""

    def _get_declaration(self) -> types.FunctionDeclaration | None:
        key = self.name, self._api_variant
        if key not in _declarations:
            _declarations[key] = super()._get_declaration()
        made = _declarations[key]
        return made.model_copy() if made is not None else None


class ReadTools(BaseToolset):
    """All tools of an agent. `declared`: the model is told of them; the offline reasoner knows them without."""

    def __init__(self, functions: Iterable[Tool], *, declared: bool) -> None:
        """Wrap the functions."""
        super().__init__()
        self._use_invocation_cache = False  # it is kept in the object, which several threads share
        self._tools: list[BaseTool] = [ReadTool(function) for function in functions]
        self._declared = declared

    async def get_tools(self, readonly_context: ReadonlyContext | None = None) -> list[BaseTool]:
        """Always the same."""
        return self._tools

    async def process_llm_request(self, *, tool_context: ToolContext, llm_request: LlmRequest) -> None:
        """Tell the request which tools may be called."""
        if self._declared:
            llm_request.append_tools(self._tools)
        else:
            llm_request.tools_dict.update({tool.name: tool for tool in self._tools})

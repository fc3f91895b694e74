"""The offline reasoner: a model behind the framework's own interface that calls the tools and thinks about what they
return, without a network or a key."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Literal

from google.adk.models import BaseLlm, LlmCapabilities
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types

from driftwarden.agents.reasoning import Done, Thought, investigate, strategise
from driftwarden.contracts.ports import JsonObject

_CHARS_PER_TOKEN = 4


class OfflineLlm(BaseLlm):
    """Decides turn by turn from the conversation alone, like any model: which tools to call next, or the answer."""

    model: str = "offline"
    role: Literal["investigator", "strategist"] = "investigator"

    @property
    def capabilities(self) -> LlmCapabilities:
        """Tools and a schema at once; the answer is the schema's JSON as text."""
        return LlmCapabilities(output_schema_and_tools=True)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield one turn."""
        done = conversation(llm_request.contents)
        if self.role == "investigator":
            thought: Thought = investigate(done)
        else:
            thought = strategise(finding_of(llm_request.contents), done)
        if isinstance(thought, list):
            parts = [
                types.Part(function_call=types.FunctionCall(name=call.name, args=dict(call.arguments)))
                for call in thought
            ]
        else:
            parts = [types.Part(text=json.dumps(thought))]
        read = sum(len(str(part)) for content in llm_request.contents for part in content.parts or ())
        written = len(str(thought))
        yield LlmResponse(
            content=types.Content(role="model", parts=parts),
            finish_reason=types.FinishReason.STOP,
            usage_metadata=types.GenerateContentResponseUsageMetadata(
                prompt_token_count=read // _CHARS_PER_TOKEN,
                candidates_token_count=written // _CHARS_PER_TOKEN,
                total_token_count=(read + written) // _CHARS_PER_TOKEN,
            ),
            model_version=self.model,
        )


def conversation(contents: list[types.Content]) -> list[Done]:
    """The answered tool calls of a conversation, in order, calls paired with answers by id, else by name."""
    calls: dict[Any, JsonObject] = {}
    done = []
    for content in contents:
        for part in content.parts or ():
            if part.function_call is not None:
                calls[part.function_call.id or part.function_call.name] = dict(part.function_call.args or {})
            elif part.function_response is not None and part.function_response.name:
                response = part.function_response
                arguments = calls.get(response.id or response.name, {})
                done.append(Done(str(response.name), arguments, dict(response.response or {})))
    return done


def finding_of(contents: list[types.Content]) -> JsonObject:
    """The grounded finding that the coordinator handed to the strategist."""
    for content in contents:
        for part in content.parts or ():
            if part.text and '"root_cause"' in part.text:
                document = json.loads(part.text[part.text.index("{") :])
                if isinstance(document, dict):
                    return document
    return {"root_cause": "unknown"}

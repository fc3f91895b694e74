"""The offline reasoner: a model behind the framework's own interface that calls the tools and thinks about what they
return, without a network or a key."""

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Literal

from google.adk.models import BaseLlm, LlmCapabilities
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from opentelemetry import trace

from driftwarden.agents.reasoning import Done, Thought, investigate, strategise
from driftwarden.contracts.ports import JsonObject

_CHARS_PER_TOKEN = 4


class OfflineLlm(BaseLlm):
    """Decides turn by turn from the conversation alone, like any model: which tools to call next, or the answer."""

    model: str = "offline"
    role: Literal["investigator", "strategist"] = "investigator"
    capture_content: bool = True

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
        said = json.dumps(thought)
        if isinstance(thought, list):
            parts = [
                types.Part(function_call=types.FunctionCall(name=call.name, args=dict(call.arguments)))
                for call in thought
            ]
        else:
            parts = [types.Part(text=said)]
        if self.capture_content:
            _on_span(llm_request.contents, parts)
        read, written = sum(map(_length, _parts(llm_request.contents))), len(said)
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


def _parts(contents: list[types.Content]) -> Iterator[types.Part]:
    for content in contents:
        yield from content.parts or ()


def _length(part: types.Part) -> int:
    """Characters of what a part says: its text, or a call's or an answer's JSON."""
    spoken = part.function_call.args if part.function_call else None
    spoken = part.function_response.response if part.function_response else spoken
    return len(part.text or "") + (len(json.dumps(spoken, default=str)) if spoken else 0)


def _on_span(contents: list[types.Content], parts: list[types.Part]) -> None:
    """Leave on the running span what was asked and what is said, in the form of OpenTelemetry's conventions for models.

    What the tools answered stands at their own spans.
    """
    span = trace.get_current_span()
    if not span.is_recording():
        return
    asked = [{"type": "text", "content": part.text} for part in _parts(contents) if part.text]
    said = [
        {"type": "tool_call", "name": part.function_call.name, "arguments": part.function_call.args}
        if part.function_call
        else {"type": "text", "content": part.text}
        for part in parts
    ]
    span.set_attribute("gen_ai.input.messages", json.dumps([{"role": "user", "parts": asked}]))
    span.set_attribute("gen_ai.output.messages", json.dumps([{"role": "assistant", "parts": said}]))

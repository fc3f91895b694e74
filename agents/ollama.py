"""Ollama's own chat interface as a model of the agents' framework: one request a turn, tools, bounded in time."""

import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx
from google.adk.models import BaseLlm, LlmCapabilities
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import TypeAdapter

from driftwarden.contracts.ports import JsonObject
from driftwarden.errors import Error, shorten

ANSWER_BYTES_MAX = 4 * 1024 * 1024


class ModelAnswerInvalid(Error):
    """The model answered in a form that cannot be read."""


class ModelServerError(Exception):
    """The model's server answered with another status than 200; `code` is that status."""

    def __init__(self, code: int, body: bytes) -> None:
        """Keep the status and the beginning of the body."""
        self.code = code
        super().__init__(f"{code} {shorten(body[:400].decode('utf-8', 'replace'))}")


class OllamaLlm(BaseLlm):
    """A model of an Ollama server (`POST /api/chat`, not streamed). Proxies of the environment are not used."""

    model: str
    url: str = "http://localhost:11434"
    timeout_s: float = 60.0

    @property
    def capabilities(self) -> LlmCapabilities:
        """Tools and schema together go through the framework's answer tool."""
        return LlmCapabilities(output_schema_and_tools=False)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield one turn; raises httpx.HTTPError (away, late), ModelServerError or ModelAnswerInvalid."""
        body = _request_body(self.model, llm_request)
        async with (
            httpx.AsyncClient(timeout=self.timeout_s, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", f"{self.url.rstrip('/')}/api/chat", json=body) as response,
        ):
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > ANSWER_BYTES_MAX:
                    raise ModelAnswerInvalid(f"the model's answer is over {ANSWER_BYTES_MAX} bytes")
        if response.status_code != 200:
            raise ModelServerError(response.status_code, content)
        yield _response(self.model, content)


def _request_body(model: str, request: LlmRequest) -> JsonObject:
    config = request.config
    messages: list[JsonObject] = []
    if config.system_instruction:
        messages.append({"role": "system", "content": _text_of(config.system_instruction)})
    for content in request.contents:
        messages += _messages(content)
    body: JsonObject = {"model": model, "messages": messages, "stream": False, "options": {"temperature": 0}}
    tools = [
        _tool(declaration)
        for tool in config.tools or ()
        if isinstance(tool, types.Tool)
        for declaration in tool.function_declarations or ()
    ]
    if tools:
        body["tools"] = tools
    if config.response_schema is not None and not tools:
        body["format"] = TypeAdapter[Any](cast("Any", config.response_schema)).json_schema()
    return body


def _messages(content: types.Content) -> list[JsonObject]:
    """One content as Ollama's messages: tool results each stand alone, calls go with the text beside them."""
    messages: list[JsonObject] = []
    text, calls = "", []
    for part in content.parts or ():
        if part.function_response is not None:
            messages.append(
                {
                    "role": "tool",
                    "tool_name": part.function_response.name,
                    "content": json.dumps(part.function_response.response, default=str),
                }
            )
        elif part.function_call is not None:
            calls.append({"function": {"name": part.function_call.name, "arguments": part.function_call.args or {}}})
        elif part.text and not part.thought:
            text += part.text
    if text or calls:
        message: JsonObject = {"role": "assistant" if content.role == "model" else "user", "content": text}
        if calls:
            message["tool_calls"] = calls
        messages.append(message)
    return messages


def _tool(declaration: types.FunctionDeclaration) -> JsonObject:
    if declaration.parameters_json_schema is not None:
        parameters = declaration.parameters_json_schema
    elif declaration.parameters is not None:
        parameters = declaration.parameters.json_schema.model_dump(mode="json", exclude_none=True)
    else:
        parameters = {"type": "object", "properties": {}}
    function = {"name": declaration.name, "description": declaration.description or "", "parameters": parameters}
    return {"type": "function", "function": function}


def _text_of(instruction: Any) -> str:
    if isinstance(instruction, str):
        return instruction
    parts = getattr(instruction, "parts", None) or ()
    return "\n".join(part.text for part in parts if getattr(part, "text", None))


def _response(model: str, content: bytes) -> LlmResponse:
    try:
        document = json.loads(content)
        message = document["message"]
        parts = [_call_part(call) for call in message.get("tool_calls") or ()]
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise ModelAnswerInvalid(f"the model's text, got `{shorten(text)}`, expected a string")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelAnswerInvalid(f"the model's answer cannot be read: {type(error).__name__}") from None
    if text:
        parts.insert(0, types.Part(text=text))
    if not parts:
        raise ModelAnswerInvalid("the model's answer is empty")
    read, written = _count(document.get("prompt_eval_count")), _count(document.get("eval_count"))
    return LlmResponse(
        content=types.Content(role="model", parts=parts),
        finish_reason=types.FinishReason.MAX_TOKENS
        if document.get("done_reason") == "length"
        else types.FinishReason.STOP,
        usage_metadata=types.GenerateContentResponseUsageMetadata(
            prompt_token_count=read, candidates_token_count=written, total_token_count=read + written
        ),
        model_version=model,
    )


def _call_part(call: Any) -> types.Part:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):  # some servers that speak this protocol send JSON text
        arguments = json.loads(arguments)
    if not isinstance(function["name"], str) or not isinstance(arguments, dict):
        raise TypeError("a tool call")
    return types.Part(function_call=types.FunctionCall(name=function["name"], args=arguments))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0

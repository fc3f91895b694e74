"""A loopback Gemini API: `generateContent` with function calling, the key in its header, Google's error bodies."""

import json
import re
from typing import Any

from fakes.brains import Brain, Turn, diligent
from fakes.loopback import LoopbackServer, Reply, Request, json_reply

_PATH = re.compile(r"/v1(?:beta|alpha)?/models/([A-Za-z0-9.-]+):generateContent")


class FakeGemini(LoopbackServer):
    """Serves one model to one key, thinking with `brain`; `fault` (a Reply) is given instead of an answer."""

    def __init__(
        self, brain: Brain = diligent, *, key: str = "AIzaFakeKeyFakeKeyFakeKey", fault: Reply | None = None
    ) -> None:
        """Bind a port."""
        super().__init__()
        self.brain, self.key, self.fault = brain, key, fault

    def reply(self, request: Request) -> Reply:
        """Answer one request."""
        if self.fault is not None:
            return self.fault
        match = _PATH.fullmatch(request.path.partition("?")[0])
        if match is None or request.method != "POST":
            return _error(404, "NOT_FOUND", "Requested entity was not found.")
        if request.headers.get("x-goog-api-key") != self.key:
            return _error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
        try:
            body = json.loads(request.body)
        except ValueError:
            return _error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.")
        if body["contents"][-1].get("role") == "model":
            return _error(400, "INVALID_ARGUMENT", "Please ensure that function call turn comes after a user turn.")
        said = self.brain(_turn(body))
        parts: list[dict[str, Any]] = (
            [{"text": said}]
            if isinstance(said, str)
            else [{"functionCall": {"name": call.name, "args": call.arguments}} for call in said]
        )
        return json_reply(
            {
                "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
                "usageMetadata": {"promptTokenCount": 200, "candidatesTokenCount": 20, "totalTokenCount": 220},
                "modelVersion": match.group(1),
                "responseId": "r-1",
            }
        )


def gemini_error(status: int, name: str) -> Reply:
    """An error as Google's APIs write it."""
    return _error(status, name, "The service is currently unavailable.")


def _error(status: int, name: str, message: str) -> Reply:
    return json_reply({"error": {"code": status, "message": message, "status": name}}, status)


def _turn(body: dict[str, Any]) -> Turn:
    parts = [(content.get("role"), part) for content in body["contents"] for part in content["parts"]]
    return Turn(
        system="\n".join(part.get("text", "") for part in body.get("systemInstruction", {}).get("parts", ())),
        tools=tuple(
            declaration["name"] for tool in body.get("tools", ()) for declaration in tool["functionDeclarations"]
        ),
        results=tuple(
            (part["functionResponse"]["name"], part["functionResponse"]["response"])
            for _, part in parts
            if "functionResponse" in part
        ),
        text="\n".join(part["text"] for role, part in parts if role == "user" and "text" in part),
    )

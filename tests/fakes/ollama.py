"""A loopback Ollama server: `/api/chat` with tools, not streamed, with the real server's errors."""

import json
from typing import Any

from fakes.brains import Brain, Turn, diligent
from fakes.loopback import LoopbackServer, Reply, Request, json_reply


class FakeOllama(LoopbackServer):
    """Serves one model, thinking with `brain`; `fault` (a Reply) is given instead of an answer, as long as it is set."""

    def __init__(self, brain: Brain = diligent, *, model: str = "llama3.1", fault: Reply | None = None) -> None:
        """Bind a port."""
        super().__init__()
        self.brain, self.model, self.fault = brain, model, fault

    def reply(self, request: Request) -> Reply:
        """Answer one chat request."""
        if self.fault is not None:
            return self.fault
        if request.path != "/api/chat":
            return Reply(404, b"404 page not found")
        if request.method != "POST":
            return Reply(405, b"405 method not allowed")
        try:
            body = json.loads(request.body)
        except ValueError as error:
            return json_reply({"error": str(error)}, 400)
        if body.get("model") != self.model:
            return json_reply({"error": f"model '{body.get('model')}' not found"}, 404)
        said = self.brain(_turn(body))
        message: dict[str, Any] = {"role": "assistant", "content": said if isinstance(said, str) else ""}
        if not isinstance(said, str):
            message["tool_calls"] = [{"function": {"name": call.name, "arguments": call.arguments}} for call in said]
        return json_reply(
            {
                "model": self.model,
                "created_at": "2026-11-20T09:00:00.000000Z",
                "message": message,
                "done_reason": "stop",
                "done": True,
                "total_duration": 1_000_000,
                "prompt_eval_count": 120,
                "eval_count": 12,
            }
        )


def _turn(body: dict[str, Any]) -> Turn:
    messages = body["messages"]
    return Turn(
        system="\n".join(message["content"] for message in messages if message["role"] == "system"),
        tools=tuple(tool["function"]["name"] for tool in body.get("tools", ())),
        results=tuple(
            (message["tool_name"], json.loads(message["content"])) for message in messages if message["role"] == "tool"
        ),
        text="\n".join(message["content"] for message in messages if message["role"] == "user"),
    )

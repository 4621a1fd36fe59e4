"""Answers in OpenAI's form (layer L3), whole and as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from clora_cli.serving.feed import Finished
from clora_cli.serving.verdict import Verdict

__all__ = ["DONE", "Reply", "event"]

DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


class Reply:
    """The form of one answer.

    Args:
        chat: Whether it answers a conversation.
        model: What the request called the model.
        verdict: Which adapters answer.
    """

    def __init__(self, model: Any, verdict: Verdict, *, chat: bool) -> None:
        self._chat, self.verdict = chat, verdict
        self._kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model if isinstance(model, str) else json.dumps(model),
        }

    def whole(self, text: str, end: Finished) -> dict[str, Any]:
        """Return the body of an answer."""
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {
            **self._head,
            "object": self._kind,
            "choices": [{"index": 0, **said, "finish_reason": end.reason, "logprobs": None}],
            "usage": _usage(end),
            "clora": self.verdict.told(),
        }

    def opening(self) -> bytes:
        """Return the first event, which says which adapters answer."""
        said = {"delta": {"role": "assistant", "content": ""}} if self._chat else {"text": ""}
        return self._event(said, clora=self.verdict.told())

    def part(self, text: str) -> bytes:
        """Return the event of a part of the answer."""
        return self._event({"delta": {"content": text}} if self._chat else {"text": text})

    def closing(self, end: Finished, *, usage: bool) -> bytes:
        """Return the last events."""
        last = self._event({"delta": {}} if self._chat else {"text": ""}, end.reason)
        told = event({**self._frame(), "choices": [], "usage": _usage(end)}) if usage else b""
        return last + told + DONE

    def _event(self, said: Mapping[str, Any], reason: str | None = None, **beside: Any) -> bytes:
        choice = {"index": 0, **said, "finish_reason": reason, "logprobs": None}
        return event({**self._frame(), "choices": [choice], **beside})

    def _frame(self) -> dict[str, Any]:
        return {**self._head, "object": f"{self._kind}.chunk" if self._chat else self._kind}


def _usage(end: Finished) -> dict[str, int]:
    return {
        "prompt_tokens": end.read,
        "completion_tokens": end.written,
        "total_tokens": end.read + end.written,
    }

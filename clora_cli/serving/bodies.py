"""Bodies of requests, in OpenAI's form (layer L3). What would change an answer and is not there is refused, never ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clora_cli.base.errors import DataError
from clora_cli.data.columns import prompt_of
from clora_cli.data.readers import Record, parse_json
from clora_cli.data.task import Example
from clora_cli.routing.inputs import Input
from clora_cli.serving.asked import Decoding
from clora_cli.serving.refusal import Refusal

__all__ = ["Answered", "Body", "Chat", "Completion", "Routed", "forwarded", "read_body"]

_MOST_TOKENS = 1 << 20
_SEEDS = 1 << 63
_Tokens = Annotated[int | None, Field(ge=1, le=_MOST_TOKENS)]
_WHERE = "the request"


class Body(BaseModel):
    """What all requests have."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Any = "auto"
    user: str | None = None

    @property
    def input(self) -> Input:
        """The prompt."""
        raise NotImplementedError


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None


class Answered(Body):
    """What requests for answers have."""

    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Tokens = None
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-_SEEDS, lt=_SEEDS)] = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    @property
    def usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def decoding(self, default: int) -> Decoding:
        """Return how the answer is chosen: greedily, unless the request says how to draw.

        Args:
            default: Tokens at most, where the request does not say.

        Raises:
            Refusal: If the request asks for what is not there.
        """
        for name in ("presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, name):
                raise Refusal(400, f"{name} is not supported; leave it out", param=name)
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options: pass stream as well", param="stream_options")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 16 or not all(stops):
            raise Refusal(400, "stop: give at most 16 texts, none of them empty", param="stop")
        top_p = 1.0 if self.top_p is None else self.top_p
        return Decoding(self.limit or default, self.temperature or 0.0, top_p, self.seed, tuple(stops))

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most, if the request says."""
        return self.max_tokens


class Completion(Answered):
    """A request of ``/v1/completions``."""

    prompt: str | list[str]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None

    @property
    def input(self) -> Input:
        """The prompt, as it is."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise Refusal(400, "prompt: give one text a request; requests that wait share a batch", param="prompt")
        return plain(prompts[0])


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise Refusal(400, "messages: only parts of type text are supported", param="messages")
        return "".join(part["text"] for part in self.content)


class Chat(Answered):
    """A request of ``/v1/chat/completions``."""

    messages: Annotated[list[_Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: _Tokens = None
    logprobs: Literal[False] | None = None
    response_format: dict[str, str] | None = None
    tools: None = None

    @property
    def input(self) -> Input:
        """The conversation."""
        if self.response_format not in (None, {"type": "text"}):
            raise Refusal(400, "response_format: only text is supported", param="response_format")
        return conversation(self.messages)

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most, if the request says."""
        return self.max_completion_tokens or self.max_tokens


class Routed(Body):
    """A request of ``/v1/route``: a prompt or a conversation."""

    prompt: str | None = None
    messages: Annotated[list[_Message] | None, Field(min_length=1, max_length=1024)] = None
    per_site: bool = False

    @property
    def input(self) -> Input:
        """The prompt."""
        if (self.prompt is None) is (self.messages is None):
            raise Refusal(400, "give either prompt or messages", param="prompt")
        return conversation(self.messages) if self.messages is not None else plain(self.prompt or "")


def plain(prompt: str) -> Input:
    """Return a plain prompt, whose tokens are those of the text."""
    if not prompt:
        raise Refusal(400, "prompt: give a text", param="prompt")
    return Input(Example("", prompt, "", ()), {}, _WHERE)


def conversation(messages: Sequence[_Message]) -> Input:
    """Return a conversation as ``clora route`` reads a row of ``messages``."""
    roles = {"developer": "system"}
    turns = [{"role": roles.get(one.role, one.role), "content": one.text} for one in messages]
    if turns[-1]["role"] != "user":
        raise Refusal(400, "messages: the last one must be the user's", param="messages")
    try:
        example = prompt_of(Record(_WHERE, "message", 1, {"messages": turns}))
    except DataError as error:
        raise Refusal(400, str(error), param="messages", code=error.code) from error
    return Input(example, {}, _WHERE, chat=bool(example.turns))


def read_body(kind: type[Body], text: bytes) -> Any:
    """Return a request's body, checked.

    Raises:
        Refusal: With the first thing that is wrong with it.
    """
    values = _read_object(text)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        what = "is not supported" if first["type"] == "extra_forbidden" else _line(first["msg"])
        place = ".".join(map(str, first["loc"]))
        raise Refusal(400, f"{place}: {what}", param=param) from error


def forwarded(text: bytes) -> tuple[dict[str, Any], Input]:
    """Return the body of a request that another server answers, and the prompt in it, as far as it is text.

    Raises:
        Refusal: If there is no prompt in it.
    """
    values = _read_object(text)
    prompt, messages = values.get("prompt"), values.get("messages")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str):
        return values, plain(prompt)
    turns = [_Message(role=role, content=text) for role, text in _texts(messages)]
    if not turns:
        raise Refusal(400, "give prompt, one text, or messages with texts", param="messages")
    while len(turns) > 1 and turns[-1].role != "user":
        turns.pop()
    return values, conversation(turns)


def _texts(messages: Any) -> Iterator[tuple[Any, str]]:
    """Yield the texts of a conversation that may hold more than texts, by role."""
    for message in messages if isinstance(messages, list) else ():
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        known = isinstance(role, str) and role in {"system", "developer", "user", "assistant"}
        if known and isinstance(content, str) and content:
            yield role, content


def _read_object(text: bytes) -> dict[str, Any]:
    try:
        values = parse_json(text, nan=False)
        # Half a surrogate pair, or 1e400, could be told to nobody.
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {_line(error)}", code="json-malformed") from error
    if not isinstance(values, dict):
        raise Refusal(400, "the body is no JSON object", code="json-malformed")
    return values


def _line(text: object) -> str:
    return " ".join(str(text).split())

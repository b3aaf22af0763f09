"""OpenAI's protocol, as far as a greedy server of one model speaks it: requests checked, answers and errors spelled."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from editing.edit import shown
from editing.errors import ErrataError, UsageError
from editing.texts import HALF_PAIR
from tasks.serving.engine import Answer, Answers, Served
from tasks.serving.messages import Message, conversations_of

COMPLETION_TOKENS, CHAT_TOKENS = 16, 256
"""Of an answer, where the request does not say."""
PROMPTS = 16
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "temperature": (0, None),
    "n": (1, None),
    "best_of": (1, None),
    "echo": (False, None),
    "logprobs": (False, 0, None),
    "top_logprobs": (0, None),
    "suffix": ("", None),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "functions": ([], None),
    "response_format": ({"type": "text"}, None),
    "tool_choice": ("none", "auto", None),
    "modalities": (["text"], None),
    "audio": (None,),
    "reasoning_effort": (None,),
    "repetition_penalty": (1, None),
    "min_tokens": (0, None),
    "ignore_eos": (False, None),
    "bad_words": ([], None),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
}
"""Fields that would change an answer, and the values at which they do not; all other values are refused by name."""

Stop = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Tokens = Annotated[StrictInt, Field(ge=1)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    model: StrictStr
    max_tokens: Tokens | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Completion(_Asked):
    """What is posted to /v1/completions."""

    prompt: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=PROMPTS)]

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def tokens(self) -> int:
        return self.max_tokens or COMPLETION_TOKENS


class Chat(_Asked):
    """What is posted to /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    max_completion_tokens: Tokens | None = None

    @property
    def tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens or CHAT_TOKENS

    @property
    def conversation(self) -> list[Message]:
        """Raises UsageError."""
        found = conversations_of({"messages": [_plain(message) for message in self.messages]})
        return found[0] if found else []


Kind = TypeVar("Kind", Completion, Chat)


class Refused(ErrataError):
    """A request that is answered with an error."""

    def __init__(self, message: str, status: int = 400, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field

    @property
    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": self.code}}


def completion(body: bytes, line: str, most_tokens: int) -> Completion:
    """Raises Refused."""
    return _checked(Completion, body, line, most_tokens)


def chat(body: bytes, line: str, most_tokens: int) -> Chat:
    """Raises Refused."""
    found = _checked(Chat, body, line, most_tokens)
    try:
        found.conversation  # noqa: B018
    except UsageError as error:
        raise Refused(str(error), field="messages") from error
    return found


def _checked(kind: type[Kind], body: bytes, line: str, most_tokens: int) -> Kind:
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
        if HALF_PAIR.search(json.dumps(fields, ensure_ascii=False)):
            raise ValueError("it holds half a surrogate pair; write the character whole")
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON object: {' '.join(str(error).split())[:200]}") from error
    try:
        found = kind.model_validate(fields)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        name = str(problems[0]["loc"][0])
        of_field = [one for one in problems if one["loc"][0] == problems[0]["loc"][0]]
        first = of_field[-1 if isinstance(fields.get(name), list) else 0]  # a text or a list: of a list, why it is none
        wrong = first["msg"] if first["type"] == "missing" else f"{shown(first['input'])}: {first['msg']}"
        raise Refused(f"{shown(name)[1:-1]}: {wrong}", field=name[:80]) from error
    if found.model != line:
        raise Refused(
            f"model {shown(found.model)} is not served here; this is '{line}'", 404, "model_not_found", "model"
        )
    for name, neutral in NEUTRAL.items():
        if name in fields and fields[name] not in neutral:
            raise Refused(
                f"{name} = {shown(fields[name])} is not served: answers here are greedy, plain texts, one a prompt; "
                "leave it out",
                field=name,
            )
    if found.tokens > most_tokens:
        name = "max_completion_tokens" if getattr(found, "max_completion_tokens", None) else "max_tokens"
        raise Refused(f"{name} is {found.tokens:,}, this server writes at most {most_tokens:,}", field=name)
    return found


def _plain(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose content is a text, which some clients send as a list of parts."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(one, dict) and one.get("type") == "text" for one in content):
        message = {**message, "content": "".join(str(one.get("text", "")) for one in content)}
    return {name: value for name, value in message.items() if name in ("role", "content") or value is not None}


def completed(answers: Answers) -> dict[str, Any]:
    """The answer to /v1/completions."""
    choices = [
        {"index": i, "text": one.text, "logprobs": None, "finish_reason": _reason(one)}
        for i, one in enumerate(answers.answers)
    ]
    return {**_head(answers.by, "cmpl", "text_completion"), "choices": choices, "usage": _usage(answers)}


def replied(answers: Answers) -> dict[str, Any]:
    """The answer to /v1/chat/completions."""
    [one] = answers.answers
    message = {"role": "assistant", "content": one.text}
    choice = {
        "index": 0, "message": message, "logprobs": None, "finish_reason": _reason(one)
    }  # fmt: skip
    return {**_head(answers.by, "chatcmpl", "chat.completion"), "choices": [choice], "usage": _usage(answers)}


class Stream:
    """The same as server-sent events, as it is written."""

    def __init__(self, asked: Completion | Chat, by: Served) -> None:
        self.asked, self.is_chat = asked, isinstance(asked, Chat)
        kinds = ("chatcmpl", "chat.completion.chunk") if self.is_chat else ("cmpl", "text_completion")
        self.head = _head(by, *kinds)

    def begin(self) -> str:
        """Who speaks, in a chat."""
        return self._choice(0, {"delta": {"role": "assistant", "content": ""}}) if self.is_chat else ""

    def piece(self, number: int, text: str) -> str:
        return self._choice(number, {"delta": {"content": text}} if self.is_chat else {"text": text})

    def end(self, answers: Answers) -> str:
        nothing: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        said = [self._choice(i, nothing, _reason(one)) for i, one in enumerate(answers.answers)]
        if (self.asked.stream_options or {}).get("include_usage"):
            said.append(_event({**self.head, "choices": [], "usage": _usage(answers)}))
        return "".join([*said, "data: [DONE]\n\n"])

    def _choice(self, number: int, said: Mapping[str, Any], reason: str | None = None) -> str:
        choice = {"index": number, **said, "logprobs": None, "finish_reason": reason}
        return _event({**self.head, "choices": [choice]})


def _event(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _reason(one: Answer) -> str:
    return "stop" if one.ended else "length"


def _head(by: Served, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": by.line,
        "system_fingerprint": by.fingerprint,
    }


def _usage(answers: Answers) -> dict[str, int]:
    read, wrote = (sum(counts) for counts in zip(*((a.prompt_tokens, a.tokens) for a in answers.answers), strict=True))
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def models(lines: Sequence[str]) -> dict[str, Any]:
    """The answer to /v1/models."""
    return {
        "object": "list",
        "data": [{"id": one, "object": "model", "created": 0, "owned_by": "errata"} for one in lines],
    }

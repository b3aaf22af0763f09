"""A server that speaks OpenAI's protocol, asked for short texts, greedily."""

import json
import os
from dataclasses import dataclass, field
from typing import Any

import httpx

from editing.edit import shown
from editing.errors import ErrataError, UsageError
from tasks.secrets import without_secrets

KEY = "OPENAI_API_KEY"
"""The variable of the key that is sent, where a server wants one."""
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 300.0
"""The first answer of a server may wait until it has loaded the model."""
LARGEST_ANSWER = 1 << 20
TOLD = 300


class EndpointError(ErrataError):
    """The server cannot be reached, or answers otherwise than it should."""


@dataclass(frozen=True)
class Endpoint:
    """One model behind one address, such as http://127.0.0.1:8000/v1."""

    url: str
    model: str
    client: httpx.Client = field(compare=False, repr=False)
    system: str | None = None
    """The message of every conversation; None: its template's own."""

    def complete(self, prompt: str, tokens: int) -> str:
        """How it goes on from a text."""
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return self._text(self._post("completions", asked), lambda choice: choice["text"])

    def answer(self, question: str, tokens: int) -> str:
        """What it answers a user in its chat."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": question})
        asked = {"messages": messages, "max_tokens": tokens, "temperature": 0}
        return self._text(self._post("chat/completions", asked), lambda choice: choice["message"]["content"])

    def _post(self, path: str, asked: dict[str, Any]) -> Any:
        try:
            with self.client.stream("POST", f"{self.url}/{path}", json={"model": self.model, **asked}) as response:
                body = _read(response)
                status = response.status_code
        except httpx.HTTPError as error:
            why = without_secrets(str(error).partition("\n")[0] or type(error).__name__)
            raise EndpointError(
                f"server '{self.url}' does not answer ({why}): look whether it runs, and at the address"
            ) from error
        if status >= 400:
            raise EndpointError(self._refused(path, status, body))
        return body

    def _refused(self, path: str, status: int, body: Any) -> str:
        said = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
        said = said.get("message", said) if isinstance(said, dict) else said
        known = self._models()
        has = f"; it has {', '.join(known[:10])}" if known and self.model not in known else ""
        remedy = f"; set {KEY} to its key" if status in (401, 403) else ""
        text = " ".join(str(said).split())[:TOLD]
        return f"server '{self.url}' answers {status} to {path} for model {shown(self.model)}: {text}{has}{remedy}"

    def _models(self) -> list[str]:
        """The names that it lists; none where it lists none."""
        try:
            with self.client.stream("GET", f"{self.url}/models") as response:
                return [str(one["id"])[:TOLD] for one in _read(response)["data"]]
        except (httpx.HTTPError, EndpointError, KeyError, TypeError):
            return []

    def _text(self, body: Any, of: Any) -> str:
        try:
            text = of(body["choices"][0])
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"server '{self.url}' answers {shown(body)}, which has no text where OpenAI's protocol has it: look at "
                "the address, which ends with /v1 for most servers"
            ) from error
        return text


def endpoint(url: str, model: str) -> Endpoint:
    """Raises UsageError for an address or a name that is none."""
    address = url.strip().rstrip("/")
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise UsageError(
            f"url {shown(url)} is no address ({error}); give one such as http://127.0.0.1:8000/v1"
        ) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"url {shown(url)} is no address; give one such as http://127.0.0.1:8000/v1")
    if parsed.userinfo or parsed.query:
        raise UsageError(f"the url of '{parsed.host}' holds more than an address; give a key by {KEY} instead")
    if not model.strip():
        raise UsageError("the name of the model is empty; give the one that the server knows it by")
    key = os.environ.get(KEY, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        client = httpx.Client(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), headers=headers, follow_redirects=False
        )
    except (ValueError, UnicodeError) as error:
        raise UsageError(f"{KEY} holds what cannot stand in a header; correct or unset it") from error
    return Endpoint(address, model, client)


def _read(response: httpx.Response) -> Any:
    """The JSON of an answer, of bounded size; its text where it is none."""
    data = b""
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > LARGEST_ANSWER:
            raise EndpointError(
                f"server '{response.url.copy_with(path='')}' answers with more than {LARGEST_ANSWER:,} bytes"
            )
    try:
        return json.loads(data)
    except ValueError:
        return data[:TOLD].decode("utf-8", "replace")

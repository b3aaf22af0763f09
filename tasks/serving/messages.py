"""Conversations in whatever form MLflow or a caller passes them, checked before a model reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from editing.edit import shown
from editing.errors import UsageError

ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]


def conversations_of(model_input: object) -> list[list[Message]] | None:
    """The conversations of an input with `messages`, each a list of {role, content}; None: it has none.

    Raises:
        UsageError: there are prompts, too, or something is no message; one line that says which and what to do.
    """
    found: list[Any] = _columns(model_input)
    if not found:
        return None
    # Of one conversation MLflow makes a table with a message in each row.
    if all(isinstance(one, Mapping) for one in found):
        found = [found]
    return [_checked(one.tolist() if hasattr(one, "tolist") else one) for one in found]


def _columns(given: Any) -> list[Any]:
    """What stands under `messages`: messages, or lists of them."""
    if isinstance(given, pd.DataFrame):
        given = {name: given[name].tolist() for name in given.columns}
    if isinstance(given, Mapping):
        if "messages" not in given:
            return []
        if "prompt" in given:
            raise UsageError("the input has both prompt and messages; give one of them")
        messages = given["messages"]
        messages = messages.tolist() if hasattr(messages, "tolist") else messages
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise UsageError(
                f"messages must be a list of {{role, content}} with at least one, and is {shown(messages)}"
            )
        return list(messages)
    if isinstance(given, Sequence) and any(isinstance(one, Mapping) and "messages" in one for one in given):
        if not all(isinstance(one, Mapping) and "messages" in one for one in given):
            raise UsageError("some of the inputs have messages and some have none; ask in one form at a time")
        return [_columns(one) for one in given]
    return []


def _checked(messages: Any) -> list[Message]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError(f"a conversation must be a list of messages with at least one, and is {shown(messages)}")
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
            raise UsageError(f"{where} must be an object with the fields role and content, and is {shown(message)}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise UsageError(f"{where} has the role {shown(role)}; the roles are {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise UsageError(f"{where} must have a text as its content, and has {shown(content)}")
    if messages[-1]["role"] != "user":
        raise UsageError(f"the last message is of the {messages[-1]['role']}; end with one of the user, to be answered")
    return list(messages)

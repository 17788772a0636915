"""How prompts, answers and chats become tokens: each part encoded by itself, so that a prompt's tokens are an exact
prefix of the whole's whatever the answer begins with.

A chat is, for each message, its role on a line, its text without blanks around it, and the end of text, behind one end
of text that begins the document. The same template in Jinja is saved with the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlgym.ssl.data.documents import no_text

if TYPE_CHECKING:
    from rlgym.ssl.data.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
ANSWERS = "assistant"
JINJA = (
    "{{ eos_token }}{% for message in messages %}{{ message['role'] + '\\n' + message['content'] | trim + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Written:
    """Tokens of an example, and which of them are answers (the end of text behind an answer is one)."""

    ids: list[int]
    answer: list[bool]


def written(tokenizer: Tokenizer, prompt: str, completion: str) -> Written:
    """A prompt and its answer, as they stand, as one document."""
    before = prompt_ids(tokenizer, prompt)
    after = [*tokenizer.encode(completion), tokenizer.eos_id]
    return Written(before + after, [False] * len(before) + [True] * len(after))


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return [tokenizer.eos_id, *tokenizer.encode(prompt)]


def chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> Written:
    """Messages, the last of them an answer."""
    ids, answer = [tokenizer.eos_id], [False]
    for message in messages:
        head = tokenizer.encode(f"{message['role']}\n")
        body = [*tokenizer.encode(str(message["content"]).strip()), tokenizer.eos_id]
        ids += head + body
        answer += [False] * len(head) + [message["role"] == ANSWERS] * len(body)
    return Written(ids, answer)


def chat_prompt_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Messages, and what begins the answer to them."""
    return [*chat(tokenizer, messages).ids, *tokenizer.encode(f"{ANSWERS}\n")]


def as_messages(value: object) -> list[dict[str, str]]:
    """Chat messages as a table has them: a list of {role, content}, or its JSON. ValueError says what is wrong."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is no list of messages") from None
    if not isinstance(value, list) or not value:
        raise ValueError("is no list of messages")
    found = []
    for number, message in enumerate(value, 1):
        given = message if isinstance(message, Mapping) else {}
        role, content = given.get("role"), given.get("content")
        if role not in ROLES:
            keys = f" and the keys {', '.join(map(str, given))}" if role is None and given else ""
            raise ValueError(
                f"has role {role!r}{keys} in message {number}: must be role and content, role one of {', '.join(ROLES)}"
            )
        if isinstance(content, list):
            raise ValueError(f"has a list of parts as content of message {number}: must be one text")
        if not isinstance(content, str):
            raise ValueError(f"has no text as content of message {number}")
        if why := no_text(content):
            raise ValueError(f"{why}, in message {number}")
        if role == ANSWERS and not content.strip():
            raise ValueError(f"has an empty answer in message {number}")
        found.append({"role": str(role), "content": content})
    if found[-1]["role"] != ANSWERS:
        raise ValueError(f"ends with a message of {found[-1]['role']}, not with an answer ({ANSWERS})")
    return found

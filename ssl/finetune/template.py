"""Encodes prompts, answers and chats: each part separately, so that a prompt's tokens are an exact prefix of the whole,
whatever the answer begins with.

A chat is rendered by the model's own Jinja template and encoded as in transformers, with special tokens recognised. A
model without a template gets `JINJA`, which is saved with its tokenizer: the document's first token, and for each
message its role on a line, its stripped text, and the end of text.
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
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + '\\n' + message['content'] | trim + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Written:
    """Tokens of an example, and which of them belong to answers (including the end of text)."""

    ids: list[int]
    answer: list[bool]


def written(tokenizer: Tokenizer, prompt: str, completion: str) -> Written:
    """A prompt and its answer, unframed, as one document."""
    before = tokenizer.begin(prompt)
    after = [*tokenizer.encode(completion), tokenizer.eos_id]
    return Written(before + after, [False] * len(before) + [True] * len(after))


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], ask: bool = False) -> str:
    """Render a chat; `ask`: append the start of the answer. ValueError if the template refuses it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    own, tokens = tokenizer.chat_template or JINJA, dict[str, Any](tokenizer.roles)
    chats = [[dict(message) for message in messages]]
    try:
        found: Any = render_jinja_template(chats, chat_template=own, add_generation_prompt=ask, **tokens)
    except Exception as error:  # a template is a program and may raise anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the model's chat template refuses it ({type(error).__name__}: {reason})") from None
    return str(found[0][0])


def chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> Written:
    """Encode messages up to the end of the last answer. Answers are what the template renders after the request for
    them. An answer that is rendered differently later in the chat (for example without its reasoning) has no loss.
    """
    whole = render(tokenizer, messages)
    ids: list[int] = []
    mine: list[bool] = []
    text = ""
    for number, message in enumerate(messages, 1):
        if message["role"] != ANSWERS:
            continue
        asked, answered = render(tokenizer, messages[: number - 1], ask=True), render(tokenizer, messages[:number])
        if not (whole.startswith(answered) and answered.startswith(asked)):
            if number < len(messages):
                continue
            ids, mine, text = [], [], ""  # the last answer is trained as it is generated
            answered = asked + str(message["content"]).strip()
        prompt = _behind(tokenizer, ids, text, asked)
        answer = _behind(tokenizer, ids + prompt, asked, answered)
        end = max((at for at, token in enumerate(answer, 1) if token in tokenizer.stop_ids), default=len(answer))
        if number == len(messages):
            answer = answer[:end]
            if answer[-1] not in tokenizer.stop_ids:
                answer.append(tokenizer.eos_id)
            end = len(answer)
        ids += prompt + answer
        mine += [False] * len(prompt) + [True] * end + [False] * (len(answer) - end)
        text = answered
    return Written(ids, mine)


def _behind(tokenizer: Tokenizer, ids: list[int], before: str, text: str) -> list[int]:
    """Tokens of `text` that continue `ids`, the tokens of its beginning `before`."""
    whole = tokenizer.encode_prompt(text)
    return whole[len(ids) :] if whole[: len(ids)] == ids else tokenizer.encode_prompt(text[len(before) :])


def asked(tokenizer: Tokenizer, prompt: str, chat: bool) -> list[int]:
    """Encode a prompt: as the beginning of a document, or as a user message followed by the start of the answer.
    ValueError if the chat template refuses it."""
    return chat_prompt_ids(tokenizer, [{"role": "user", "content": prompt}]) if chat else tokenizer.begin(prompt)


def chat_prompt_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Encode messages, followed by the start of the answer."""
    return tokenizer.encode_prompt(render(tokenizer, messages, ask=True))


def as_messages(value: object) -> list[dict[str, str]]:
    """Read chat messages from a table: a list of {role, content}, or its JSON. ValueError if invalid."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is not a list of messages") from None
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list of messages")
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

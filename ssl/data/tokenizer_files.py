"""Reads a tokenizer's files as written by transformers: vocabulary, special tokens, chat template, stop tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgym.common.atomic_io import JSON_BYTES, read_bounded, read_json
from rlgym.errors import RequestError

if TYPE_CHECKING:
    import tokenizers


JINJA_BYTES = 1 << 20
"""Maximum length of a chat template, in characters; real ones have a few thousand."""
TOKENIZER, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
USUAL = {
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"),
    "pad_token": ("<|pad|>", "<pad>", "[PAD]"),
    "mask_token": ("[MASK]", "<mask>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("[UNK]", "<unk>"),
}
"""Usual names of special tokens, for folders with only a tokenizer.json."""


@dataclass
class Found:
    """The contents of a tokenizer's files."""

    backend: tokenizers.Tokenizer
    roles: dict[str, str]
    """Roles by the settings, else by tokens with the usual names."""
    stops: list[int]
    chat_template: str | None
    adds_bos: bool


def read_folder(folder: Path) -> Found:
    from tokenizers import Tokenizer as Backend

    file = folder / TOKENIZER
    try:
        backend = Backend.from_str(read_bounded(file, JSON_BYTES).decode())
    except Exception as error:  # the library raises a plain Exception
        reason = " ".join(str(error).split())
        raise RequestError(f"{file}: is not a tokenizer that `tokenizers` can read ({reason})") from None
    first, second = (_settings(folder / name) for name in ("special_tokens_map.json", SETTINGS))
    named = {role: token for role in ROLES if (token := second.get(role) or first.get(role))}
    generation = _settings(folder / GENERATION) or _settings(folder / "config.json")  # as in transformers
    jinja = folder / "chat_template.jinja"
    chat = _jinja(jinja) if jinja.is_file() else default_template(second.get("chat_template"))
    stops = _numbers(generation.get("eos_token_id"))
    return Found(backend, present_roles(backend, named), stops, chat, second.get("add_bos_token") is True)


def _settings(path: Path) -> dict[str, Any]:
    """Contents of a JSON file; empty if it does not exist."""
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: is not a tokenizer's settings as JSON ({error})") from None


def _jinja(path: Path) -> str:
    try:
        return read_bounded(path, JINJA_BYTES).decode()
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: is not a valid chat template ({error})") from None


def default_template(template: object) -> str | None:
    """The chat template, or the default one of several."""
    if isinstance(template, list):
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _numbers(value: object) -> list[int]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]


def present_roles(backend: tokenizers.Tokenizer, named: Mapping[str, Any]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for role in ROLES:
        token = named.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        candidates = (token,) if isinstance(token, str) else () if named else USUAL.get(role, ())
        for candidate in candidates:
            if backend.token_to_id(candidate) is not None:
                roles[role] = candidate
                break
    return roles

"""Converts text to tokens and back: byte-level BPE, characters, bytes, or an existing tokenizer, all in the format of
`tokenizers`. Tokenizers trained here round-trip any text exactly. `<|endoftext|>` in a corpus is plain text; only a
prompt can contain the special token of that name.

A document begins with `bos_token` and ends with `eos_token`, for every objective and method, in training, use and
export: `[CLS] t t t [SEP]`, `<s> t t t </s>`. If the two are the same token, it separates documents once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

import numpy as np

from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.errors import RequestError
from rlgym.run_folder.folder import Run
from rlgym.ssl.data.tokenizer_files import GENERATION, SETTINGS, TOKENIZER, read_folder

if TYPE_CHECKING:
    import tokenizers


CAUSAL = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
MASKED = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
}
"""Special tokens by role, under transformers' names."""


BYTE = re.compile(r"<0x([0-9A-F]{2})>")
IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # each one a word, as in BERT


class Tokenizer:
    """A backend of `tokenizers` with the roles of its special tokens and a chat template."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        roles: Mapping[str, str],
        stops: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> None:
        """`roles`: transformers' name of a role -> the token; pad_token and eos_token at least. `stops`: stop tokens
        besides eos_token. `chat_template`: in Jinja, as in transformers."""
        backend.no_truncation()  # an existing one may truncate texts
        backend.no_padding()
        backend.encode_special_tokens = True  # special tokens in a text are plain text
        self.backend = backend
        self.roles = dict(roles)
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        ids = {role: backend.token_to_id(token) for role, token in self.roles.items()}
        eos, pad = ids.get("eos_token"), ids.get("pad_token")
        if eos is None or pad is None:
            raise ValueError(f"a tokenizer needs eos_token and pad_token in its vocabulary; its roles are {self.roles}")
        bos = ids.get("bos_token")
        self.bos_id: int = eos if bos is None else bos
        self.eos_id: int = eos
        self.pad_id: int = pad
        self.mask_id, self.cls_id, self.sep_id = ids.get("mask_token"), ids.get("cls_token"), ids.get("sep_token")
        self.closes = self.cls_id == self.bos_id
        """Whether a single text is followed by its end token, as for encoders."""
        added = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self.special_ids: list[int] = sorted(added | {i for i in ids.values() if i is not None})
        self.stop_ids = [eos, *sorted({i for i in stops if i in self.special_ids} - {eos})]
        """Stop tokens of generation, the end of text first; never ordinary tokens."""
        self.chat_template = chat_template

    # ---- text to tokens and back

    def encode(self, text: str) -> list[int]:
        """Encode plain text; never produces special tokens."""
        ids = _ids(self.backend, text)
        if self.characters is not None:
            self.check(text)
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Encode text in which `[MASK]`, `<|endoftext|>` and other special tokens are recognised."""
        ids = _ids(self._prompting, text)
        if self.characters is not None:
            specials = "|".join(re.escape(token) for token in self._special_tokens())
            self.check(re.sub(specials, "", text))
        return ids

    def begin(self, text: str) -> list[int]:
        """Encode the beginning of a document."""
        return [self.bos_id, *self.encode(text)]

    def alone(self, text: str, longest: int | None = None) -> list[int]:
        """Encode a single text, at most `longest` tokens; for an encoder, followed by the end of text."""
        end = [self.eos_id] * self.closes
        return self.begin(text)[: None if longest is None else longest - len(end)] + end

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    @cached_property
    def _prompting(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer as Backend

        return Backend.from_str(self.backend.to_str())  # a separate copy, as this setting is not saved

    def _special_tokens(self) -> list[str]:
        return [token for token in map(self.backend.id_to_token, self.special_ids) if token is not None]

    @cached_property
    def characters(self) -> frozenset[str] | None:
        """The known characters of a character tokenizer without byte fallback; None if any text can be encoded. The
        backend silently drops unknown characters, so callers must check.
        """
        model = self._description["model"]
        if model["type"] != "BPE" or model["merges"] or model["byte_fallback"] or model["unk_token"] is not None:
            return None
        if self._description["pre_tokenizer"] is not None:
            return None
        return frozenset(token for token in model["vocab"] if len(token) == 1)

    def check(self, text: str) -> None:
        """RequestError naming the first unknown character."""
        if self.characters is None or not (unknown := set(text) - self.characters):
            return
        character = next(c for c in text if c in unknown)
        raise RequestError(
            f"tokenizer.byte_fallback=false: the tokenizer has no {character!r} (U+{ord(character):04X}), which is in "
            "the text but not in what it was trained on; tokenizer.byte_fallback=true spells any text"
        )

    # ---- what a token stands for

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token's text, int64 `[vocab]`; 0 for special tokens. They add up to a text's bytes for
        lossless tokenizers (byte-level, characters, bytes, metaspace); WordPiece omits spaces.
        """
        return np.array([len(surface) for surface in self._surfaces], dtype=np.int64)

    @cached_property
    def starts_word(self) -> np.ndarray:
        """Whether each token begins a word, bool `[vocab]`, as opposed to continuing one. A word is a run of letters,
        digits and marks with one preceding character, such as ` word` in GPT-2; in WordPiece, tokens without `##`.
        Special tokens begin a word.
        """
        prefix = self._continuing_prefix
        if prefix:
            tokens = (self.backend.id_to_token(i) or "" for i in range(self.vocab_size))
            return np.array([not token.startswith(prefix) for token in tokens])
        return np.array([not surface or _begins_word(surface) for surface in self._surfaces])

    @cached_property
    def _surfaces(self) -> list[bytes]:
        """The bytes of each token; empty for special tokens and unused ids."""
        spell = self._speller()
        added = self.backend.get_added_tokens_decoder()
        special = set(self.special_ids)
        surfaces = []
        for i in range(self.vocab_size):
            token = self.backend.id_to_token(i)
            if token is None or i in special:
                surfaces.append(b"")
            else:
                surfaces.append(token.encode() if i in added else spell(token))
        return surfaces

    def _speller(self) -> Callable[[str], bytes]:
        """A function from a token's string in the vocabulary to its bytes."""
        kinds = set(_kinds(self._description["decoder"])) | set(_kinds(self._description["pre_tokenizer"]))
        if "ByteLevel" in kinds:
            table = {character: bytes([byte]) for byte, character in enumerate(byte_alphabet())}
            return lambda token: b"".join(table.get(c, c.encode()) for c in token)
        prefix = self._continuing_prefix
        bytes_are_spelt = bool(self._description["model"].get("byte_fallback"))
        spaced = "Metaspace" in kinds or '"▁"' in json.dumps(self._description["decoder"], ensure_ascii=False)

        def spell(token: str) -> bytes:
            if bytes_are_spelt and (byte := BYTE.fullmatch(token)):
                return bytes([int(byte[1], 16)])
            if spaced:
                token = token.replace("▁", " ")
            return token.removeprefix(prefix).encode()

        return spell

    @property
    def _continuing_prefix(self) -> str:
        return self._description["model"].get("continuing_subword_prefix") or ""

    # ---- on the disk

    @cached_property
    def _description(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.backend.to_str())
        return found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json's content and the roles, independent of order and formatting."""
        content = json.dumps([self._description, self.roles], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def vocabulary(self) -> str:
        """SHA-256 of tokens and ids, which a model's embedding depends on."""
        tokens = self.backend.get_vocab(with_added_tokens=True)
        return hashlib.sha256(json.dumps(sorted(tokens.items(), key=lambda item: item[1])).encode()).hexdigest()

    def framed(self, answers: bool = False) -> Tokenizer:
        """A copy for export, with which transformers adds the same first and last tokens as training. `answers`: texts
        are pairs of prompt and answer, with the end token after both."""
        if not answers and self.backend.encode("a").ids == self.alone("a"):
            return self
        from tokenizers import Tokenizer as Backend
        from tokenizers.processors import TemplateProcessing

        names = {"BOS": self.bos_id, "EOS": self.eos_id}
        end, between = " EOS" * (answers or self.closes), " EOS" * (self.closes and not answers)
        backend = Backend.from_str(self.backend.to_str())
        backend.post_processor = TemplateProcessing(
            single=f"BOS $A{end}",
            pair=f"BOS $A{between} $B{end}",
            special_tokens=[{"id": n, "ids": [i], "tokens": [backend.id_to_token(i)]} for n, i in names.items()],
        )
        return Tokenizer(backend, self.roles, self.stop_ids, self.chat_template)

    def generation(self) -> dict[str, Any]:
        """The token entries of transformers' generation_config.json."""
        stops: int | list[int] = self.stop_ids if len(self.stop_ids) > 1 else self.eos_id
        return {"bos_token_id": self.bos_id, "eos_token_id": stops, "pad_token_id": self.pad_id}

    def save(self, folder: Path, max_length: int | None = None) -> None:
        """Write a folder for `AutoTokenizer`; `max_length`: the model's context length in tokens."""
        # Without input names transformers adds token_type_ids, which GPT-2 embeds as tokens and Llama refuses. The
        # generic class is used, since model-specific ones rebuild the tokenizer from the vocabulary.
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        }
        if max_length is not None:
            settings["model_max_length"] = max_length
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / TOKENIZER, self.backend.to_str(pretty=True))
        write_atomic(folder / SETTINGS, to_json(settings | self.roles))
        write_atomic(folder / "special_tokens_map.json", to_json(self.roles))
        if not self.closes:
            write_atomic(folder / GENERATION, to_json(self.generation()))

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Load a saved tokenizer. RequestError if there is none, or if needed roles are missing."""
        found = read_folder(folder)
        try:
            return Tokenizer(found.backend, found.roles, found.stops, found.chat_template)
        except ValueError as error:
            raise RequestError(f"{folder / SETTINGS}: {error}") from None

    @staticmethod
    def of_run(run: Path) -> Tokenizer:
        """Load a run's tokenizer. RequestError if it differs from the one used in training, as recorded in the
        manifest."""
        tokenizer, manifest = Tokenizer.load(run / "tokenizer"), Run(run).manifest
        recorded = (manifest.get("data") or {}).get("tokenizer", {})
        if recorded.get("vocabulary", tokenizer.vocabulary) != tokenizer.vocabulary:
            raise RequestError(
                f"{run / 'tokenizer'}: another vocabulary ({tokenizer.vocab_size:,} tokens) than the one that the run "
                f"began with ({recorded.get('vocab_size', 0):,} tokens); put its own tokenizer back"
            )
        Run(run).check_files("tokenizer")
        return tokenizer


def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    except TypeError:  # how Python represents arguments that are not UTF-8
        raise RequestError(
            f"{text[:60]!r} holds half of a surrogate pair, which is no text; give it as UTF-8"
        ) from None
    return ids


def _begins_word(surface: bytes) -> bool:
    for size in range(1, 5):
        with suppress(UnicodeDecodeError):
            character = surface[:size].decode()
            return category(character)[0] not in "LNM" or bool(IDEOGRAPH.match(character))
    return False  # starts inside a character, or contains only part of one


def _kinds(part: Any) -> Iterator[str]:
    """The types of a decoder or pre-tokenizer and all nested ones."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for inner in part.values():
            yield from _kinds(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _kinds(inner)


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each of the 256 bytes. Printable Latin-1 characters represent themselves, other
    bytes are mapped to characters from U+0100 on.
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in itself else chr(next(others)) for byte in range(256)]

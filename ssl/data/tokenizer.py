"""Text to tokens and back: byte-level BPE, characters, bytes, or a tokenizer that exists; all in `tokenizers`' format.

What is trained here takes any text and gives it back exactly. What a corpus says is text: `<|endoftext|>` typed in a
document is a few characters like any others, and only a prompt can ask for the special token of that name.

A document begins with `bos_token` and ends with `eos_token`, for every objective and method, in training as in use and
in an export: `[CLS] t t t [SEP]`, `<s> t t t </s>`. Where the two are one, it stands between documents once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

import numpy as np

from rlgym.common.atomic_io import JSON_BYTES, read_bounded, read_json, to_json, write_atomic
from rlgym.errors import RequestError
from rlgym.run_folder.folder import Run
from rlgym.ssl.data.cache import staged
from rlgym.ssl.data.pieces import pieces, reading

if TYPE_CHECKING:
    import tokenizers

    from rlgym.ssl.config import BpeTokenizer, CharTokenizer, ExistingTokenizer
    from rlgym.ssl.data.corpus import Corpus
    from rlgym.ssl.data.progress import Report

JINJA_BYTES = 1 << 20
"""Of the largest chat template that is read: the longest have some thousand."""
TOKENIZER, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"

CAUSAL = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
MASKED = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
}
"""Special tokens by their role; the roles bear transformers' names."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
USUAL = {
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"),
    "pad_token": ("<|pad|>", "<pad>", "[PAD]"),
    "mask_token": ("[MASK]", "<mask>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("[UNK]", "<unk>"),
}
"""What a role's token is called where a folder has a tokenizer.json alone, which does not say."""

WINDOW = 1 << 16  # bytes of text that a training sample takes at a time
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # each a word, as in BERT


class Tokenizer:
    """A backend of `tokenizers`, which of its tokens play a role, and how a model's chats are written."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        roles: Mapping[str, str],
        stops: Iterable[int] = (),
        chat_template: str | None = None,
    ) -> None:
        """`roles`: transformers' name of a role -> the token; pad_token and eos_token at least. `stops`: tokens that
        end what a model writes, other than eos_token. `chat_template`: in Jinja, as transformers takes it."""
        backend.no_truncation()  # an existing one may cut every text at some length
        backend.no_padding()
        backend.encode_special_tokens = True  # special tokens typed in a text are text
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
        """Whether a text that is read alone has its end behind it, as encoders see it."""
        added = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self.special_ids: list[int] = sorted(added | {i for i in ids.values() if i is not None})
        self.stop_ids = [eos, *sorted({i for i in stops if i in self.special_ids} - {eos})]
        """Tokens that end what a model writes, the end of text first. Ordinary tokens never do."""
        self.chat_template = chat_template

    # ---- text to tokens and back

    def encode(self, text: str) -> list[int]:
        """Plain text: no special token comes out, whatever the text says."""
        ids = _ids(self.backend, text)
        if self.characters is not None:
            self.check(text)
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Text in which `[MASK]`, `<|endoftext|>` and other special tokens mean themselves."""
        ids = _ids(self._prompting, text)
        if self.characters is not None:
            specials = "|".join(re.escape(token) for token in self._special_tokens())
            self.check(re.sub(specials, "", text))
        return ids

    def begin(self, text: str) -> list[int]:
        """The tokens of a document that begins with this text."""
        return [self.bos_id, *self.encode(text)]

    def alone(self, text: str, longest: int | None = None) -> list[int]:
        """The tokens of a text that is read alone, at most `longest`: for an encoder, the end of text behind it."""
        end = [self.eos_id] * self.closes
        return self.begin(text)[: None if longest is None else longest - len(end)] + end

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    @cached_property
    def _prompting(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer as Backend

        return Backend.from_str(self.backend.to_str())  # a copy of its own: the setting is no part of what is saved

    def _special_tokens(self) -> list[str]:
        return [token for token in map(self.backend.id_to_token, self.special_ids) if token is not None]

    @cached_property
    def characters(self) -> frozenset[str] | None:
        """All it can spell, for a character tokenizer without bytes to fall back on; None for one that takes any text.

        The backend leaves out unknown characters without a word, so that who encodes has to ask.
        """
        model = self._description["model"]
        if model["type"] != "BPE" or model["merges"] or model["byte_fallback"] or model["unk_token"] is not None:
            return None
        if self._description["pre_tokenizer"] is not None:
            return None
        return frozenset(token for token in model["vocab"] if len(token) == 1)

    def check(self, text: str) -> None:
        """RequestError that names the first character it cannot spell."""
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
        """UTF-8 bytes of the text that each token stands for, int64 `[vocab]`; 0 for special tokens.

        Where tokens hold all of a text (byte-level, characters, bytes, metaspace) they add up to its bytes; a WordPiece
        vocabulary leaves the spaces out.
        """
        return np.array([len(surface) for surface in self._surfaces], dtype=np.int64)

    @cached_property
    def starts_word(self) -> np.ndarray:
        """Whether each token begins a new word, bool `[vocab]`; one that goes on a word is False.

        A word is a run of letters, digits and marks with what single thing stands before it, as ` word` in GPT-2's
        tokens; in WordPiece what does not begin with `##`. Special tokens begin one.
        """
        prefix = self._continuing_prefix
        if prefix:
            tokens = (self.backend.id_to_token(i) or "" for i in range(self.vocab_size))
            return np.array([not token.startswith(prefix) for token in tokens])
        return np.array([not surface or _begins_word(surface) for surface in self._surfaces])

    @cached_property
    def _surfaces(self) -> list[bytes]:
        """The bytes that each token stands for; none for special tokens and numbers without a token."""
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
        """Function from a token's name in the vocabulary to the bytes it stands for."""
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
        """SHA-256 of tokenizer.json's content and of the roles, whatever the order and spacing they are written in."""
        content = json.dumps([self._description, self.roles], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def vocabulary(self) -> str:
        """SHA-256 of the tokens and their numbers: what a model's embedding is made for."""
        tokens = self.backend.get_vocab(with_added_tokens=True)
        return hashlib.sha256(json.dumps(sorted(tokens.items(), key=lambda item: item[1])).encode()).hexdigest()

    def framed(self, answers: bool = False) -> Tokenizer:
        """One by which transformers begins and ends each text as training did, for an export. `answers`: a text is a
        prompt and its answer (a pair), and the end stands behind them."""
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
        """What transformers' generation_config.json says of tokens."""
        stops: int | list[int] = self.stop_ids if len(self.stop_ids) > 1 else self.eos_id
        return {"bos_token_id": self.bos_id, "eos_token_id": stops, "pad_token_id": self.pad_id}

    def save(self, folder: Path, max_length: int | None = None) -> None:
        """Write what `AutoTokenizer` loads; `max_length`: tokens of the model's context."""
        # Without the inputs' names transformers adds token_type_ids, which GPT-2 takes for tokens and Llama refuses.
        # The class is the plain one: those named after a model build a tokenizer of their own from the vocabulary.
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
        """One that was saved. RequestError when the folder holds none, or one without the roles that are needed."""
        found = _read(folder)
        try:
            return Tokenizer(found.backend, found.roles, found.stops, found.chat_template)
        except ValueError as error:
            raise RequestError(f"{folder / SETTINGS}: {error}") from None

    @staticmethod
    def of_run(run: Path) -> Tokenizer:
        """A run's own. RequestError when it is not the one that the run's model has learnt with; without a manifest
        there is nothing to compare with."""
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
    except TypeError:  # what Python makes of an argument that is not UTF-8
        raise RequestError(
            f"{text[:60]!r} holds half of a surrogate pair, which is no text; give it as UTF-8"
        ) from None
    return ids


def _begins_word(surface: bytes) -> bool:
    for size in range(1, 5):
        with suppress(UnicodeDecodeError):
            character = surface[:size].decode()
            return category(character)[0] not in "LNM" or bool(IDEOGRAPH.match(character))
    return False  # begins within a character, or holds but a part of one


def _kinds(part: Any) -> Iterator[str]:
    """The types of a decoder or pre-tokenizer and of all within it."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for inner in part.values():
            yield from _kinds(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _kinds(inner)


def byte_alphabet() -> list[str]:
    """GPT-2's visible character for each of the 256 bytes, in the bytes' order.

    Printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on.
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in itself else chr(next(others)) for byte in range(256)]


# ---- building


def build_tokenizer(config: Any, corpus: Corpus, causal: bool, report: Report) -> Tokenizer:
    """The tokenizer that `config` (a *Tokenizer of ssl/config.py) names; one that learns sees the training documents.

    What was learnt is kept beside the corpora and reused for the same text and knobs.
    """
    if config.name == "existing":
        return existing(config, causal)
    roles = CAUSAL if causal else MASKED
    if config.name == "byte":
        return Tokenizer(_byte_backend(roles), roles)
    folder = corpus.folder.parent.parent / "tokenizers" / _key(config, corpus, roles)
    if not folder.is_dir():
        backend = (
            _bpe_backend(config, corpus, roles, report)
            if config.name == "bpe"
            else _char_backend(config, corpus, roles, report)
        )
        with staged(folder) as work:
            Tokenizer(backend, roles).save(work)
    return Tokenizer.load(folder)


def _key(config: Any, corpus: Corpus, roles: Mapping[str, str]) -> str:
    from tokenizers import __version__

    content = json.dumps([asdict(config), corpus.fingerprint, roles, __version__], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def _finish(backend: tokenizers.Tokenizer, roles: Mapping[str, str]) -> tokenizers.Tokenizer:
    """Declare the special tokens; a masked model's texts stand between [CLS] and [SEP] when transformers encodes."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _unique(roles)])
    if "mask_token" in roles:
        ends = [(roles[role], backend.token_to_id(roles[role])) for role in ("cls_token", "sep_token")]
        (cls, _), (sep, _) = ends
        backend.post_processor = TemplateProcessing(
            single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=ends
        )
    return backend


def _unique(roles: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(roles.values()))


def _byte_backend(roles: Mapping[str, str]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate([*_unique(roles), *byte_alphabet()])}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _finish(backend, roles)


def _char_backend(
    config: CharTokenizer, corpus: Corpus, roles: Mapping[str, str], report: Report
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    characters: set[str] = set()
    for text in training_text(corpus, None, "collecting characters", report):
        characters.update(text)
    tokens = [*_unique(roles), *sorted(characters)]
    if config.byte_fallback:
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=vocab, merges=[], byte_fallback=config.byte_fallback))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finish(backend, roles)


def _bpe_backend(
    config: BpeTokenizer, corpus: Corpus, roles: Mapping[str, str], report: Report
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_unique(roles),
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    text = training_text(corpus, config.training_bytes, "training the tokenizer", report)
    backend.train_from_iterator(text, trainer)
    return _finish(backend, roles)


def training_text(corpus: Corpus, at_most: int | None, what: str, report: Report) -> Iterator[str]:
    """The training documents' text in pieces of at most 64 KB, no piece of two documents.

    Beyond `at_most` bytes, windows of 64 KB evenly spread over the text stand for the whole.
    """
    begins, ends = corpus.starts[:-1][~corpus.held_out], corpus.starts[1:][~corpus.held_out]
    before = np.concatenate([[0], np.cumsum(ends - begins)])  # bytes of training text before each document
    total = int(before[-1])
    windows = [(0, total)]
    if at_most is not None and total > at_most:
        size = min(WINDOW, at_most)
        count = at_most // size
        windows = [(low, low + size) for low in (i * (total - size) // max(1, count - 1) for i in range(count))]
    told, done = sum(high - low for low, high in windows), 0
    report(what, 0, told)
    with reading(corpus.text) as read:
        for low, high in windows:
            document = int(np.searchsorted(before, low, side="right")) - 1
            while low < high:
                end = min(high, int(before[document + 1]))
                shift = int(begins[document]) - int(before[document])
                for text in pieces(read, *_whole_characters(corpus.text, low + shift, end + shift), WINDOW):
                    yield text
                    done += len(text)
                    report(what, min(done, told), told)
                low = end
                document += 1


def _whole_characters(text: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """low and high, each moved on to the next first byte of a character (or the end): windows cut where they like."""
    low, high = (
        next((at for at in range(edge, min(edge + 4, len(text))) if text[at] & 0xC0 != 0x80), edge)
        for edge in (low, high)
    )
    return low, high


# ---- one that exists


def existing(config: ExistingTokenizer, causal: bool) -> Tokenizer:
    """A folder with a tokenizer.json, a run's, or one from the hub; refused without the special tokens it needs."""
    if not config.path:
        raise RequestError(
            "tokenizer.path is empty: name a folder with a tokenizer.json, a run folder or a tokenizer on the hub"
        )
    path = Path(config.path).expanduser()
    if path.name == TOKENIZER and path.is_file():
        path = path.parent
    folders = [folder for folder in (path, path / "tokenizer") if (folder / TOKENIZER).is_file()]
    if folders:
        found = _read(folders[0])
    elif path.exists():
        raise RequestError(f"tokenizer.path={config.path}: no {TOKENIZER} in it, nor in a folder tokenizer/ below it")
    else:
        found = _from_hub(config)
    roles = _needed(config, found, causal)
    return Tokenizer(found.backend, roles, found.stops if causal else (), found.chat_template)


def _needed(config: ExistingTokenizer, found: _Found, causal: bool) -> dict[str, str]:
    """The roles as the objective uses them: bos_token and eos_token are what a document begins and ends with."""
    place, roles = f"tokenizer.path={config.path}", dict(found.roles)
    if causal:
        if "eos_token" not in roles:
            raise RequestError(f"{place}: has no end-of-text token, which objective=next_token needs")
        roles = {role: token for role, token in roles.items() if role not in ("mask_token", "cls_token", "sep_token")}
        roles["bos_token"] = _first_token(place, found)
    else:
        if "mask_token" not in roles:
            raise RequestError(f"{place}: has no mask token, which objective=masked needs")
        for role, instead in (("cls_token", "bos_token"), ("sep_token", "eos_token")):
            if role not in roles and instead in roles:
                roles[role] = roles[instead]
            if role not in roles:
                raise RequestError(f"{place}: has no {role.removesuffix('_token')} token, which objective=masked needs")
        roles["bos_token"], roles["eos_token"] = roles["cls_token"], roles["sep_token"]
    if roles.get("pad_token") in (None, roles["eos_token"]):
        # Padding that is the end of a text would take that end out of every loss.
        roles["pad_token"] = CAUSAL["pad_token"]
        found.backend.add_special_tokens([CAUSAL["pad_token"]])
    return roles


def _first_token(place: str, found: _Found) -> str:
    """What a decoder's documents begin with: the token that its tokenizer puts before a text, or its bos_token where
    its chats begin with that; of one that puts nothing there the end of text, behind which documents stand."""
    backend, roles = found.backend, found.roles
    backend.no_truncation()
    backend.no_padding()
    plain, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    before = whole[: next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)]
    if len(before) > 1:
        shown = " ".join(str(backend.id_to_token(i)) for i in before)
        raise RequestError(
            f"{place}: its texts begin with several tokens ({shown}), which is not supported: one would do"
        )
    if before:
        return str(backend.id_to_token(before[0]))
    begins = found.adds_bos or "bos_token" in (found.chat_template or "")
    return roles["bos_token"] if begins and "bos_token" in roles else roles["eos_token"]


@dataclass
class _Found:
    """What the files of a tokenizer say."""

    backend: tokenizers.Tokenizer
    roles: dict[str, str]
    """As settings name them, or as tokens of the usual names play them."""
    stops: list[int]
    chat_template: str | None
    adds_bos: bool


def _read(folder: Path) -> _Found:
    from tokenizers import Tokenizer as Backend

    file = folder / TOKENIZER
    try:
        backend = Backend.from_str(read_bounded(file, JSON_BYTES).decode())
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())
        raise RequestError(f"{file}: is no tokenizer that `tokenizers` reads ({reason})") from None
    first, second = (_settings(folder / name) for name in ("special_tokens_map.json", SETTINGS))
    named = {role: token for role in ROLES if (token := second.get(role) or first.get(role))}
    generation = _settings(folder / GENERATION) or _settings(folder / "config.json")  # as transformers takes them
    jinja = folder / "chat_template.jinja"
    chat = _jinja(jinja) if jinja.is_file() else _default(second.get("chat_template"))
    stops = _numbers(generation.get("eos_token_id"))
    return _Found(backend, _present(backend, named), stops, chat, second.get("add_bos_token") is True)


def _settings(path: Path) -> dict[str, Any]:
    """Of a JSON file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: is not what a tokenizer's settings are, JSON ({error})") from None


def _jinja(path: Path) -> str:
    try:
        return read_bounded(path, JINJA_BYTES).decode()
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: is no chat template ({error})") from None


def _default(template: object) -> str | None:
    """A chat template, or of several by name the default one."""
    if isinstance(template, list):
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _numbers(value: object) -> list[int]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]


def _present(backend: tokenizers.Tokenizer, named: Mapping[str, Any]) -> dict[str, str]:
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


def _from_hub(config: ExistingTokenizer) -> _Found:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(config.path, revision=config.revision or None, trust_remote_code=False)
        backend = found.backend_tokenizer
    except Exception as error:  # whatever the hub, the network and many kinds of file raise
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"tokenizer.path={config.path}: no such folder, and the hub does not give it ({reason})"
        ) from None
    named = {role: str(token) for role in ROLES if (token := getattr(found, role, None)) is not None}
    return _Found(backend, _present(backend, named), [], _default(found.chat_template), False)

"""Tokenizers: exact round trips, text that stays text, what others load, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from rlgym.errors import RequestError
from rlgym.ssl.config import BpeTokenizer, ByteTokenizer, CharTokenizer, ExistingTokenizer
from rlgym.ssl.data.build_tokenizer import build_tokenizer, training_text
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.tokenizer import Tokenizer, byte_alphabet
from tests.ssl.small_corpus import CODE, corpus_of

LEARNT = (BpeTokenizer(vocab_size=400), CharTokenizer(), ByteTokenizer())
NAMES = [config.name for config in LEARNT]

HARD = [
    "",
    " ",
    "\n",
    "  two  spaces  ",
    "line\r\nline\r\rline\n\n\n\ttab\x0b\x0c\x00\x01\x1b\x7f\x85",
    "e\u0301 a\u0308\u0323 \u0915\u094d\u0937\u093f \u05e9\u05c1\u05b8",  # combining marks
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🙂",
    "\ufeff\u200b\u202e\u2028\u2029\ufffd\ufffe\uffff\U0010ffff",
    "<|endoftext|><|pad|>[PAD][CLS] [SEP]\n[MASK]<0x41><0xFF>▁Ġ##ing",
    "I'll don't it's we've 'S 12345 3.14e-10",
    "東京都 Ελληνικά עברית العربية ไทย",
]


def build(tmp_path: Path, config: Any, causal: bool = True, documents: tuple[str, ...] = (CODE * 4, "held out")) -> Any:
    return build_tokenizer(config, corpus_of(tmp_path, documents), causal, silent)


# ---- text to tokens and back


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
@pytest.mark.parametrize("config", LEARNT, ids=NAMES)
def test_round_trip_is_exact_and_text_stays_text(tmp_path: Path, config: Any, causal: bool) -> None:
    tokenizer = build(tmp_path, config, causal)
    special = set(tokenizer.special_ids)
    for text in [*HARD, CODE, "".join(HARD)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special=False) == text
        assert not special & set(ids)
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("config", LEARNT, ids=NAMES)
def test_every_character_of_unicode_comes_back(tmp_path: Path, config: Any) -> None:
    tokenizer = build(tmp_path, config)
    codes = [*range(0xD800), *range(0xE000, 0x30000), *range(0x30000, 0x110000, 13)]
    characters = [chr(code) for code in codes]
    for at in range(0, len(characters), 100_000):
        text = "".join(characters[at : at + 100_000])
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
@pytest.mark.parametrize("config", [*LEARNT, CharTokenizer(byte_fallback=False)], ids=[*NAMES, "closed"])
def test_only_a_prompt_can_ask_for_special_tokens(tmp_path: Path, config: Any, causal: bool) -> None:
    tokenizer = build(tmp_path, config, causal, ("a b<|endoftext|>[MASK] ", "held out"))
    word, wanted = ("<|endoftext|>", tokenizer.eos_id) if causal else ("[MASK]", tokenizer.mask_id)
    text = f"a {word} b"
    assert wanted not in tokenizer.encode(text)
    asked = tokenizer.encode_prompt(text)
    assert asked == [*tokenizer.encode("a "), wanted, *tokenizer.encode(" b")]
    assert tokenizer.decode(asked) == "a  b" and tokenizer.decode(asked, skip_special=False) == text
    assert wanted not in tokenizer.encode(text), "asking changed what plain text means"


def test_special_tokens_by_objective(tmp_path: Path) -> None:
    causal, masked = (build(tmp_path, ByteTokenizer(), kind) for kind in (True, False))
    assert (causal.vocab_size, masked.vocab_size) == (258, 260)
    assert causal.backend.id_to_token(causal.eos_id) == "<|endoftext|>" and causal.pad_id != causal.eos_id
    assert causal.special_ids == sorted([causal.eos_id, causal.pad_id])
    assert (causal.mask_id, causal.cls_id, causal.sep_id) == (None, None, None)
    names = [masked.backend.id_to_token(i) for i in (masked.pad_id, masked.cls_id, masked.sep_id, masked.mask_id)]
    assert names == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"] and masked.eos_id == masked.sep_id
    assert not causal.token_bytes[causal.special_ids].any() and causal.token_bytes.sum() == 256


def test_bytes_are_the_bytes(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, ByteTokenizer())
    text = "aß🙂\x00"
    assert tokenizer.encode(text) == [2 + byte for byte in text.encode()]
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_characters_are_those_of_the_training_text(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, CharTokenizer(), documents=("hello", "wörld"))
    assert tokenizer.vocab_size == 2 + len(set("hello")) + 256
    assert [tokenizer.backend.id_to_token(i) for i in tokenizer.encode("holö")] == ["h", "o", "l", "<0xC3>", "<0xB6>"]


def test_characters_without_bytes_refuse_what_they_lack(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, CharTokenizer(byte_fallback=False), documents=("hello", "world"))
    assert tokenizer.vocab_size == 2 + len(set("hello")) and tokenizer.decode(tokenizer.encode("hole")) == "hole"
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        with pytest.raises(RequestError, match=r"'ß' \(U\+00DF\).*tokenizer.byte_fallback=true") as error:
            encode("heßlo w")
        assert "\n" not in str(error.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, ByteTokenizer())
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        with pytest.raises(RequestError, match="surrogate"):
            encode("caf\udce9")


# ---- learning


def test_bpe_learns_from_training_documents_alone(tmp_path: Path) -> None:
    documents = ("quartz " * 50 + CODE, "zephyr " * 50)
    tokenizer = build(tmp_path, BpeTokenizer(vocab_size=500), documents=documents)
    vocab = tokenizer.backend.get_vocab()
    assert "Ġquartz" in vocab and "Ġzephyr" not in vocab
    assert set(byte_alphabet()) <= set(vocab)
    assert tokenizer.vocab_size <= 500


def test_bpe_reaches_its_size_and_is_reproducible(tmp_path: Path) -> None:
    config = BpeTokenizer(vocab_size=300)
    first, second = (build(tmp_path / name, config, documents=(CODE * 4, "x")) for name in "ab")
    assert first.vocab_size == 300 and first.fingerprint == second.fingerprint
    assert (
        first.fingerprint != build(tmp_path / "a", BpeTokenizer(vocab_size=301), documents=(CODE * 4, "x")).fingerprint
    )


def test_special_tokens_typed_in_the_corpus_are_not_learnt_whole(tmp_path: Path) -> None:
    config = BpeTokenizer(vocab_size=400)
    tokenizer = build(tmp_path, config, documents=("<|endoftext|>" * 200 + CODE, "x"))
    ids = tokenizer.encode("<|endoftext|>")
    assert len(ids) > 1 and tokenizer.eos_id not in ids and tokenizer.decode(ids) == "<|endoftext|>"


def test_training_text_is_all_of_it_or_evenly_spread(tmp_path: Path) -> None:
    documents = [f"{i:03d} äöü🙂 " * 40 for i in range(300)]
    corpus = corpus_of(tmp_path, documents, held_out=[7, 8])
    train = [document for i, document in enumerate(documents) if i not in (7, 8)]
    told: list[tuple[int, int]] = []
    whole = training_text(corpus, None, "x", lambda what, done, total: told.append((done, total)))
    assert "".join(whole) == "".join(train)
    assert told[0][0] == 0 and all(done <= total for done, total in told)

    for at_most in (1, 50, 20_000, 100_000):
        sample = list(training_text(corpus, at_most, "x", silent))
        assert sum(len(text.encode()) for text in sample) <= at_most + 4 * len(sample)
    seen = {text[:3] for text in sample}
    assert not {"007", "008"} & seen
    long = corpus_of(tmp_path, ["".join(f"{i:07d} " for i in range(200_000)), "x"])  # one document of 1.6 MB
    numbers = [int(word) for text in training_text(long, 1 << 18, "x", silent) for word in text.split()[1:-1]]
    found = np.histogram(numbers, bins=4, range=(0, 200_000))[0]
    assert found.min() > 0.9 * found.max(), "windows at the beginning, at two thirds and at the end"


def test_learnt_ones_are_reused_for_the_same_text_and_knobs(tmp_path: Path) -> None:
    def told() -> Iterator[str]:
        whats: list[str] = []
        for config in (BpeTokenizer(vocab_size=300), CharTokenizer()):
            build_tokenizer(config, corpus, True, lambda what, done, total: whats.append(what))
        yield from whats

    corpus = corpus_of(tmp_path, [CODE, "x"])
    assert set(told()) == {"training the tokenizer", "collecting characters"}
    assert not list(told())
    corpus = corpus_of(tmp_path, [CODE + "more", "x"])
    assert list(told())


def test_an_interrupted_training_leaves_nothing(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [CODE, "x"])

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for config in (BpeTokenizer(vocab_size=300), CharTokenizer()):
        with pytest.raises(KeyboardInterrupt):
            build_tokenizer(config, corpus, True, interrupt)
    assert not list((tmp_path / "tokenizers").glob("*"))


# ---- words


def test_words_of_byte_level_tokens_are_those_of_the_pattern(tmp_path: Path) -> None:
    """Against the pre-tokenizer's own cut, on prose: where a word begins, and nowhere else, a token begins one."""
    text = " the quick brown fox, 12 naïve jumps (over) it"
    tokenizer = build(tmp_path, BpeTokenizer(vocab_size=300), documents=(text * 3, "x"))
    backend = tokenizer.backend
    ids = tokenizer.encode(text)
    cuts = [begin for _, (begin, _) in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)]
    offsets = np.cumsum([0, *tokenizer.token_bytes[ids]])[:-1]  # in bytes; the text's only longer character:
    begins = [int(at) - (at > text.encode().index("ï".encode())) for at in offsets[tokenizer.starts_word[ids]]]
    inside_brackets = text.index("over")  # a word right behind a bracket is one with it
    assert begins == [cut for cut in cuts if cut != inside_brackets]
    assert tokenizer.starts_word[tokenizer.special_ids].all() and backend.get_vocab_size() == len(tokenizer.starts_word)


@pytest.mark.parametrize("config", [CharTokenizer(), ByteTokenizer()], ids=["char", "byte"])
def test_words_of_characters(tmp_path: Path, config: Any) -> None:
    tokenizer = build(tmp_path, config, documents=("ab c,d1", "x"))
    ids = tokenizer.encode("ab c,d1")
    assert tokenizer.starts_word[ids].tolist() == [False, False, True, False, True, False, False]


def test_each_ideograph_is_a_word(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, CharTokenizer(), documents=("東京abñ", "x"))
    assert tokenizer.starts_word[tokenizer.encode("東京abñ")].tolist() == [True, True, False, False, False]


# ---- on the disk


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
@pytest.mark.parametrize("config", [*LEARNT, CharTokenizer(byte_fallback=False)], ids=[*NAMES, "closed"])
def test_saved_ones_load_as_they_were(tmp_path: Path, config: Any, causal: bool) -> None:
    tokenizer = build(tmp_path, config, causal)
    tokenizer.save(tmp_path / "saved", 64)
    again = Tokenizer.load(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint and again.special_ids == tokenizer.special_ids
    assert again.characters == tokenizer.characters
    for name in ("eos_id", "pad_id", "mask_id", "cls_id", "sep_id", "vocab_size"):
        assert getattr(again, name) == getattr(tokenizer, name)
    text = CODE + ("" if again.characters else "[MASK]<|endoftext|> ∮")
    assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("model_type", ["", "gpt2", "llama", "qwen3", "bert", "modernbert"])
def test_transformers_loads_the_same_tokenizer(tmp_path: Path, model_type: str) -> None:
    """Beside a model of each family too: transformers has tokenizers of its own for these, which are not to be used."""
    from transformers import AutoConfig, AutoTokenizer

    causal = "bert" not in model_type
    for config in LEARNT:
        ours = build(tmp_path, config, causal)
        folder = tmp_path / config.name
        ours.save(folder, 77)
        if model_type:
            AutoConfig.for_model(model_type).save_pretrained(folder)
        theirs = AutoTokenizer.from_pretrained(folder)
        assert theirs.model_max_length == 77
        assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
        assert (theirs.mask_token_id, theirs.cls_token_id, theirs.sep_token_id) == (
            ours.mask_id,
            ours.cls_id,
            ours.sep_id,
        )
        assert theirs.bos_token_id == (ours.eos_id if causal else ours.cls_id)
        assert sorted(theirs.all_special_ids) == ours.special_ids
        assert len(theirs) == ours.vocab_size
        for text in [text for text in HARD if "<|" not in text] + [CODE, "a , b . c 's"]:
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert ids == ours.encode(text), (config.name, text)
            assert theirs.decode(ids) == text, (config.name, text)
        word = "<|endoftext|>" if causal else "[MASK]"
        assert theirs(f"a {word} b", add_special_tokens=False)["input_ids"] == ours.encode_prompt(f"a {word} b")
        framed = theirs("ab")
        assert set(framed) == {"input_ids", "attention_mask"}
        inside = ours.encode("ab")
        assert framed["input_ids"] == (inside if causal else [ours.cls_id, *inside, ours.sep_id])


def test_the_fingerprint_is_of_the_content_not_of_its_spelling(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, BpeTokenizer(vocab_size=300))
    tokenizer.save(tmp_path / "saved")
    file = tmp_path / "saved" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    file.write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    content["model"]["merges"].pop()
    file.write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path / "saved").fingerprint != tokenizer.fingerprint


# ---- existing ones


def wordpiece(folder: Path) -> Path:
    """As BERT's, with a truncation that would cut every text."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "wor", "##ld", "##s", ",", "[", "]", "mask"]
    backend = Backend(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(words[:5])
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    return folder


def use(path: Path | str, causal: bool, tmp_path: Path) -> Any:
    return build(tmp_path, ExistingTokenizer(path=str(path)), causal)


def test_an_existing_wordpiece(tmp_path: Path) -> None:
    tokenizer = use(wordpiece(tmp_path / "bert"), False, tmp_path)
    ids = tokenizer.encode("Hello, worlds [MASK] hello")
    names = [tokenizer.backend.id_to_token(i) for i in ids]
    assert names == ["hello", ",", "wor", "##ld", "##s", "[", "mask", "]", "hello"], "cut, padded or special"
    assert tokenizer.starts_word[ids].tolist() == [True, True, True, False, False, True, True, True, True]
    assert tokenizer.token_bytes[ids].tolist() == [5, 1, 3, 2, 1, 1, 4, 1, 5]
    assert [tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id] == [2, 3, 4, 0]
    assert tokenizer.special_ids == [0, 1, 2, 3, 4]


def test_an_existing_one_from_a_run_a_folder_or_a_file(tmp_path: Path) -> None:
    trained = build(tmp_path, BpeTokenizer(vocab_size=300))
    trained.save(tmp_path / "run" / "tokenizer")
    for path in ("run", "run/tokenizer", "run/tokenizer/tokenizer.json"):
        again = use(tmp_path / path, True, tmp_path)
        assert again.encode(CODE) == trained.encode(CODE) and again.fingerprint == trained.fingerprint


def test_an_existing_one_as_transformers_saves_it(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    trained = build(tmp_path, BpeTokenizer(vocab_size=300))
    fast: Any = PreTrainedTokenizerFast
    theirs = fast(tokenizer_object=trained.backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    theirs.save_pretrained(tmp_path / "theirs")
    causal = use(tmp_path / "theirs", True, tmp_path)
    assert causal.eos_id == trained.eos_id
    assert causal.pad_id != causal.eos_id, "padding that is the end would never be learnt"
    assert causal.encode(CODE) == trained.encode(CODE)


def test_an_existing_sentencepiece_with_metaspace_and_bytes(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab", "ab"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Backend(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # as in Llama 2
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    (tmp_path / "llama").mkdir()
    backend.save(str(tmp_path / "llama" / "tokenizer.json"))
    tokenizer = use(tmp_path / "llama", True, tmp_path)
    ids = tokenizer.encode("ab aß")
    assert tokenizer.token_bytes[ids].sum() == len("ab aß".encode()) and tokenizer.decode(ids) == "ab aß"
    assert tokenizer.starts_word[ids].tolist() == [False, True, False, False]
    assert tokenizer.roles["bos_token"] == "</s>", "what a document begins with is what it was trained with"
    assert tokenizer.backend.id_to_token(tokenizer.pad_id) == "<|pad|>"


def test_an_existing_one_without_what_the_objective_needs(tmp_path: Path) -> None:
    build(tmp_path, ByteTokenizer(), causal=True).save(tmp_path / "causal")
    cases: list[tuple[Path | str, bool, str]] = [
        (tmp_path / "causal", False, "tokenizer.path=.*causal.*no mask token.*objective=masked"),
        (wordpiece(tmp_path / "bert"), True, "tokenizer.path=.*bert.*no end-of-text token.*objective=next_token"),
        ("", True, "tokenizer.path is empty"),
        (tmp_path, True, "no tokenizer.json"),
        ("no/such-tokenizer", True, "tokenizer.path=no/such-tokenizer: no such folder, and the hub does not"),
    ]
    for path, causal, message in cases:
        with pytest.raises(RequestError, match=message) as error:
            use(path, causal, tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '{"model": {"type": "BPE"}}', "\x00"])
def test_a_broken_existing_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text(content)
    with pytest.raises(RequestError, match="broken/tokenizer.json: is not a tokenizer") as error:
        use(tmp_path / "broken", True, tmp_path)
    assert "\n" not in str(error.value)


def test_broken_settings(tmp_path: Path) -> None:
    build(tmp_path, ByteTokenizer()).save(tmp_path / "saved")
    for content in ("{", "[1]"):
        (tmp_path / "saved" / "tokenizer_config.json").write_text(content)
        with pytest.raises(RequestError, match=r"saved/tokenizer_config.json: .*JSON"):
            use(tmp_path / "saved", True, tmp_path)


def test_no_heavy_import(tmp_path: Path) -> None:
    """What the usual command needs of this room imports neither transformers nor datasets."""
    code = (
        "import sys; from rlgym.ssl.config import BpeTokenizer; import rlgym.ssl.data.prepare;"
        "from rlgym.ssl.data.tokenizer import Tokenizer; Tokenizer.load(__import__('pathlib').Path(sys.argv[1]));"
        "print([name for name in ('transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    build(tmp_path, ByteTokenizer()).save(tmp_path / "saved")
    run = [sys.executable, "-c", code, str(tmp_path / "saved")]
    assert subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ).stdout.strip() == "[]"

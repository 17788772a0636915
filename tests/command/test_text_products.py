"""What a finished language model is good for: generate, fill, evaluate and export, as a person types them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rlgym
from rlgym.ssl.inference.language_model import LanguageModel
from tests.command.conftest import Answer
from tests.ssl import tiny

pytestmark = pytest.mark.usefixtures("cache")

OTHERS = ["model=transformers", "model.block_size=32", "+model.config.num_hidden_layers=1"]
INSIDE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
THEIRS = [*OTHERS, *(f"+model.config.{key}={value}" for key, value in INSIDE.items())]
BERT = ["objective=masked", "model=bert_nano", "tokenizer=bpe", "tokenizer.vocab_size=320"]
KINDS: dict[str, list[str]] = {
    "gpt2": ["model=gpt_nano", "ema_decay=0.9"],
    "qwen3": ["model=qwen_nano", "tokenizer=bpe", "tokenizer.vocab_size=300", "model.num_key_value_heads=1"],
    "llama": ["model=llama_nano", "tokenizer=char", "model.tie_word_embeddings=false"],
    "bert": BERT,
    "modernbert": ["objective=masked", "model=modernbert_nano", "model.num_hidden_layers=2", "model.local_attention=8"],
    "gpt_neox": [*THEIRS, "model.model_type=gpt_neox", "data.packing=stream"],
    "roberta": [*THEIRS, "model.model_type=roberta", "objective=masked"],
}
CAUSAL = ("gpt2", "qwen3", "llama", "gpt_neox")
TIED = ("gpt2", "qwen3", "bert", "modernbert", "roberta")


@dataclass
class Runs:
    """A finished run of each kind, made when it is first asked for."""

    text: Path
    folder: Path

    def __getitem__(self, kind: str) -> Path:
        run = self.folder / kind
        if not run.exists():
            own = [word for word in tiny.words(self.text) if not (kind in INSIDE_THEIRS and word in tiny.SHAPE)]
            words = tiny.latest(*own, "tokens=4096", "evaluate.every=2048", *KINDS[kind])
            rlgym.pretrain(*words, f"run.dir='{run}'")
        return run


INSIDE_THEIRS = ("gpt_neox", "roberta")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Runs:
    return Runs(text, tmp_path_factory.mktemp("runs"))


# ---- generate


def printed(answer: Answer) -> str:
    assert (answer.code, answer.err) == (0, "")
    return answer.out


def test_the_same_seed_gives_the_same_text(runs: Runs, command: Callable[..., Answer]) -> None:
    run = str(runs["qwen3"])

    def generated(*words: str) -> str:
        return printed(command("generate", run, "prompt=the tree", "tokens=30", *words))

    assert generated("seed=1") == generated("seed=1") != generated("seed=2")
    assert len({generated() for _ in range(3)}) == 3, "without one: another each time"
    assert generated("seed=1", "checkpoint=2048") != generated("seed=1", "checkpoint=4096")


def test_samples_are_one_batch_of_different_texts(runs: Runs, command: Callable[..., Answer]) -> None:
    out = printed(command("generate", str(runs["gpt2"]), "prompt=the ", "samples=3", "tokens=20", "seed=1"))
    assert [line for line in out.splitlines() if line.startswith("---")] == ["--- 1", "--- 2", "--- 3"]
    texts = [part.split("\n", 1)[1] for part in out.split("--- ")[1:]]
    assert len(set(texts)) == 3 and all(part.startswith("the ") for part in texts)


def test_top_k_and_top_p_narrow_the_choice_to_the_likeliest(runs: Runs, command: Callable[..., Answer]) -> None:
    run = str(runs["gpt2"])

    def generated(*words: str) -> str:
        return printed(command("generate", run, "prompt=the ", "tokens=24", *words))

    greedy = generated("temperature=0")
    assert greedy == generated("temperature=0"), "nothing is drawn"
    assert generated("top_k=1") == generated("top_p=1e-6") == generated("temperature=2", "top_k=1") == greedy
    seeded = generated("temperature=1", "seed=3")
    assert seeded != greedy
    assert generated("temperature=1", "seed=3", "top_k=100000") == generated("temperature=1", "seed=3", "top_p=1")
    assert generated("temperature=1", "seed=3", "top_p=1") == seeded, "all of it is no restriction"


def test_greedy_text_is_what_transformers_generates(runs: Runs, text: Path) -> None:
    """Beyond the block as well, where the context slides: up to there the two must agree token by token."""
    import transformers

    make: Any = transformers.GenerationConfig
    for kind in CAUSAL:
        language, theirs = rlgym.load(runs[kind]), exported(runs[kind])
        ids = [language.tokenizer.eos_id, *language.tokenizer.encode("the tree")]
        room = 32 - len(ids)
        settings = make(max_new_tokens=room, do_sample=False, eos_token_id=language.tokenizer.eos_id, pad_token_id=0)
        found = theirs.generate(torch.tensor([ids]), generation_config=settings)[0].tolist()
        assert found[: len(ids)] == ids and max(found) < language.tokenizer.vocab_size
        expected = language.tokenizer.decode(found)
        assert "the tree" + language.generate("the tree", room, temperature=0)[0] == expected, kind


@pytest.mark.parametrize(
    "prompt",
    [
        "def f(x):\n    return 'a' + \"b\"\n",
        "a = [1, 2], {3: 4}  # $x ${y} \\n %s",
        "  spaces  ",
        "x=1 prompt=2",
        "東京 🙂",
        "null",
        "",
    ],
)
def test_a_prompt_is_taken_as_typed(prompt: str, runs: Runs, command: Callable[..., Answer]) -> None:
    out = printed(command("generate", str(runs["gpt2"]), f"prompt={prompt}", "tokens=5", "seed=1"))
    assert out.startswith(prompt) and out.endswith("\n")
    again = rlgym.load(runs["gpt2"]).generate(prompt, max_new_tokens=5, seed=1)[0]
    assert out == prompt + again + "\n"


def test_a_prompt_longer_than_the_block_and_text_beyond_it(runs: Runs, command: Callable[..., Answer]) -> None:
    prompt = tiny.sentences(4, seed=9)
    for kind in ("gpt2", "llama"):
        out = printed(command("generate", str(runs[kind]), f"prompt={prompt}", "tokens=70", "temperature=0.5"))
        assert out.startswith(prompt) and len(out) > len(prompt)


# ---- fill


def test_fill_guesses_are_transformers_probabilities(runs: Runs, command: Callable[..., Answer]) -> None:
    typed = "the [MASK] sings and the [MASK] falls."
    out = printed(command("fill", str(runs["bert"]), f"text={typed}", "top=3"))
    language: LanguageModel = rlgym.load(runs["bert"])
    guesses = language.fill(typed, top=3)
    assert [len(found) for found in guesses] == [3, 3]
    for number, found in enumerate(guesses, 1):
        shares = [share for _, share in found]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1
        assert f"[MASK] {number}: " + "  ".join(f"{token!r} {share:.1%}" for token, share in found) in out
    whole = typed
    for found in guesses:
        whole = whole.replace("[MASK]", found[0][0], 1)
    assert out.endswith(whole + "\n")

    from transformers import AutoTokenizer

    model, tokenizer = exported(runs["bert"]), AutoTokenizer.from_pretrained(runs["bert"] / "export")
    inputs = tokenizer(typed, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, :, : len(tokenizer)]
    logits[:, tokenizer.all_special_ids] = -torch.inf
    places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten()
    for found, place in zip(guesses, places.tolist(), strict=True):
        best = logits[place].softmax(-1).topk(3)
        assert [token for token, _ in found] == [tokenizer.decode([i]) for i in best.indices.tolist()]
        assert [share for _, share in found] == pytest.approx(best.values.tolist(), rel=1e-4)


WRONG = {
    "bert": {
        "fill": 'fill needs text, as in: fill bert text="the [MASK] of the list"',
        "fill text=plain": "has no [MASK] to fill",
        f"fill text={'long_' * 40}[MASK]": "the model reads 32; shorten it",
        "generate prompt=the": "is a masked model; `fill bert text=...` predicts its [MASK] tokens",
    },
    "gpt2": {
        "fill text=a_[MASK]": "is a next-token model: `generate gpt2 prompt=...` continues a text",
        "generate temperature=-1": "temperature=-1.0: must be >= 0",
        "generate top_p=2": "top_p=2.0: must be <= 1",
        "generate promt=x": "unknown key promt - did you mean prompt?",
        "generate checkpoint=7": "checkpoint=7: ",
        "evaluate data=text": "data.path is empty",
        "evaluate data=txt data.path=x": "data=txt not found - did you mean data=text?",
        "evaluate data=text data.path=nowhere.txt": "data.path=nowhere.txt: no such file or folder",
        "evaluate data.path=x": "data.path needs data=NAME",
        "evaluate data=text data.pth=x": "data.pth",
        "play": "play is for runs of train;",
    },
}


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind in WRONG for words in WRONG[kind]])
def test_a_wrong_request_is_one_line(kind: str, words: str, runs: Runs, command: Callable[..., Answer]) -> None:
    run = runs[kind]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    name, *more = words.split(" ")
    answer = command(name, str(run), *(word.replace("_", " ") if word.startswith("text=") else word for word in more))
    assert (answer.code, answer.out) == (2, ""), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: ") and WRONG[kind][words] in line
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


# ---- evaluate


def evaluated(run: Path, command: Callable[..., Answer], *words: str) -> dict[str, Any]:
    """What `evaluate` writes; the same numbers are printed."""
    before = set((run / "evaluations").iterdir())
    out = printed(command("evaluate", str(run), *words))
    (path,) = set((run / "evaluations").iterdir()) - before
    found: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    assert f"loss {found['loss']:.4g}" in out and f"bits_per_byte {found['bits_per_byte']:.4g}" in out
    assert f"over {found['tokens']:,.0f} tokens, {found['bytes']:,.0f} bytes" in out and str(path) in out
    return found


def bits_per_byte(run: Path, documents: list[str]) -> float:
    """By the exported model: each token from the end of text and all of its document before it, where they fit."""
    from transformers import AutoTokenizer

    model, tokenizer = exported(run), AutoTokenizer.from_pretrained(run / "export")
    bits = 0.0
    for document in documents:
        ids = tokenizer.encode(document, add_special_tokens=False)
        for at, label in enumerate(ids):
            window = at // 32  # blocks of 32, the last one filled up to the left
            end = min(32 * (window + 1), len(ids))
            context = [tokenizer.eos_token_id, *ids][max(0, end - 32) : at + 1]
            with torch.no_grad():
                logits = model(torch.tensor([context])).logits[0, -1]
            bits -= float(logits.double().log_softmax(-1)[label]) / math.log(2)
    return bits / sum(len(document.encode()) for document in documents)


def test_evaluate_on_held_out_and_on_other_text(
    runs: Runs, command: Callable[..., Answer], text: Path, tmp_path: Path
) -> None:
    run = runs["gpt2"]
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(text.iterdir())}
    held = evaluated(run, command)
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert (held["documents"], held["bytes"]) == (data["held_out_documents"], data["held_out_bytes"])
    assert held["tokens"] == held["bytes"], "one token a byte" and held["fingerprint"] == data["fingerprint"]
    assert held["bits_per_byte"] == pytest.approx(held["loss"] / math.log(2)), "of bytes"
    assert evaluated(run, command, "batch_size=1") == pytest.approx(held)

    one = tmp_path / "one.txt"
    one.write_text(files["003.txt"])
    for words in (["data=text", f"data.path={one}"], [f"data={one}"], ["data=one.txt"]):
        found = evaluated(run, command, *words)
        assert (found["documents"], found["bytes"]) == (1, len(files["003.txt"].encode())), (
            "all of it, nothing held out"
        )
        assert found["bits_per_byte"] == pytest.approx(bits_per_byte(run, [files["003.txt"]]), rel=1e-5)
    two = evaluated(run, command, "data=text", f"data.path={text}")
    assert two["documents"] == len(files) and two["bytes"] == data["bytes"]
    some = evaluated(run, command, "data=text", f"data.path={text}", "tokens=100")
    assert some["tokens"] == 100
    random = "".join(chr(33 + 7 * i % 90) for i in range(200))
    one.write_text(random)
    assert evaluated(run, command, f"data={one}")["bits_per_byte"] > two["bits_per_byte"] + 1


def test_evaluate_takes_the_checkpoint_that_is_asked_for(runs: Runs, command: Callable[..., Answer]) -> None:
    first, last = (evaluated(runs["qwen3"], command, f"checkpoint={n}") for n in (2048, 4096))
    assert (
        evaluated(runs["qwen3"], command)["loss"]
        == min(first["loss"], last["loss"])
        != max(first["loss"], last["loss"])
    )


def test_evaluate_a_masked_model(runs: Runs, command: Callable[..., Answer], text: Path, tmp_path: Path) -> None:
    run = runs["bert"]
    held = evaluated(run, command)
    assert held == evaluated(run, command), "the same masks each time"
    assert 0 < held["unigram_accuracy"] < 0.5 and held["perplexity"] == pytest.approx(math.exp(held["loss"]))
    everything = evaluated(run, command, "data=text", f"data.path={text}")
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert everything["tokens"] == pytest.approx(0.3 * sum(data["tokens"].values()), rel=0.15)

    small = tmp_path / "small.txt"  # what a split of it would hold out is less than a block
    small.write_text("\n".join(path.read_text() for path in sorted(text.iterdir())[:3]))
    found = evaluated(run, command, f"data={small}")
    ids = len(rlgym.load(run).tokenizer.encode(small.read_text()))
    assert 0.1 * ids < found["tokens"] < 0.5 * ids
    less = tmp_path / "less.txt"
    less.write_text("the tree sings.")
    answer = command("evaluate", str(run), f"data={less}")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "fewer than one block of 32" in line and "tokens" in line


# ---- export


def exported(run: Path) -> Any:
    """The model as transformers loads it."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if not (run / "export").exists():
        from rlgym.ssl.inference.export import export

        export(run, {"path": "", "checkpoint": "best", "trust": False})
    auto = AutoModelForCausalLM if run.name in CAUSAL else AutoModelForMaskedLM
    return auto.from_pretrained(run / "export").eval()


def both_logits(run: Path, tokens: Tensor) -> tuple[Tensor, Tensor]:
    language = rlgym.load(run)
    with torch.no_grad():
        return language.model.logits(language.model(tokens)), exported(run)(input_ids=tokens).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_same_model_to_transformers(kind: str, runs: Runs, command: Callable[..., Answer]) -> None:
    from safetensors import safe_open
    from transformers import AutoTokenizer

    run = runs[kind]
    target = run / "export"
    out = printed(command("export", str(run)))
    auto = "AutoModelForCausalLM" if kind in CAUSAL else "AutoModelForMaskedLM"
    assert f"{auto}.from_pretrained('{target}')" in out
    language = rlgym.load(run)
    tokens = torch.randint(0, language.tokenizer.vocab_size, (3, 32), generator=torch.Generator().manual_seed(1))
    tokens[tokens == language.tokenizer.pad_id] = language.tokenizer.eos_id  # RoBERTa counts no positions for padding
    ours, theirs = both_logits(run, tokens)
    assert ours.shape == theirs.shape and ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(target)
    sentence = "the Größe sings\n\tand 東京 waits.  é🙂"
    ids = language.tokenizer.encode(sentence)
    end = [] if kind in CAUSAL else [tokenizer.sep_token_id]
    assert tokenizer.encode(sentence) == [tokenizer.bos_token_id, *ids, *end], "as a text begins in training"
    assert tokenizer.decode(ids) == sentence and tokenizer.pad_token_id == language.tokenizer.pad_id
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]

    reloaded = exported(run)
    assert reloaded.config.model_type == kind and reloaded.config.vocab_size == language.model.vocab_size
    special = (reloaded.config.pad_token_id, reloaded.config.eos_token_id)
    assert special == (language.tokenizer.pad_id, language.tokenizer.eos_id)
    into, out_of = reloaded.get_input_embeddings().weight, reloaded.get_output_embeddings().weight
    assert (into.data_ptr() == out_of.data_ptr()) is (kind in TIED), "tied weights are one tensor after reloading"
    with safe_open(target / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        saved = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert saved == sum(p.numel() for p in reloaded.parameters()) == sum(p.numel() for p in language.model.parameters())


def test_padding_and_a_batch_change_nothing(runs: Runs) -> None:
    """What transformers makes of a padded batch with its attention mask is what we make of each row alone."""
    from transformers import AutoTokenizer

    for kind in ("qwen3", "bert"):
        language, model = rlgym.load(runs[kind]), exported(runs[kind])
        tokenizer = AutoTokenizer.from_pretrained(runs[kind] / "export")
        texts = ["the tree", "the river sings and waits."]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        assert int(batch["attention_mask"].sum()) < batch["input_ids"].numel()
        with torch.no_grad():
            found = model(**batch).logits
            for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
                alone = ids[mask.bool()][None]
                ours = language.model.logits(language.model(alone))[0]
                torch.testing.assert_close(found[row][mask.bool()], ours, rtol=0, atol=1e-5)


def test_the_model_card_says_what_it_is(runs: Runs) -> None:
    import yaml

    run = runs["gpt2"]
    exported(run)
    _, head, body = (run / "export" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["library_name"] == "transformers" and facts["pipeline_tag"] == "text-generation"
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert data["fingerprint"] in body and f"{data['documents']:,} documents" in body
    assert "AutoModelForCausalLM.from_pretrained" in body and "4,096 tokens" in body
    final = json.loads((run / "summary.json").read_text())["final"]
    assert f"| bits_per_byte | {final['validation/bits_per_byte']:.4g} |" in body


def test_an_export_goes_where_it_is_asked_to_and_overwrites_nothing_else(
    runs: Runs, command: Callable[..., Answer], tmp_path: Path
) -> None:
    run = runs["gpt2"]
    target = tmp_path / "model"
    printed(command("export", str(run), f"path={target}", "checkpoint=2048"))
    first = (target / "model.safetensors").read_bytes()
    assert first != (exported(run) and (run / "export" / "model.safetensors").read_bytes())
    printed(command("export", str(run), f"path={target}"))
    assert (target / "model.safetensors").read_bytes() == (run / "export" / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left beside it"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for place in ("mine", "file"):
        answer = command("export", str(run), f"path={tmp_path / place}")
        assert answer.code == 2 and len(answer.err.splitlines()) == 1 and f"path={tmp_path / place}" in answer.err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    answer = command("export", str(run), f"path={tmp_path / 'file' / 'below'}")
    assert answer.code == 2 and len(answer.err.splitlines()) == 1 and "cannot be written" in answer.err

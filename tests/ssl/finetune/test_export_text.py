"""Transformers reads an export as training read: its pipelines give the text that the program's own commands give."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rlgym
from rlgym.cli.main import main
from rlgym.config.compose import compose
from rlgym.config.registry import learner_class
from rlgym.errors import RequestError
from rlgym.run_folder import loading
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.ssl.config import MaskedConfig
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune import template
from rlgym.ssl.finetune.chat import Chat
from rlgym.ssl.finetune.dpo import DPO
from rlgym.ssl.finetune.start import open_start
from rlgym.ssl.inference.evaluate import evaluate_causal
from rlgym.ssl.inference.language_model import LanguageModel
from rlgym.ssl.objectives.masked import Masked
from tests.ssl import folders, tiny

pytestmark = pytest.mark.usefixtures("cache")
QUICK = ["threads=1", "display=quiet", "log.histograms=false", "evaluate.every=0", "checkpoint.every=0", "batch_size=8"]
NEW = 10


def prompts(count: int) -> list[str]:
    draw = random.Random(5)
    ends = ("", ",", " and", " and the")
    return [f"the {draw.choice(tiny.NOUNS)} {draw.choice(tiny.VERBS)}{draw.choice(ends)}" for _ in range(count)]


def examples(path: Path, kind: str) -> str:
    """A table of examples of a kind: pairs, chats or preferences."""
    rows = []
    for number, prompt in enumerate(prompts(20)):
        answer = f" {tiny.VERBS[number % 10]}."
        asked = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer.strip()}]
        rows.append(
            {
                "pairs": {"prompt": f"{number} {prompt}", "completion": answer},
                "chats": {"messages": asked * (1 + number % 2)},
                "preferences": {"prompt": f"{number} {prompt}", "chosen": answer, "rejected": " no"},
            }[kind]
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"data.path='{path}'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Callable[[str], Path]:
    """A finished run of each kind, made when it is first asked for."""
    place = tmp_path_factory.mktemp("made")

    def make(kind: str) -> Path:
        run = place / kind
        if run.exists():
            return run
        into = f"run.dir='{run}'"
        if kind == "llama folder":
            return folders.llama(run)
        if kind == "chat folder":
            return folders.chat(run)
        if kind == "own":
            more = ["model=qwen_nano", "tokenizer=bpe", "tokenizer.vocab_size=320", "model.block_size=64"]
            words = tiny.words(text, *more, "tokens=8192", "optimizer.learning_rate=0.01", "sample.count=0")
            rlgym.pretrain(*words, "evaluate.every=0", "checkpoint.every=0", into)
            return run
        method, start, data = {
            "llama": ("instruction", "llama folder", "pairs"),
            "chat": ("instruction", "chat folder", "chats"),
            "own chat": ("instruction", "own", "chats"),
            "dpo chat": ("dpo", "chat folder", "preferences"),
            "dpo as it stands": ("dpo", "chat folder", "preferences"),
            "grpo": ("grpo", "own", "pairs"),
            "grpo chat": ("grpo", "own chat", "pairs"),
        }[kind]
        more = ["tokens=800", f"method={method}", f"init_from='{make(start)}'"]
        if method == "grpo":
            more += ["reward=length", "reward.target=9", "method.max_new_tokens=8", "method.prompts=4"]
        more += ["method.samples=1"] * (method != "grpo") + ["method.chat=false"] * (kind == "dpo as it stands")
        rlgym.finetune(*QUICK, *more, "data=jsonl", examples(place / f"{data}.jsonl", data), into)
        return run

    return make


def exported(run: Path) -> str:
    target = run / "export"
    if not target.exists():
        assert main(["export", str(run)]) == 0
    return str(target)


def pipeline(task: str, folder: str) -> Any:
    import transformers

    library: Any = transformers
    library.logging.set_verbosity_error()
    return library.pipeline(task, model=folder)


def written(run: Path, asked: list[Any]) -> list[str]:
    """What transformers' pipeline writes behind each prompt or chat, always the likeliest token."""
    write = pipeline("text-generation", exported(run))
    settings = {"do_sample": False, "max_new_tokens": NEW, "return_full_text": False}
    return [write(one, **settings)[0]["generated_text"] for one in asked]


LONG = pytest.param(60, marks=pytest.mark.slow)


@pytest.mark.parametrize("count", [6, LONG])
@pytest.mark.parametrize(
    "kind", ["own", "llama", "chat", "grpo", "own chat", "dpo chat", "dpo as it stands", "grpo chat"]
)
def test_an_export_writes_what_generate_writes(kind: str, count: int, made: Callable[[str], Path]) -> None:
    run, asked = made(kind), prompts(count)
    ours = rlgym.load(run).generate(asked, NEW, temperature=0)
    chats = [[{"role": "user", "content": prompt}] for prompt in asked]
    assert written(run, chats if kind.endswith("chat") else asked) == ours
    assert len(set(ours)) > 2 or kind in ("own chat", "grpo chat"), "the prompt matters"


def test_a_folder_is_read_as_its_tokenizer_reads(made: Callable[[str], Path]) -> None:
    """Nats a token by transformers, each text behind <s>; and what a run of it keeps, trained or not."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, texts = made("llama folder"), tiny.sentences(5, seed=8).splitlines()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    nats = tokens = 0.0
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    start = open_start(str(folder), 0)
    found = evaluate_causal(LanguageModel(start.model.eval(), start.tokenizer), iter(texts), None, 4)
    assert (found["tokens"], found["loss"]) == (tokens, pytest.approx(nats / tokens, rel=1e-4))
    kept = Tokenizer.of_run(made("llama"))
    assert [kept.backend.id_to_token(i) for i in (kept.bos_id, kept.eos_id)] == ["<s>", "</s>"]


@pytest.mark.parametrize(
    ("around", "settings", "begins"),
    [
        ("<s> $A", {}, "<s>"),
        ("$A </s>", {}, "</s>"),
        (None, {}, "</s>"),
        (None, {"add_bos_token": True}, "<s>"),
        (None, {"chat_template": "{{ bos_token }}"}, "<s>"),
        ("<unk> <s> $A", {}, "its texts begin with several tokens (<unk> <s>)"),
    ],
)
def test_what_a_document_begins_with(around: str | None, settings: dict[str, Any], begins: str, tmp_path: Path) -> None:
    """What the folder's own tokenizer puts there; of one that puts nothing there the end of the document before."""
    from rlgym.ssl.config import ExistingTokenizer
    from rlgym.ssl.data.existing_tokenizer import existing

    folders.tokenizer(around, folders.LLAMA).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    if begins.startswith("its"):
        with pytest.raises(RequestError, match=re.escape(begins)):
            existing(ExistingTokenizer(path=str(tmp_path)), True)
        return
    for _ in range(2):  # and a copy of it says the same
        one = existing(ExistingTokenizer(path=str(tmp_path)), True)
        assert one.backend.id_to_token(one.bos_id) == begins
        assert one.framed().backend.encode("a").ids == one.begin("a") == one.alone("a")
        one.framed().save(tmp_path)


def test_a_chat_model_keeps_its_template_and_its_ends(made: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    theirs: Any = AutoTokenizer.from_pretrained(made("chat folder"))
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    for kind in ("chat", "dpo chat", "dpo as it stands"):
        target = exported(made(kind))
        assert AutoTokenizer.from_pretrained(target).chat_template == folders.CHATML
        ends: Any = GenerationConfig.from_pretrained(target)
        assert ends.eos_token_id == [2, end]
    own = Tokenizer.of_run(made("chat"))
    turns = [{"role": role, "content": f"the {role}"} for role in ("system", "user", "assistant", "user", "assistant")]
    asked = theirs.apply_chat_template(turns[:-1], add_generation_prompt=True)["input_ids"]
    assert template.chat_prompt_ids(own, turns[:-1]) == asked
    whole = template.chat(own, turns)
    assert whole.ids == theirs.apply_chat_template(turns)["input_ids"][:-1], "up to the end of the last answer"
    learnt = [token for token, mine in zip(whole.ids, whole.answer, strict=True) if mine]
    assert own.decode(learnt, skip_special=False) == "the assistant<|im_end|>" * 2
    assert whole.ids[: len(asked)] == asked


def test_a_chat_model_is_taught_on_in_its_own_words(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts and answers of every method are transformers' tokens of a chat, from a folder and from a run."""
    from transformers import AutoTokenizer

    data = examples(tmp_path / "preferences.jsonl", "preferences")
    words = ["data=jsonl", data, "threads=1"]
    rewarded = ["reward=length", "method.max_new_tokens=8"]
    for start in ("chat folder", "own chat"):
        theirs: Any = AutoTokenizer.from_pretrained(made(start) if "folder" in start else exported(made(start)))

        def framed(*contents: str, theirs: Any = theirs) -> list[int]:
            turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), contents, strict=False)]
            ids: list[int] = theirs.apply_chat_template(turns, add_generation_prompt=len(turns) == 1)["input_ids"]
            return ids

        chosen = [f"init_from='{made(start)}'", *words]
        dpo = DPO(compose([*chosen, "method=dpo"], "finetune"))
        assert dpo.config.method.chat is True and "framed by the model's chat template" in dpo.notices[0]
        for pair, tokens in zip(dpo.pairs, dpo.tokens, strict=True):
            assert tokens.chosen[: tokens.prompt] == tokens.rejected[: tokens.prompt] == framed(pair.prompt)
            for ids, answer in ((tokens.chosen, pair.chosen), (tokens.rejected, pair.rejected)):
                assert theirs.decode(ids[tokens.prompt :]).strip().startswith(answer.strip())
                assert ids[-1] in dpo.tokenizer.stop_ids
                assert ids == framed(pair.prompt, answer)[: len(ids)]
        for method in ("grpo", "rloo", "ppo", "best_of_n"):
            config = compose([*chosen, *rewarded, f"method={method}"], "finetune")
            one: Any = learner_class(config)(config)
            assert all(ids == framed(text) for text, ids in (*one.train, *one.held))
            plain = type(one)(compose([*chosen, *rewarded, f"method={method}", "method.chat=false"], "finetune"))
            assert all(ids == plain.tokenizer.begin(text) for text, ids in (*plain.train, *plain.held))
            assert plain.notices == [
                "prompts    as they stand; method.chat=true frames them by the model's chat template"
            ]
    own = ["finetune", f"init_from='{made('own')}'", "method=dpo", "method.chat=true", *words]
    assert main([*own, f"run.dir='{tmp_path / 'no'}'"]) == 2
    assert "method.chat=true: the model has no chat template" in capsys.readouterr().err


def test_a_run_that_began_with_plain_prompts_goes_on_with_them(made: Callable[[str], Path], tmp_path: Path) -> None:
    """Of a version without the key, which took every prompt as it stands."""
    run = tmp_path / "old"
    shutil.copytree(made("dpo as it stands"), run)
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    (run / "config.yaml").write_text("".join(line for line in lines if line.strip() != "chat: false"))
    config = load_config(run)
    assert config.method.chat is None
    old: Any = DPO.resumed(config, run)
    new: Any = DPO.resumed(load_config(made("dpo as it stands")), run)
    assert old.tokens == new.tokens and type(rlgym.load(run)) is LanguageModel
    assert type(rlgym.load(made("dpo chat"))) is Chat


def test_a_prompt_that_the_template_refuses_is_one_line(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made("own chat"), run)
    path = run / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ raise_exception('not so') }}"}))
    Run(run).update_manifest(files={})
    assert main(["generate", str(run), "prompt=the tree"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "prompt='the tree': the model's chat template refuses it" in line
    words = ["reward=length", "method=grpo", "method.max_new_tokens=8", "data=jsonl", "data.bad=skip"]
    words += [f"init_from='{run}'", examples(tmp_path / "pairs.jsonl", "pairs")]
    assert main(["finetune", *words, f"run.dir='{tmp_path / 'no'}'"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no row of" in line and "the model's chat template refuses it" in line


TEMPLATES = {  # what is learnt of two turns
    "reasoning is left out of earlier turns": (
        "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else 'x' }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        "b</s>",
    ),
    "the request has more than the answer": (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:<think>{% endif %}",
        "b</s>",
    ),
    "no end": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        "ab</s>",
    ),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_templates_that_write_answers_in_ways_of_their_own(case: str, made: Callable[[str], Path]) -> None:
    own = Tokenizer.of_run(made("llama"))
    own.chat_template, learnt = TEMPLATES[case]
    turns = [{"role": role, "content": content} for content in "ab" for role in ("user", "assistant")]
    whole = template.chat(own, turns)
    mine = [token for token, kept in zip(whole.ids, whole.answer, strict=True) if kept]
    assert own.decode(mine, skip_special=False) == learnt
    asked = template.chat_prompt_ids(own, turns[:-1])
    assert whole.ids[: len(asked)] == asked
    own.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(ValueError, match="the model's chat template refuses it .*no system"):
        template.chat(own, turns)


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("kind", ["gpt2", "opt", "roberta"])
def test_labels_on_an_architecture_of_transformers_are_exported(
    kind: str, mode: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the README give the program's own outputs, low-rank additions merged."""
    folder, run = folders.other(tmp_path / "folder", kind), tmp_path / "run"
    words = [f"init_from='{folder}'", "data=csv", f"data.path='{table}'", "tokens=600", f"adapt.mode={mode}"]
    rlgym.finetune(*QUICK, "method.baselines=false", *words, f"run.dir='{run}'")
    code = (Path(exported(run)) / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported(run))
    space: dict[str, Any] = {}
    exec(code, space)
    torch.testing.assert_close(space["logits"], rlgym.load(run).outputs(["a text"]), rtol=1e-4, atol=1e-4)
    if mode == "lora":
        assert main(["export", str(run), "adapter=true", f"path={tmp_path / 'adapter'}"]) == 0
        settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert settings["fan_in_fan_out"] is (kind == "gpt2")


class Own(Masked):
    """An objective of a person's own, with the knobs of the one that it inherits from."""


def test_an_objective_that_inherits_is_filled_and_evaluated(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = tmp_path / "run", f"{__name__}:Own"
    words = tiny.words(text, f"objective={name}", "objective.rate=0.4", "model=bert_nano", "tokens=512")
    made = rlgym.pretrain(*words, f"run.dir='{run}'")
    config = load_config(run, trust=True)
    assert (config.causal, config.objective) == (False, MaskedConfig(name=name, rate=0.4))
    assert "fill" in config.products and made.summary["status"] == "finished"
    for command in (["fill", str(run), "text=the [MASK]"], ["evaluate", str(run)], ["export", str(run)]):
        assert main([*command, "trust=true"]) == 0
    assert main(["pretrain", *words, "causal=true", f"run.dir='{tmp_path / 'other'}'"]) == 2
    assert f"causal=true: objective={name} requires causal=false" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_named(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, opened = made("own"), loading.open_checkpoint

    def damaged(*given: Any) -> Any:
        state, loop = opened(*given)
        state["model"]["model.norm.weight"][0] = float("nan")
        return state, loop

    monkeypatch.setattr(loading, "open_checkpoint", damaged)
    assert main(["generate", str(run), "prompt=the"]) == 2
    written = capsys.readouterr()
    assert not written.out and "model.norm.weight holds NaN or infinite values" in written.err

"""Loss on the answers alone, exact prefixes, ends that are learnt, packing that leaks nothing, one chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import rlgym
from rlgym.cli.main import main
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.ssl.finetune import template
from rlgym.ssl.finetune.chat import Chat
from rlgym.ssl.finetune.instruction import IGNORED, Instruction, packed
from tests.ssl.finetune.starts import Starts

pytestmark = pytest.mark.usefixtures("cache")
QUICK = ["method=instruction", "data=jsonl", "threads=1", "display=quiet", "log.histograms=false", "batch_size=8"]


def pairs(count: int = 24) -> list[dict[str, Any]]:
    return [{"prompt": f"{i} and {i % 5}:", "completion": f" {'ab'[i % 2] * (1 + i % 4)}"} for i in range(count)]


def chats(count: int = 24) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f" hi {i}"}, {"role": "assistant", "content": "ab"[i % 2]}]}
        for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learner(start: str, path: Path, *more: str) -> Instruction:
    return Instruction(compose([*QUICK, f"init_from='{start}'", f"data.path='{path}'", *more], "finetune"))


@pytest.mark.parametrize("rows", [pairs(), chats()], ids=["pairs", "chats"])
def test_labels_are_the_answers_and_their_end(rows: list[dict[str, Any]], starts: Starts, tmp_path: Path) -> None:
    one = learner(starts["qwen3"], write(tmp_path / "t.jsonl", rows))
    for example, (_, prompt) in zip(one.examples, one.prompts, strict=True):
        assert example.ids[: len(prompt)] == prompt, "the prompt is an exact prefix"
        assert not any(example.answer[: len(prompt)]) and all(example.answer[len(prompt) :])
        assert example.ids[-1] == one.tokenizer.eos_id and example.answer[-1], "the end is learnt"
    part = one.collate([[0], [3]])
    logits = one.start.model.logits(one.start.model(part["tokens"])).float()
    by_hand = sum(
        float(F.cross_entropy(logits[row, at].detach(), part["tokens"][row, at + 1]))
        for row, i in enumerate((0, 3))
        for at in range(len(one.examples[i].ids) - 1)
        if one.examples[i].answer[at + 1]
    )
    assert float(one.loss(part)[0].detach()) == pytest.approx(by_hand, rel=1e-5)
    assert (
        int(part["weight"])
        == sum(sum(one.examples[i].answer) for i in (0, 3))
        == int((part["labels"] != IGNORED).sum())
    )


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_packing_is_a_layout_and_no_more(kind: str, starts: Starts, tmp_path: Path) -> None:
    """Packed or not, in parts or not: the same loss and gradients with unequal lengths."""
    path = write(tmp_path / "t.jsonl", pairs())
    found = []
    for more in ((), ("gradient_accumulation_steps=4",), ("method.packing=true",)):
        one = learner(starts[kind], path, "optimizer.max_grad_norm=1e9", *more)
        parts = one.batch(1)
        metrics = one.descend(parts)
        found.append(
            (float(metrics["train/loss"]), [p.grad.clone() for p in one.model.parameters() if p.grad is not None])
        )
        rows = sum(len(part["tokens"]) for part in parts)
        assert rows < 8 if "method.packing=true" in more else rows == 8
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for first, second in zip(found[0][1], gradients, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    assert sorted(sum(packed([5, 9, 3, 7, 2], 10), [])) == [0, 1, 2, 3, 4] and len(packed([5, 5, 5, 5], 10)) == 2


def test_a_neighbour_in_the_row_changes_nothing(starts: Starts, tmp_path: Path) -> None:
    one = learner(starts["gpt2"], write(tmp_path / "t.jsonl", pairs()), "method.packing=true")
    first, second = one.collate([[0, 1]]), one.collate([[4, 1]])
    size = [len(one.examples[i].ids) for i in (0, 4)]
    assert size[0] == size[1], "of equal length, so that only what the neighbour says differs"
    hidden = [one.start.model(part["tokens"], part["documents"])[0, size[0] :] for part in (first, second)]
    assert torch.equal(hidden[0], hidden[1])


def test_transformers_writes_chats_alike(starts: Starts, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    run = tmp_path / "run"
    path = write(tmp_path / "t.jsonl", chats())
    words = [*QUICK, f"init_from='{starts['qwen3']}'", f"data.path='{path}'", "tokens=400", f"run.dir='{run}'"]
    rlgym.finetune(*words)
    assert main(["export", str(run)]) == 0
    theirs: Any = AutoTokenizer.from_pretrained(run / "export")
    model = rlgym.load(run)
    assert isinstance(model, Chat)
    messages = [
        {"role": "system", "content": "be  brief"},
        {"role": "user", "content": " Hello,\n\nyou "},
        {"role": "assistant", "content": "Oh!"},
        {"role": "user", "content": "bye"},
    ]
    ours = template.chat_prompt_ids(model.tokenizer, messages)
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ours
    whole = template.chat(model.tokenizer, messages[:3]).ids
    assert theirs.apply_chat_template(messages[:3])["input_ids"] == whole
    asked = theirs.apply_chat_template([messages[3]], add_generation_prompt=True)["input_ids"]
    assert model.prompt_ids("bye") == asked, "generate asks as the chats did"


def test_it_learns_to_answer_and_to_end(starts: Starts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"{word} {i}:", "completion": f" {word[::-1]}"} for i in range(12) for word in ("ab", "xy")]
    run = tmp_path / "run"
    path = write(tmp_path / "t.jsonl", rows)
    more = ["method.epochs=40", "optimizer.learning_rate=1e-2", "evaluate.every=0"]
    rlgym.finetune(*QUICK, f"init_from='{starts['gpt2']}'", f"data.path='{path}'", *more, f"run.dir='{run}'")
    assert main(["generate", str(run), "prompt=xy 3:", "temperature=0", "tokens=20"]) == 0
    assert capsys.readouterr().out.strip().endswith("xy 3: yx"), "and no more: the end was learnt"
    assert main(["evaluate", str(run)]) == 0
    assert main(["predict", str(run), "text=a"]) == 2
    assert "generate may do" in capsys.readouterr().err


def test_an_input_stands_below_its_instruction(starts: Starts, tmp_path: Path) -> None:
    """As in Alpaca's data, where the columns are found; rows may lack it. Named alone, a prompt is that column."""
    rows: list[dict[str, Any]] = [{"instruction": f"say {i}", "output": f"o{i}"} for i in range(24)]
    for i in range(0, 24, 2):
        rows[i]["input"] = f"in {i}"
    rows[1]["input"] = ""
    path = write(tmp_path / "t.jsonl", rows)
    one = learner(starts["gpt2"], path)
    shown = [text for text, _ in one.prompts]
    assert shown[:4] == ["say 0\nin 0", "say 1", "say 2\nin 2", "say 3"] and one.config.method.input == "input"
    assert one.tokenizer.decode(one.examples[0].ids) == "say 0\nin 0o0"
    again = Instruction(one.config)  # as a resume or an evaluation reads its config
    assert [text for text, _ in again.prompts] == shown
    assert learner(starts["gpt2"], path, "method.prompt=instruction").prompts[0][0] == "say 0"
    with pytest.raises(RequestError, match="method.input=inptu: no such column .* did you mean input"):
        learner(starts["gpt2"], path, "method.input=inptu")
    with pytest.raises(RequestError, match="method.input=messages: has no effect because the examples are chats"):
        learner(starts["gpt2"], write(path, chats()), "method.input=messages")


REFUSED = {
    "empty answer": ({"prompt": "x", "completion": " "}, r"t.jsonl:25: completion is an empty answer"),
    "long prompt": ({"prompt": "x" * 99, "completion": "y"}, r"t.jsonl:25: the prompt has \d+ tokens.*no room"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_teach_nothing_are_named(case: str, starts: Starts, tmp_path: Path) -> None:
    row, said = REFUSED[case]
    with pytest.raises(RequestError, match=said):
        learner(starts["gpt2"], write(tmp_path / "t.jsonl", [*pairs(), row]))


def test_wrong_chats_columns_and_models(starts: Starts, tmp_path: Path) -> None:
    user = {"role": "user", "content": "x"}
    for messages, said in (
        ([user], "ends with a message of user"),
        ([user, {"role": "bot", "content": "y"}], "role 'bot' in message 2"),
        ([user, {"role": "assistant", "content": ""}], "empty answer in message 2"),
        ("hello", "not a list of messages"),
    ):
        with pytest.raises(RequestError, match=f"t.jsonl:25: messages .*{said}|t.jsonl:25: messages {said}"):
            learner(starts["gpt2"], write(tmp_path / "t.jsonl", [*chats(), {"messages": messages}]))
    path = write(tmp_path / "t.jsonl", [{"a": "b", "c": "d"}])
    with pytest.raises(RequestError, match="has the columns a, c: name two with method.prompt and method.completion"):
        learner(starts["gpt2"], path)
    with pytest.raises(RequestError, match="method=instruction needs a decoder"):
        learner(starts["bert"], write(path, pairs()))

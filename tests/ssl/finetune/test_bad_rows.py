"""`data.bad=skip` leaves out the rows that are bad and nothing else, in every method; `stop` names the first one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.training.train import build_learner
from tests.ssl.finetune.starts import Starts

pytestmark = pytest.mark.usefixtures("cache")
QUICK = ["threads=1", "display=quiet", "log.histograms=false", "batch_size=8"]
HALF, LONG = "half \ud83d", "long " * 20
ANSWER = {"role": "assistant", "content": "hello"}


def chat(text: object, answer: str = "hello") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {**ANSWER, "content": answer}]}


def good(method: str, i: int) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {
        "classification": {"text": f"row {i}", "label": "ab"[i % 2]},
        "regression": {"text": f"row {i}", "target": i},
        "instruction": {"prompt": f"row {i}", "completion": "yes"},
        "instruction of chats": chat(f"row {i}"),
        "reward_model": {"prompt": f"row {i}", "chosen": "yes", "rejected": "no"},
        "grpo": {"prompt": f"row {i}"},
    }
    return rows[method]


BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "classification": [
        ({"text": HALF, "label": "a"}, "text holds half of a surrogate pair (character 5), which is no text"),
        ({"text": "x", "label": HALF}, "label holds half of a surrogate pair (character 5)"),
        ({"text": "x", "label": None}, "label is empty"),
        ({"label": "a"}, "text is empty"),
        ({"text": ["x"], "label": "a"}, "text is a list, as of chat messages: must be one text"),
    ],
    "regression": [({"text": HALF, "target": 1}, "text holds half"), ({"text": "x", "target": "NaN"}, "target is NaN")],
    "instruction": [
        ({"prompt": "x", "completion": HALF}, "completion holds half of a surrogate pair"),
        (
            {"prompt": LONG, "completion": "x"},
            "the prompt has 101 tokens, which leaves no room for an answer in the 32",
        ),
        ({"prompt": "x", "completion": " "}, "completion is an empty answer"),
    ],
    "instruction of chats": [
        (chat(HALF), "messages holds half of a surrogate pair (character 5), which is no text, in message 1"),
        (
            chat([{"type": "text", "text": "hi"}]),
            "messages has a list of parts as content of message 1: must be one text",
        ),
        (
            {"messages": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
            "messages has role None and the keys from, value in message 1: must be role and content",
        ),
    ],
    "reward_model": [
        ({"prompt": "x", "chosen": HALF, "rejected": "no"}, "chosen holds half of a surrogate pair"),
        ({"prompt": [ANSWER], "chosen": "yes", "rejected": "no"}, "prompt is a list, as of chat messages"),
    ],
    "grpo": [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": HALF}, "prompt holds half of a surrogate pair"),
        ({"prompt": LONG}, "the prompt has 101 tokens; with method.max_new_tokens=4 a block of 32 has room for 28"),
    ],
}
TORN = [b'{"text": "caf\xe9"}\n', b'{"text": "torn\n', b'{"text": "x", "text": "y"}\n', b'{"half \\ud83d": "x"}\n']
"""Lines that are no row whatever the method."""


def learner(method: str, starts: Starts, path: Path, *more: str) -> Any:
    kind = "gpt2" if method.startswith(("instruction", "grpo")) else "bert"
    own = {
        "classification": ["method.baselines=false"],
        "regression": ["method.baselines=false"],
        "grpo": ["reward=length", "method.max_new_tokens=4"],
    }
    words = [f"method={method.split()[0]}", f"init_from='{starts[kind]}'", "data=jsonl", f"data.path='{path}'"]
    return build_learner(compose([*words, *QUICK, *own.get(method, []), *more], "finetune"))


def texts(one: Any) -> list[str]:
    """What of each row was kept."""
    if hasattr(one, "texts"):
        return list(one.texts)
    if hasattr(one, "pairs"):
        return [pair.prompt for pair in one.pairs]
    if hasattr(one, "examples"):
        return [text.removeprefix("user: ") for text, _ in one.prompts]
    return sorted([*one.prompts.train, *one.prompts.held_out], key=lambda text: int(text.split()[1]))


@pytest.mark.parametrize("method", BAD)
def test_what_is_bad_is_left_out_and_nothing_else(method: str, starts: Starts, tmp_path: Path) -> None:
    rows = [json.dumps(good(method, i)).encode() + b"\n" for i in range(30)]
    wrong = [*(json.dumps(row).encode() + b"\n" for row, _ in BAD[method]), *TORN]
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"".join(rows[:10] + wrong[:2] + rows[10:20] + wrong[2:] + rows[20:]))
    one = learner(method, starts, path, "data.bad=skip")
    assert texts(one) == [f"row {i}" for i in range(30)]
    assert one.facts["data"]["bad"] == len(wrong)
    assert any(f"left out: {len(wrong)} rows, the first {path}:" in line for line in one.notices)
    one.config.data.bad = "stop"
    with pytest.raises(RequestError, match=rf"data: 4 lines cannot be used, the first is {path}:\d+: .*data.bad=skip"):
        one.prepare()
    for row, said in BAD[method]:
        path.write_bytes(b"".join(rows) + json.dumps(row).encode() + b"\n")
        with pytest.raises(RequestError) as error:
            one.prepare()
        assert f"data: 1 row cannot be used, the first is {path}:31: {said}" in str(error.value)
        assert "; data.bad=skip leaves such out" in str(error.value) and "\n" not in str(error.value)

"""Pairs as data: what a row must hold, how it becomes tokens, which side it is on, and how sure predictions are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlgym.errors import RequestError
from rlgym.ssl.config import CsvData, DefaultData, JsonlData, ParquetData
from rlgym.ssl.data.build_tokenizer import byte_backend
from rlgym.ssl.data.tokenizer import CAUSAL, Tokenizer
from rlgym.ssl.finetune import corruptions
from rlgym.ssl.finetune.config import DPOMethod, RewardModelMethod
from rlgym.ssl.finetune.preferences import Pairs, by_kind, calibration, joined, open_pairs

TOKENIZER = Tokenizer(byte_backend(CAUSAL), CAUSAL)
EOS = TOKENIZER.eos_id
ROW = {"prompt": "ab", "chosen": "cd", "rejected": "xy"}


def written(folder: Path, rows: list[dict[str, Any]]) -> JsonlData:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlData(path=[str(path)])


def opened(data: Any, longest: int = 16, **knobs: Any) -> Pairs:
    method = RewardModelMethod(**{"held_out": 0.3, **knobs})
    return open_pairs(data, method, 1, TOKENIZER, longest)


def rows(count: int = 10) -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "chosen": f"yes{i}", "rejected": f"no{i}"} for i in range(count)]


# ---- tokens


def test_the_prompt_is_an_exact_prefix_and_answers_end(tmp_path: Path) -> None:
    found = opened(written(tmp_path, [*rows(), {"prompt": "", "chosen": "no prompt", "rejected": "at all"}]))
    for pair, tokens in zip(found.pairs, found.tokens, strict=True):
        prompt = [EOS, *TOKENIZER.encode(pair.prompt)]
        assert tokens.chosen[: tokens.prompt] == tokens.rejected[: tokens.prompt] == prompt
        assert tokens.chosen[tokens.prompt :] == [*TOKENIZER.encode(pair.chosen), EOS]
        assert tokens.rejected[tokens.prompt :] == [*TOKENIZER.encode(pair.rejected), EOS]
        assert not tokens.cut


def test_long_answers_are_cut_without_an_end_and_counted(tmp_path: Path) -> None:
    found = opened(written(tmp_path, [*rows(), {**ROW, "chosen": "c" * 40}]))
    tokens = found.tokens[-1]
    assert len(tokens.chosen) == 16 and tokens.chosen[-1] != EOS and tokens.rejected[-1] == EOS
    assert found.facts()["cut"] == 1
    ids, start, cut = joined("ab", "cd", TOKENIZER, 16, ended=False)
    assert ids[-1] != EOS and start == 3 and not cut


# ---- what is refused


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ROW, "chosen": " "}, "chosen is empty"),
        ({**ROW, "rejected": None}, "rejected is empty"),
        ({**ROW, "prompt": 3}, "prompt is '3', no text"),
        ({**ROW, "rejected": "cd"}, "chosen and rejected are equal"),
        ({**ROW, "chosen": "z" * 20 + "a", "rejected": "z" * 20 + "b"}, "equal in the 16 tokens that are read"),
        ({**ROW, "prompt": "p" * 30}, "31 tokens, which leave nothing to score of the 16 that are read"),
        ({**ROW, "prompt": "p" * 15}, "16 tokens, which leave nothing to score"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_or_left_out(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    data = written(tmp_path, [*rows(), row])
    with pytest.raises(RequestError, match=r"pairs\.jsonl:11: ") as error:
        opened(data)
    assert said in str(error.value) and "data.bad=skip" in str(error.value) and "\n" not in str(error.value)
    data.bad = "skip"
    found = opened(data)
    assert len(found.pairs) == 10 and found.bad == 1 and said in found.first_bad


def test_a_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    data = written(tmp_path, [{"question": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(RequestError, match=r"method\.prompt=prompt: no such column .*question, chosen, rejected"):
        opened(data)
    assert opened(written(tmp_path, [{"q": f"a{i}", "chosen": "b", "rejected": "c"} for i in range(9)]), prompt="q")


def test_margins_are_numbers(tmp_path: Path) -> None:
    good = [{**row, "gap": i} for i, row in enumerate(rows())]
    assert [pair.margin for pair in opened(written(tmp_path, good), margin="gap").pairs] == list(range(10))
    for value, said in (("much", "no number"), (float("nan"), "is NaN"), (None, "is empty")):
        with pytest.raises(RequestError, match=f"margin .*{said}|margin {said}"):
            opened(written(tmp_path, [*good, {**ROW, "gap": value}]), margin="gap")


# ---- sources and sides


def test_csv_and_parquet_hold_the_same_pairs(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    first = opened(written(tmp_path, rows()))
    lines = ["prompt,chosen,rejected", *(",".join(row.values()) for row in rows())]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), tmp_path / "pairs.parquet")
    for data in (CsvData(path=[str(tmp_path / "pairs.csv")]), ParquetData(path=[str(tmp_path / "pairs.parquet")])):
        other = opened(data)
        assert other.tokens == first.tokens and other.facts()["fingerprint"] == first.facts()["fingerprint"]


def test_equal_prompts_are_on_one_side(tmp_path: Path) -> None:
    twice = [{"prompt": f"p{i % 12}", "chosen": f"yes{i}", "rejected": f"no{i}"} for i in range(48)]
    found = opened(written(tmp_path, twice))
    sides: dict[str, set[bool]] = {}
    for pair, out in zip(found.pairs, found.held.tolist(), strict=True):
        sides.setdefault(pair.prompt, set()).add(out)
    assert all(len(side) == 1 for side in sides.values())
    assert 0 < found.held.sum() < 48


def test_default_pairs_keep_files_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "MOST", 40)
    found = open_pairs(DefaultData(), DPOMethod(), 1, TOKENIZER, 2_000)
    assert len(found.pairs) == 40 and all(pair.kind for pair in found.pairs)
    files = {side: {p.where.split(",")[0] for p, h in zip(found.pairs, found.held, strict=True) if h == side}
             for side in (False, True)}  # fmt: skip
    assert files[True] and not files[True] & files[False]
    with pytest.raises(RequestError, match="no function of the library fits"):
        open_pairs(DefaultData(), DPOMethod(), 1, TOKENIZER, 4)


# ---- how sure


def test_calibration_by_hand() -> None:
    """Two pairs at 0.75 of which one is right, one at 0.95 that is right, one taken the wrong way round at 0.95."""
    error, table = calibration(np.array([0.76, 0.24, 0.96, 0.04]))
    assert [row["pairs"] for row in table] == [2, 2]
    assert error == pytest.approx(0.5 * abs(0.76 - 0.5) + 0.5 * abs(0.96 - 0.5))
    assert calibration(np.array([1.0, 1.0]))[0] == 0.0
    draw = np.random.default_rng(0)
    honest = draw.uniform(0.5, 1.0, 40_000)
    seen = np.where(draw.random(40_000) < honest, honest, 1 - honest)
    assert calibration(seen)[0] < 0.02 < calibration(np.where(seen > 0.5, 0.99, 0.01))[0]


def test_accuracy_by_kind() -> None:
    found = by_kind(np.array([True, False, True]), ["a", "a", "b"])
    assert found == {"a": {"accuracy": 0.5, "pairs": 2}, "b": {"accuracy": 1.0, "pairs": 1}}

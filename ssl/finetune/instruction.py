"""Instruction tuning: next-token cross-entropy on the answers only, without loss on prompts (Ouyang et al. 2022,
arXiv:2203.02155, section 3.1; the mask as in Wang et al. 2022, arXiv:2212.10560)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.learner import Evaluation
from rlgym.ssl.data.documents import Row, unknown_column
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune import examples, library, template
from rlgym.ssl.finetune.chat import language_model
from rlgym.ssl.finetune.finetuning import Supervised, chosen
from rlgym.ssl.finetune.labelled import TIMES, by_length, passes, resolve_length
from rlgym.ssl.finetune.start import language_part
from rlgym.ssl.inference.language_model import LanguageModel, continued
from rlgym.ssl.inference.sampling import sample
from rlgym.ssl.learner import Batch

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig
    from rlgym.ssl.finetune.config import InstructionMethod

IGNORED = -100
"""Label of a token without loss."""
CHAT, PLAIN = "chat", "plain"
NAMES = {
    "messages": ("messages", "conversation", "conversations", "chat"),
    "prompt": ("prompt", "instruction", "question", "input"),
    "completion": ("completion", "response", "answer", "output"),
}
ROWS = 16
"""Examples per evaluation batch."""


class Instruction(Supervised):
    monitor = ("validation/loss", "min")
    causal = True

    def prepare(self) -> None:
        config, method = self.config, self.config.method
        table = library.docstrings() if config.data.name == "default" else examples.read_table(config.data)
        longest = resolve_length(method, self.start.model)
        if config.data.name == "default":  # built-in examples: skip those this tokenizer cannot encode
            table.rows = [row for row in table.rows if self._fits(str(row.values["prompt"]), longest)]
            if len(table.rows) < 20:
                raise RequestError(
                    f"data=default: the model's {longest} tokens are too few for its prompts; give others"
                )
        columns = self.columns(table)
        self.form = CHAT if len(columns) == 1 else PLAIN
        if self.form == CHAT and self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = template.JINJA

        def read(row: Row) -> tuple[list[Any], template.Written]:
            values: list[Any]
            if self.form == CHAT:
                values = [examples.value(row.values, columns[0], template.as_messages)]
            else:
                asked = examples.with_input(row.values, columns[0], method.input)
                values = [asked, examples.value(row.values, columns[-1], as_answer)]
            return values, self.write(values, longest)

        rows, found = examples.usable(table, read, config.data.bad)
        self.examples = [written for _, written in found]
        self.prompts = [self.prompt_of(values) for values, _ in found]
        groups = [
            str(row.values["file"]) if config.data.name == "default" else examples.same_text(shown)
            for row, (shown, _) in zip(rows, self.prompts, strict=True)
        ]
        held = examples.split(groups, method.held_out, config.seed)
        self.held, self.train = np.flatnonzero(held), np.flatnonzero(~held)
        if method.packing and not self._takes_documents():
            raise RequestError(
                "method.packing=true: this architecture cannot keep the examples of a row apart; method.packing=false "
                "would do"
            )
        self.facts["data"] = {**table.facts(), "columns": columns, "form": self.form, "held_out": int(held.sum())}
        shown = " -> ".join(filter(None, [" + ".join(columns[:-1]), columns[-1]]))
        self.notices.append(
            f"data       {table.name}: {shown}, {len(self.train):,} to learn from, {len(self.held):,} "
            f"held out{table.left_out()}"
        )

    def columns(self, table: examples.Table) -> list[str]:
        """Columns: [messages], or [prompt, completion], optionally with an input in between; written into the
        config."""
        method: InstructionMethod = self.config.method
        asked = bool(method.prompt)
        for name in ("messages", "prompt", "completion", "input"):
            given = getattr(method, name)
            if given and given not in table.columns and not (name == "input" and self.run):
                raise unknown_column(given, table.columns, table.name, f"method.{name}")
            if not given and name in NAMES:
                usual = [c for c in table.columns if c.lower() in NAMES[name]]
                found = min(usual, key=lambda c: NAMES[name].index(c.lower())) if usual else ""
                pair = bool(method.prompt or method.completion)
                if name != "messages" or not pair:
                    setattr(method, name, found)
            if name == "messages" and method.messages:
                if method.input:
                    raise RequestError(f"method.input={method.input}: has no effect because the examples are chats")
                return [method.messages]
        if not method.prompt or not method.completion or method.prompt == method.completion:
            raise RequestError(
                f"{table.name} has the columns {', '.join(table.columns)}: name two with method.prompt and "
                "method.completion, or one of chat messages with method.messages"
            )
        if not asked:
            method.input = method.input or examples.input_column(table, method.prompt)
        return [name for name in (method.prompt, method.input, method.completion) if name]

    def write(self, values: Sequence[Any], longest: int) -> template.Written:
        """The example's tokens, at most `longest`, including part of an answer and, if it fits, its end. ValueError if
        the prompt leaves no room, or the chat template refuses the messages."""
        if self.form == CHAT:
            whole = template.chat(self.tokenizer, values[0])
        else:
            whole = template.written(self.tokenizer, values[0], values[1])
        before = whole.answer.index(True)
        if before >= longest:
            raise ValueError(
                f"the prompt has {before:,} tokens, which leaves no room for an answer in the {longest:,} that the "
                "model reads; shorten it, or give a model with a longer block"
            )
        return template.Written(whole.ids[:longest], whole.answer[:longest])

    def prompt_of(self, values: Sequence[Any]) -> tuple[str, list[int]]:
        """The prompt as text and tokens, without the last answer."""
        if self.form == CHAT:
            asked = values[0][:-1]
            shown = "\n".join(f"{message['role']}: {message['content']}" for message in asked)
            return shown, template.chat_prompt_ids(self.tokenizer, asked)
        return values[0], self.tokenizer.begin(values[0])

    def _fits(self, prompt: str, longest: int) -> bool:
        return len(self.tokenizer.begin(prompt)) <= 3 * longest // 4

    def _takes_documents(self) -> bool:
        return bool(getattr(self.start.model, "takes_documents", True))

    def default_budget(self) -> int:
        return max(1, int(passes(self.config, len(self.train)) * self.epoch()))

    def epoch(self) -> int:
        return sum(len(self.examples[i].ids) for i in self.train)

    def tokens_per_epoch(self) -> int:
        return max(1, self.epoch(), self.config.budget // TIMES)

    def tokens_per_update(self) -> int:
        return self.config.batch_size * self.epoch() // max(1, len(self.train))

    # ---- an update

    def batch(self, update: int) -> list[Batch]:
        config = self.config
        rows = self.train[chosen(len(self.train), config.batch_size, config.seed, update)].tolist()
        most = -(-len(rows) // config.gradient_accumulation_steps)
        if config.method.packing:
            bins = packed([len(self.examples[i].ids) for i in rows], self.start.model.block_size)
            whole = [[rows[i] for i in one] for one in bins]
            return [self.collate(whole[at : at + most]) for at in range(0, len(whole), most)]
        parts = by_length(rows, [len(self.examples[i].ids) for i in rows], most)
        return [self.collate([[i] for i in part]) for part in parts]

    def collate(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Rows of one or several examples: `tokens`, `labels` (the next token if part of an answer) and, with several,
        `documents`, all `[rows, longest]`."""
        longest = max(sum(len(self.examples[i].ids) for i in row) for row in rows)
        tokens = torch.full((len(rows), longest), self.tokenizer.pad_id)
        labels = torch.full((len(rows), longest), IGNORED)
        documents = torch.full((len(rows), longest), -1)
        for r, row in enumerate(rows):
            at = 0
            for number, i in enumerate(row):
                ids = torch.tensor(self.examples[i].ids)
                answer = torch.tensor(self.examples[i].answer)
                tokens[r, at : at + len(ids)] = ids
                labels[r, at : at + len(ids) - 1] = ids[1:].where(answer[1:], IGNORED)
                documents[r, at : at + len(ids)] = number
                at += len(ids)
        batch = {"tokens": tokens, "labels": labels}
        if any(len(row) > 1 for row in rows):
            batch["documents"] = documents
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        batch["weight"] = (batch["labels"] >= 0).sum()
        batch["count"] = torch.tensor(sum(len(self.examples[i].ids) for row in rows for i in row))
        return batch

    def answers(self, part: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[n, vocab]` and labels `[n]` of the answers' tokens; the head runs on these only."""
        hidden = self.start.model(part["tokens"], part.get("documents"))
        places = part["labels"] >= 0
        return self.start.model.logits(hidden[places]).float(), part["labels"][places]

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits, labels = self.answers(part)
        right = (logits.argmax(-1) == labels).float().sum()
        return F.cross_entropy(logits, labels, reduction="sum"), {"train/accuracy": right}

    # ---- evaluating

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        method: InstructionMethod = self.config.method
        self.model.eval()
        order = sorted(self.held.tolist(), key=lambda i: len(self.examples[i].ids))
        nats, right, count = 0.0, 0, 0
        for at in range(0, len(order), ROWS):
            with self.autocast():
                logits, labels = self.answers(self.collate([[i] for i in order[at : at + ROWS]]))
            nats += float(F.cross_entropy(logits, labels, reduction="none").double().sum())
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
        loss = nats / count
        metrics = {
            "validation/loss": loss,
            "validation/perplexity": math.exp(min(loss, 700.0)),
            "validation/accuracy": right / count,
        }
        shown = self.held[np.linspace(0, len(self.held) - 1, min(method.samples, len(self.held))).astype(int)].tolist()
        rows = [self.prompts[i][1] for i in shown]
        new = (
            sample(
                self.start.model,
                rows,
                method.sample_tokens,
                0.0,
                stop=self.tokenizer.stop_ids,
                pad=self.tokenizer.pad_id,
            )
            if rows
            else []
        )
        answers = []
        for i, row, tokens in zip(shown, rows, new, strict=True):
            text, answer = self.prompts[i][0], continued(self.tokenizer, row, tokens)
            wanted = self.tokenizer.decode(
                [t for t, mine in zip(self.examples[i].ids, self.examples[i].answer, strict=True) if mine]
            )
            answers.append({"prompt": text, "answer": answer, "wanted": wanted})
        self.model.train()
        parts = [f"```\n{s['prompt']}\n```\n\n→ {s['answer']}\n\n(wanted: {s['wanted']})" for s in answers]
        texts = {"samples": "\n\n---\n\n".join(parts)} if parts else {}
        return Evaluation(metrics, {"examples": len(self.held), "tokens": count, "samples": answers}, texts=texts)

    def evaluated_texts(self) -> list[str]:
        return [self.tokenizer.decode(self.examples[i].ids) for i in self.held]

    @staticmethod
    def adopt(config: Any, folder: Path) -> None:
        """Adapt `config` for evaluating other data: all of it is held out."""
        config.method.held_out = 1.0

    @staticmethod
    def load(config: FinetuneConfig, state: Mapping[str, Any], device: torch.device, folder: Path) -> LanguageModel:
        """The language model of the finished run in `folder`; for chat models, prompts are user messages."""
        tokenizer = Tokenizer.of_run(folder)
        model = language_part(config, state["model"], tokenizer).to(device).eval()
        return language_model(model, tokenizer, chat=bool(config.method.messages))


def as_answer(value: object) -> str:
    if isinstance(value, str) and not value.strip():
        raise ValueError("is an empty answer: nothing to learn")
    return examples.as_text(value)


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Pack examples into rows of `room` tokens by first-fit decreasing; returns their numbers by row."""
    bins: list[list[int]] = []
    left: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((b for b, free in enumerate(left) if free >= lengths[i]), None)
        if place is None:
            bins.append([])
            left.append(room)
            place = len(bins) - 1
        bins[place].append(i)
        left[place] -= lengths[i]
    return bins

"""The base of methods that learn from a reward: sample completions of prompts, score them, take gradient steps on them.

A method's own file has its advantages and its loss. An update samples `group_size` completions of each of `prompts`
prompts, and takes `n_epochs` passes over them in shuffled minibatches of `batch_size`. Prompts, sampling and order are
functions of the seed and the update's number. Dropout is off, so that before the first step the trained policy is the
one that sampled.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlgym.agents.common.losses import approximate_kl
from rlgym.common.atomic_io import write_atomic
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import NON_FINITE, Evaluation, Metrics, Section, Shared
from rlgym.ssl.data.documents import left_out
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune import kl, prompts, rewards, template
from rlgym.ssl.finetune.chat import language_model, resolve_chat
from rlgym.ssl.finetune.config import PythonSyntaxReward, RewardedMethod
from rlgym.ssl.finetune.finetuning import Finetuning, chosen
from rlgym.ssl.finetune.rollouts import Rollouts, Sampling, diversity, roll_out
from rlgym.ssl.finetune.start import language_part
from rlgym.ssl.inference.language_model import LanguageModel
from rlgym.ssl.inference.sampling import log_probabilities
from rlgym.ssl.learner import Batch
from rlgym.ssl.models.build import learning_rate_for
from rlgym.training.load_module import load_module

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig
    from rlgym.ssl.models.backbone import Backbone

SHARE_OF_PRETRAINING = 0.35
"""Share of the pretraining step size for a model of this width."""
EVALUATIONS = 10
"""Default number of evaluations per run."""
TRAINING, EVALUATION, ORDER = range(3)
"""Streams of random numbers."""
SHOWN = 8
"""Number of samples in TensorBoard at each evaluation."""
DIVERSE = "eval/diverse_reward"
"""eval/reward_mean, missing if the completions have collapsed."""


class Rewarded(Finetuning):
    """The learner: `update()` samples one batch of completions and takes its optimiser steps."""

    rewarded = True
    causal = True
    monitor = (DIVERSE, "max")
    default_tokens = 60_000

    def __init__(self, config: FinetuneConfig, run: Path | None = None) -> None:
        super().__init__(config, run)
        self.reference.to(self.device)
        self._shared = Shared(lambda: self.reference.state_dict())
        self.start_distinct = 0.0  # of the initial model, once evaluated
        self.try_reward()

    # ---- what a method defines

    @abstractmethod
    def learn(self, rollouts: Rollouts, reward: Tensor) -> Metrics:
        """The optimiser steps of one update, from completions and their rewards `[rows]`."""

    @property
    def n_epochs(self) -> int:
        return int(self.config.method.n_epochs)

    # ---- prompts, reward, reference

    def prepare(self) -> None:
        config = self.config
        method: RewardedMethod = config.method
        if config.adapt.mode == "head":
            raise RequestError("adapt.mode=head: a reward trains the model that samples; full, last or lora would do")
        if config.reward.name == "default":
            config.reward = PythonSyntaxReward()
        self.reward = rewards.build_reward(config.reward)
        if notice := resolve_chat(config, self.start):
            self.notices.append(notice)
        self.prompts = prompts.read_prompts(self.run) if self.run else prompts.open_prompts(config, self.check_prompt)
        if skipped := left_out(self.prompts.bad, self.prompts.first_bad):
            self.notices.append(f"data       {self.prompts.source}{skipped}")
        self.sampling = Sampling(method.max_new_tokens, method.temperature, method.top_k, method.top_p)
        self.train, self.held = self.encoded(self.prompts.train), self.encoded(self.prompts.held_out)
        self.facts["data"] = self.prompts.facts() | {"tokenizer": self._vocabulary()}
        self.reference: Backbone = copy.deepcopy(self.start.model).requires_grad_(False).eval()
        if config.optimizer.learning_rate is None:
            config.optimizer.learning_rate = SHARE_OF_PRETRAINING * learning_rate_for(self.start.model.width)

    def _vocabulary(self) -> dict[str, Any]:
        return {"vocab_size": self.tokenizer.vocab_size, "vocabulary": self.tokenizer.vocabulary}

    def check_prompt(self, text: str) -> None:
        """ValueError if a user's prompt leaves no room for a completion, or does not suit the reward."""
        if self.config.reward.name == "arithmetic":
            rewards.answer(text)
        method: RewardedMethod = self.config.method
        size = len(self.prompt_ids(text))
        if size > self.room:
            raise ValueError(
                f"the prompt has {size:,} tokens; with method.max_new_tokens={method.max_new_tokens} a block of "
                f"{self.start.model.block_size:,} has room for {max(self.room, 0):,}"
            )

    def prompt_ids(self, text: str) -> list[int]:
        return template.asked(self.tokenizer, text, bool(self.config.method.chat))

    @property
    def room(self) -> int:
        """Maximum tokens of a prompt."""
        return int(self.start.model.block_size - self.config.method.max_new_tokens)

    def encoded(self, texts: list[str]) -> list[tuple[str, list[int]]]:
        """Prompts with tokens, without those that leave no room for a completion."""
        try:
            found = [(text, ids) for text in texts if len(ids := self.prompt_ids(text)) <= self.room]
        except ValueError as error:
            raise RequestError(f"method.chat=true: {error}") from None
        if not found:
            raise RequestError(
                f"method.max_new_tokens={self.config.method.max_new_tokens} leaves no room for a prompt in a block of "
                f"{self.start.model.block_size:,}; fewer would do"
            )
        return found

    def try_reward(self) -> None:
        """Check the reward before the run starts."""
        name, texts = self.config.reward.name, [text for text, _ in (*self.train, *self.held)]
        texts = texts if name == "arithmetic" else texts[:2]
        try:
            rewards.score(self.reward, name, texts, [" "] * len(texts), [True] * len(texts))
        except rewards.RewardFault as error:
            raise RequestError(str(error)) from error

    def default_budget(self) -> int:
        return self.default_tokens

    def tokens_per_epoch(self) -> int:
        assert self.config.tokens is not None
        return max(1, self.config.tokens // EVALUATIONS)

    def tokens_per_update(self) -> int:
        method: RewardedMethod = self.config.method
        return method.prompts * method.group_size * method.max_new_tokens

    # ---- completions

    def generator(self, stream: int, number: int) -> torch.Generator:
        """The generator of one update's or evaluation's completions: a function of the seed and its number."""
        words = np.random.SeedSequence([self.config.seed, stream, number]).generate_state(2)
        return torch.Generator(self.device).manual_seed((int(words[0]) << 31) ^ int(words[1]))

    def complete(self, asked: list[tuple[str, list[int]]], generator: torch.Generator) -> tuple[Rollouts, Tensor]:
        """Sample a completion of each prompt, with rewards `[rows]`; TrainingError if the reward fails."""
        self.model.eval()
        with self.autocast():
            backbone = self.model.backbone
            rollouts = roll_out(backbone, self.tokenizer, [ids for _, ids in asked], self.sampling, generator)
        texts = [text for text, _ in asked]
        try:
            found = rewards.score(self.reward, self.config.reward.name, texts, rollouts.texts, rollouts.ended.tolist())
        except rewards.RewardFault as error:
            raise TrainingError(str(error)) from error
        return rollouts, found.to(self.device)

    def log_probs(self, backbone: Backbone, part: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the completions' tokens in `part` (tokens, mask `[rows, time]`): log-probability and entropy `[rows,
        time]`, 0 elsewhere, under the sampling distribution; and the hidden states `[n, width]` before each of them."""
        tokens, mask = part["tokens"], part["mask"]
        row, column = mask.nonzero(as_tuple=True)
        hidden = backbone(tokens)[row, column - 1]
        log_prob, entropy = log_probabilities(
            backbone.logits(hidden)[:, : backbone.tokens],
            tokens[row, column],
            self.sampling.temperature,
            self.sampling.top_k,
            self.sampling.top_p,
        )
        return spread(log_prob, mask), spread(entropy, mask), hidden

    @torch.no_grad()
    def evaluate_tokens(self, backbone: Backbone, rollouts: Rollouts) -> tuple[Tensor, Tensor, Tensor]:
        """`log_probs` of all completions in chunks, without gradients."""
        found = []
        for rows in torch.arange(len(rollouts.tokens), device=self.device).split(self.config.batch_size):
            with self.autocast():
                log_prob, entropy, hidden = self.log_probs(backbone, cut(rollouts_batch(rollouts), rows, trim=False))
            found.append((log_prob, entropy, hidden))
        log_prob, entropy, hidden = (torch.cat(parts) for parts in zip(*found, strict=True))
        return log_prob, entropy, hidden

    # ---- an update

    def update(self) -> Metrics:
        method: RewardedMethod = self.config.method
        number = self.progress.update
        metrics: Metrics = self.beginning() if number == 0 else {}
        drawn = chosen(len(self.train), method.prompts, self.config.seed, number)
        asked = [self.train[i] for i in drawn.tolist() for _ in range(method.group_size)]
        rollouts, reward = self.complete(asked, self.generator(TRAINING, number))
        self.progress.step += int(rollouts.mask.sum())
        metrics |= self.learn(rollouts, reward)
        self.progress.update += 1
        return metrics

    def beginning(self) -> Metrics:
        """Metrics of the initial model: the start/ tags of the first row."""
        found = self.evaluate().metrics
        self.start_distinct = found["eval/distinct_2"]
        self.notices.append(
            f"start      reward {found['eval/reward_mean']:.4g} on {min(len(self.held), self._prompts)} held-out "
            "prompts"
        )
        if not found["eval/reward_std"]:
            does = "; one that a bare `pretrain` makes, which has seen functions end, would do"
            self.notices.append(
                "start      every completion earns the same: there is nothing to prefer until some earn more"
                + (does if self.config.reward.name == "python_syntax" else "")
            )
        return {tag.replace("eval/", "start/"): value for tag, value in found.items() if tag != DIVERSE}

    @property
    def _prompts(self) -> int:
        return int(self.config.method.evaluate_prompts)

    def shaped(self, rollouts: Rollouts, reward: Tensor) -> Tensor:
        """Rewards `[rows]` including the penalty of truncated completions."""
        method: RewardedMethod = self.config.method
        if method.truncated != "penalise":
            return reward
        return reward - method.truncation_penalty * (~rollouts.ended).float()

    def learnable(self, rollouts: Rollouts) -> Tensor:
        """Mask of tokens in the loss, bool `[rows, time]`."""
        if self.config.method.truncated != "mask":
            return rollouts.mask
        return rollouts.mask & rollouts.ended[:, None]

    def observed(
        self, rollouts: Rollouts, reward: Tensor, log_prob: Tensor, reference: Tensor, entropy: Tensor
    ) -> Metrics:
        """Logged statistics of an update's completions, which reveal reward hacking."""
        mask, lengths = rollouts.mask, rollouts.lengths.float()
        tokens = mask.sum()
        metrics: Metrics = {
            "rollout/reward_mean": reward.mean(),
            "rollout/reward_std": reward.std(correction=0),
            "rollout/kl": (kl.k3(log_prob, reference) * mask).sum() / tokens,
            "rollout/kl_completion": (kl.k1(log_prob, reference) * mask).sum(1).mean(),
            "rollout/entropy": (entropy * mask).sum() / tokens,
            "rollout/length": lengths.mean(),
            "rollout/truncated": (~rollouts.ended).float().mean(),
        }
        return metrics | {f"rollout/{name}": value for name, value in diversity(rollouts).items()}

    def steps(self, whole: Batch) -> Metrics:
        """Take `n_epochs` passes over the rows of `whole`, one step per `batch_size`; returns mean metrics."""
        config, device = self.config, self.device
        rows, seen = len(whole["tokens"]), []
        for epoch in range(self.n_epochs):
            order = np.random.default_rng([config.seed, ORDER, self.progress.update, epoch]).permutation(rows)
            for at in range(0, rows, config.batch_size):
                picked = torch.from_numpy(order[at : at + config.batch_size]).to(device)
                size = -(-len(picked) // config.gradient_accumulation_steps)
                parts = [cut(whole, some) for some in picked.split(size)]
                weigh(parts, [self.weight(part) for part in parts])
                seen.append(self.descend(parts))
        found: Metrics = {}
        for tag in seen[0]:
            values = torch.stack([torch.as_tensor(each[tag], device=device).float() for each in seen])
            found[tag] = values.sum() if tag == NON_FINITE else values.mean()
        return found

    def weight(self, part: Batch) -> Tensor:
        """Divisor of a part's summed loss, 0-d: its tokens in the loss."""
        return part["counts"].sum()

    # ---- evaluating

    def evaluate(self) -> Evaluation:
        asked = self.held[: self._prompts]
        rollouts, reward = self.complete(asked, self.generator(EVALUATION, 0))
        log_prob, entropy, _ = self.evaluate_tokens(self.model.backbone, rollouts)
        reference, _, _ = self.evaluate_tokens(self.reference, rollouts)
        found = self.observed(rollouts, reward, log_prob, reference, entropy)
        metrics = {tag.replace("rollout/", "eval/"): float(value) for tag, value in found.items()}
        lines = []
        if metrics["eval/distinct_2"] >= self.config.method.min_distinct * self.start_distinct:
            metrics[DIVERSE] = metrics["eval/reward_mean"]
        else:
            lines = [
                f"The completions have collapsed: distinct_2 {metrics['eval/distinct_2']:.2f}, at the start "
                f"{self.start_distinct:.2f}. A larger method.kl_coef or fewer tokens would do."
            ]
        rows = zip([text for text, _ in asked], rollouts.texts, reward.tolist(), rollouts.ended.tolist(), strict=True)
        samples = [{"prompt": p, "completion": c, "reward": r, "ended": e} for p, c, r, e in rows]
        return Evaluation(
            metrics,
            {"examples": len(samples), "samples": samples},
            texts={"samples": shown(samples[:SHOWN])},
            lines=lines,
        )

    # ---- the rest of a learner

    def write_run_files(self, folder: Path) -> dict[str, str]:
        write_atomic(folder / prompts.FILE, self.prompts.to_json())
        return super().write_run_files(folder)

    def state_dict(self) -> dict[str, Section]:
        return {**super().state_dict(), "reference": {"weights": self._shared, "distinct_2": self.start_distinct}}

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        super().load_state_dict(state)
        kept: Any = state["reference"]["weights"]
        load_module(self.reference, kept.make())
        self._shared = kept
        self.start_distinct = float(state["reference"]["distinct_2"])

    @classmethod
    def load(
        cls, config: FinetuneConfig, state: Mapping[str, Section], device: torch.device, folder: Path
    ) -> LanguageModel:
        """The language model of the finished run in `folder`, with LoRA weights merged."""
        tokenizer = Tokenizer.of_run(folder)
        model = language_part(config, state["model"], tokenizer)
        return language_model(model.to(device).eval(), tokenizer, bool(config.method.chat))


def rollouts_batch(rollouts: Rollouts) -> Batch:
    return {"tokens": rollouts.tokens, "mask": rollouts.mask}


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Scatter `values [n]` to the True positions of `mask [rows, time]`; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def cut(whole: Batch, rows: Tensor, trim: bool = True) -> Batch:
    """Select rows of a batch, and with `trim` its columns up to the longest row."""
    part = {name: tensor[rows] for name, tensor in whole.items()}
    if not trim:
        return part
    columns = part["mask"].any(0).nonzero()
    end = int(columns[-1]) + 1
    return {name: tensor[:, :end] if tensor.ndim == 2 else tensor for name, tensor in part.items()}


def weigh(parts: list[Batch], weights: list[Tensor]) -> None:
    """Give the first part the weight of the whole batch, at least 1 to avoid division by 0; and each part the factor
    `per_token`, which turns its sum over tokens into a share of their mean after the division."""
    total = torch.stack(weights).sum().float().clamp(min=1.0)
    tokens = torch.stack([part["counts"].sum() for part in parts]).sum().float().clamp(min=1.0)
    for number, part in enumerate(parts):
        part["weight"] = total if number == 0 else torch.zeros_like(total)
        part["per_token"] = total / tokens


def surrogate_statistics(
    part: Batch, surrogate: Tensor, log_ratio: Tensor, low: float, high: float
) -> dict[str, Tensor]:
    """Sums of logged statistics of a clipped surrogate `[rows, time]`."""
    counts, scale = part["counts"], part["per_token"]
    with torch.no_grad():
        ratio = log_ratio.exp()
        clipped = ((ratio < 1 - low) | (ratio > 1 + high)).float()
        tokens = counts.sum()
        return {
            "train/policy_gradient_loss": (surrogate * counts).sum() * scale,
            "train/clip_fraction": (clipped * counts).sum() * scale,
            "train/approx_kl": approximate_kl(log_ratio[counts]) * tokens * scale if tokens else tokens * scale,
        }


def shown(samples: list[dict[str, Any]]) -> str:
    """Markdown: each prompt and its completion, with its reward."""
    texts = []
    for sample in samples:
        end = "" if sample["ended"] else " (truncated)"
        text = (sample["prompt"] + "⟦" + sample["completion"] + "⟧").replace("```", "'''")
        texts.append(f"reward {sample['reward']:.4g}{end}\n\n```\n{text}\n```")
    return "\n\n".join(texts)

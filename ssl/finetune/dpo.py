"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): a decoder learns to prefer the chosen
answers while staying close to its initial model, without a reward model and without sampling. The log-probabilities of
all answers under that reference model are computed once, before the first step and without dropout, and are part of
every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.config.effect import no_effect
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import Evaluation, Metrics, Section
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune import rewards, template
from rlgym.ssl.finetune.chat import language_model, resolve_chat
from rlgym.ssl.finetune.config import PythonSyntaxReward
from rlgym.ssl.finetune.paired import Paired
from rlgym.ssl.finetune.preferences import by_kind, kind_table
from rlgym.ssl.finetune.rollouts import Sampling, roll_out
from rlgym.ssl.finetune.start import language_part
from rlgym.ssl.inference.language_model import LanguageModel
from rlgym.ssl.learner import Batch
from rlgym.ssl.models.build import learning_rate_for

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig
    from rlgym.ssl.finetune.config import DPOMethod
    from rlgym.ssl.models.backbone import Backbone

SHARE_OF_PRETRAINING = 0.1
"""Share of the pretraining step size for a model of this width."""
SHOWN = 6
"""Number of answers in TensorBoard at each evaluation."""


class DPO(Paired):
    rewarded = True
    """An optional reward scores sampled answers in evaluations; it is not used in training."""
    causal = True
    monitor = ("validation/loss", "min")

    def __init__(self, config: FinetuneConfig, run: Path | None = None) -> None:
        super().__init__(config, run)
        self.reference = torch.zeros(2, len(self.pairs))
        """Log-probabilities of the chosen and the rejected answers under the reference, `[2, pairs]`, on the CPU."""
        if run is None:
            self.reference = self.log_probs_of(range(len(self.pairs)))

    def prepare(self) -> None:
        config = self.config
        if config.method.loss_type == "ipo" and config.method.label_smoothing:
            raise RequestError(
                f"method.label_smoothing={config.method.label_smoothing:g}: only with method.loss_type=sigmoid"
            )
        if self.run is None and config.reward.name != "default" and not config.method.samples:
            raise no_effect("reward", config.reward.name, "method.samples=0: it scores sampled answers")
        if notice := resolve_chat(config, self.start):
            self.notices.append(notice)
        super().prepare()
        if config.reward.name == "default" and config.data.name == "default":
            config.reward = PythonSyntaxReward()
        self.reward = None if config.reward.name == "default" else rewards.build_reward(config.reward)
        if config.method.rpo_alpha is None:
            config.method.rpo_alpha = 1.0 if config.data.name == "default" else 0.0
        if config.method.epochs is None:
            config.method.epochs = 0.5 if config.data.name == "default" else 2.0
        if config.optimizer.learning_rate is None:
            config.optimizer.learning_rate = SHARE_OF_PRETRAINING * learning_rate_for(self.start.model.width)

    # ---- log-probabilities

    def log_probs(self, part: Batch) -> Tensor:
        """Log-probabilities of the chosen and rejected answers, `[2, pairs]`."""
        return answer_log_probs(self.start.model, part["tokens"], part["answer"]).view(2, -1)

    @torch.no_grad()
    def log_probs_of(self, rows: Sequence[int]) -> Tensor:
        """`log_probs` of the pairs `rows`, `[2, pairs]`, on the CPU; without dropout."""
        was_training = self.model.training
        self.model.eval()
        found = torch.empty(2, len(rows))
        for places, part in self.parts(rows):
            with self.autocast():
                found[:, places] = self.log_probs(part).cpu()
        self.model.train(was_training)
        return found

    # ---- an update

    def update(self) -> Metrics:
        start: Metrics = {}
        if not self.progress.update and self.config.method.samples:
            start = {tag.replace("validation/", "start/"): value for tag, value in self.sampled()[0].items()}
        return start | super().update()

    def loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        reference = self.reference[:, part["pair"]].to(self.device)
        policy = self.log_probs(part)
        each = self.cost(policy, reference, part["answer"].sum(1).view(2, -1))
        with torch.no_grad():
            reward = self.config.method.beta * (policy - reference)
            margin = reward[0] - reward[1]
        return each.sum(), {"train/accuracy": (margin > 0).float().sum(), "train/margin": margin.sum()}

    def cost(self, policy: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
        """The loss `[pairs]`, from log-probabilities and token counts of the answers, `[2, pairs]` each."""
        method: DPOMethod = self.config.method
        if method.loss_type == "ipo":
            each = ipo_loss(policy / lengths, reference / lengths, method.beta)
        else:
            each = dpo_loss(policy, reference, method.beta, method.label_smoothing)
        return each + method.rpo_alpha * mean_nll(policy[0], lengths[0]) if method.rpo_alpha else each

    # ---- evaluating

    def evaluate(self) -> Evaluation:
        beta, held = self.config.method.beta, [self.tokens[i] for i in self.held]
        policy, reference = self.log_probs_of(self.held.tolist()), self.reference[:, self.held]
        lengths = torch.tensor([[len(side) - pair.prompt for side in (pair.chosen, pair.rejected)] for pair in held]).T
        moved = policy - reference
        margin = beta * (moved[0] - moved[1])
        right = (margin > 0).numpy()
        gap, before = policy[0] - policy[1], reference[0] - reference[1]
        metrics = {
            "validation/loss": float(self.cost(policy, reference, lengths).mean()),
            "validation/accuracy": float(right.mean()),
            "validation/margin": float(margin.mean()),
            "validation/reward_chosen": float(beta * moved[0].mean()),
            "validation/reward_rejected": float(beta * moved[1].mean()),
            "validation/logratio": float(gap.mean()),
            "validation/logratio_reference": float(before.mean()),
            "validation/likelier": float((gap > 0).float().mean()),
            "validation/drift_chosen": float((moved[0] / lengths[0]).mean()),
            "validation/drift_rejected": float((moved[1] / lengths[1]).mean()),
        }
        kinds = by_kind(right, self.kinds())
        records: dict[str, Any] = {"examples": len(right), "kinds": kinds}
        texts = {"kinds": kind_table(kinds)} if kinds else {}
        line = (
            f"log-ratio of chosen over rejected {float(gap.mean()):.2f} nats, {float(before.mean()):.2f} at the start; "
            f"accuracy {right.mean():.2%} on {len(right):,} held-out pairs"
        )
        if self.config.method.samples:
            found, records["samples"], texts["samples"] = self.sampled()
            metrics |= found
        return Evaluation(metrics, records, texts=texts, lines=[line])

    def sampled(self) -> tuple[dict[str, float], list[dict[str, Any]], str]:
        """Sampled answers to the first held-out prompts: (metrics, records, Markdown)."""
        method: DPOMethod = self.config.method
        asked = list(dict.fromkeys(self.pairs[i].prompt for i in self.held))[: method.samples]
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        rows = [template.asked(self.tokenizer, text, bool(method.chat)) for text in asked]
        self.model.eval()
        with self.autocast():
            found = roll_out(self.start.model, self.tokenizer, rows, Sampling(method.sample_tokens), generator)
        metrics = {"validation/sample_length": float(found.lengths.float().mean())}
        ended = found.ended.tolist()
        samples = [
            {"prompt": prompt, "completion": text, "ended": end}
            for prompt, text, end in zip(asked, found.texts, ended, strict=True)
        ]
        if self.reward is not None:
            try:
                scores = rewards.score(self.reward, self.config.reward.name, asked, found.texts, ended)
            except rewards.RewardFault as error:
                raise TrainingError(str(error)) from error
            metrics["validation/sample_reward"] = float(scores.mean())
            for sample, score in zip(samples, scores.tolist(), strict=True):
                sample["reward"] = score
        return metrics, samples, shown(samples[:SHOWN])

    # ---- the rest of a learner

    def state_dict(self) -> dict[str, Section]:
        return {**super().state_dict(), "reference": {"log_probs": self.reference}}

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        super().load_state_dict(state)
        kept = state["reference"]["log_probs"]
        if self.config.method.held_out < 1:
            self.reference = kept
        else:  # other data: compute the reference's log-probabilities
            self.ask_reference()

    def ask_reference(self) -> None:
        """Compute the reference's log-probabilities of new pairs, by the initial model."""
        try:
            start = self._start(None)
        except RequestError as error:
            raise RequestError(f"evaluating other pairs needs the model that the run started from: {error}") from None
        own, self.start = self.start, start
        start.model.to(self.device).eval()
        self.reference = self.log_probs_of(range(len(self.pairs)))
        self.start = own

    @staticmethod
    def load(config: FinetuneConfig, state: Mapping[str, Section], device: torch.device, folder: Path) -> LanguageModel:
        """The language model of the finished run in `folder`, with LoRA weights merged."""
        tokenizer = Tokenizer.of_run(folder)
        model = language_part(config, state["model"], tokenizer)
        return language_model(model.to(device).eval(), tokenizer, bool(config.method.chat))


# ---- the mathematics


def answer_log_probs(model: Backbone, tokens: Tensor, answer: Tensor) -> Tensor:
    """Log-probability in nats of each row's answer, `[rows]`: of the tokens marked by `answer` in `tokens`, both
    `[rows, time]`. Only these positions reach the head."""
    row, column = answer.nonzero(as_tuple=True)
    logits = model.logits(model(tokens)[row, column - 1])[:, : model.tokens].float()
    each = -F.cross_entropy(logits, tokens[row, column], reduction="none")
    return torch.zeros(answer.shape, dtype=each.dtype, device=each.device).masked_scatter(answer, each).sum(1)


def dpo_loss(policy: Tensor, reference: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The DPO loss `[pairs]` (Rafailov et al. 2023, equation 7), from log-probabilities `[2, pairs]` of the chosen and
    rejected answers. `label_smoothing`: the assumed share of flipped preferences (Mitchell 2023, "A note on DPO with
    noisy preferences", equation 3).
    """
    moved = policy - reference
    margin = beta * (moved[0] - moved[1])
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """The IPO loss `[pairs]` (Azar et al. 2023, equation 17, with tau = `beta`), from log-probabilities `[2, pairs]`
    averaged over tokens, as computed by its authors, so that long answers do not count more."""
    moved = policy - reference
    return (moved[0] - moved[1] - 1 / (2 * beta)).square()


def mean_nll(log_prob: Tensor, length: Tensor) -> Tensor:
    """Negative log-likelihood of the chosen answers, `[pairs]`, in nats per token, added to the preference loss (Pang
    et al. 2024, arXiv:2404.19733, equation 1) so that both answers do not become unlikely."""
    return -log_prob / length


def shown(samples: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: each prompt and its answer, with its reward if it has one."""
    blocks = []
    for sample in samples:
        said = [f"reward {sample['reward']:.4g}"] if "reward" in sample else []
        said += [] if sample["ended"] else ["truncated"]
        text = f"{sample['prompt']}⟦{sample['completion']}⟧".replace("```", "'''")
        blocks.append(f"{', '.join(said)}\n\n```\n{text}\n```")
    return "\n\n".join(blocks)

"""A finished language model: the result of `rlgym.load(run)` for runs trained on text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.learner import Section
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.inference.sampling import sample
from rlgym.ssl.models.build import build_model
from rlgym.training.load_module import load_finite

if TYPE_CHECKING:
    from rlgym.config.schema import PretrainConfig
    from rlgym.ssl.models.backbone import Backbone

MASK = "[MASK]"


class LanguageModel:
    """A model with its tokenizer. `model(tokens)` returns hidden states, `model.logits(hidden)` logits."""

    def __init__(self, model: Backbone, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @staticmethod
    def load(config: PretrainConfig, weights: Section, device: torch.device, folder: Path) -> LanguageModel:
        """Load from the config of the run in `folder`, a checkpoint's weights, and the run's tokenizer."""
        tokenizer = Tokenizer.of_run(folder)
        model = build_model(config.model, tokenizer.vocab_size, config.seed, config.is_causal)
        load_finite(model, weights)
        return LanguageModel(model.to(device).eval(), tokenizer)

    @property
    def causal(self) -> bool:
        return self.model.causal

    @property
    def device(self) -> torch.device:
        return self.model.embedding().device

    def prompt_ids(self, text: str) -> list[int]:
        """Encode a prompt as the beginning of a document; special tokens are recognised, as in transformers."""
        return [self.tokenizer.bos_id, *self.tokenizer.encode_prompt(text)]

    def generate(
        self,
        prompt: str | list[str] = "",
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Generate the continuation of each prompt (one, or a list for one batch), up to the end of its document.
        Without a seed, results differ each time.
        """
        if not self.causal:
            raise RequestError("a masked model does not continue text; fill predicts [MASK] tokens")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        generator = torch.Generator(self.device)
        generator.seed() if seed is None else generator.manual_seed(seed)
        rows = [self.prompt_ids(text) for text in prompts]
        new = sample(
            self.model,
            rows,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            generator,
            stop=self.tokenizer.stop_ids,
            pad=self.tokenizer.pad_id,
        )
        return [continued(self.tokenizer, row, tokens) for row, tokens in zip(rows, new, strict=True)]

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each [MASK] in `text` the `top` most likely tokens and their probabilities."""
        _, _, tokens, shares = self._guesses(text, top)
        return [
            [(self.tokenizer.decode([token]), share) for token, share in zip(*each, strict=True)]
            for each in zip(tokens, shares, strict=True)
        ]

    def filled(self, text: str) -> str:
        """`text` as decoded by the tokenizer, with the most likely token for each [MASK]."""
        ids, places, tokens, _ = self._guesses(text, 1)
        for place, (best,) in zip(places, tokens, strict=True):
            ids[place] = best
        return self.tokenizer.decode(ids)

    @torch.inference_mode()
    def _guesses(self, text: str, top: int) -> tuple[list[int], list[int], list[list[int]], list[list[float]]]:
        """(tokens of `text`, positions of the masks, and for each mask the most likely tokens and their probabilities).
        [MASK] stands for the tokenizer's mask token, whatever its name."""
        tokenizer = self.tokenizer
        if self.causal or tokenizer.mask_id is None:
            raise RequestError("a next-token model has no [MASK]: generate continues a prompt")
        typed = text.replace(MASK, tokenizer.roles["mask_token"])
        ids = [tokenizer.bos_id, *tokenizer.encode_prompt(typed), tokenizer.eos_id]
        places = [at for at, token in enumerate(ids) if token == tokenizer.mask_id]
        if not places:
            raise RequestError(f"text={text!r} has no [MASK] to fill")
        if len(ids) > self.model.block_size:
            raise RequestError(
                f"text has {len(ids):,} tokens and the model reads {self.model.block_size:,}; shorten it"
            )
        tokens = torch.tensor([ids], device=self.device)
        logits = self.model.logits(self.model(tokens)[0, places])[:, : tokenizer.vocab_size].float()
        logits[:, tokenizer.special_ids] = -torch.inf
        best = logits.softmax(-1).topk(min(top, logits.shape[-1] - len(tokenizer.special_ids)), dim=-1)
        return ids, places, best.indices.tolist(), best.values.tolist()

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> Tensor:
        """The mean hidden state of each text, `[texts, width]`; texts are truncated to the model's block."""
        rows = [self.tokenizer.begin(text)[: self.model.block_size] for text in texts]
        hidden = [self.model(torch.tensor([row], device=self.device))[0].mean(0) for row in rows]
        return torch.stack(hidden)


def continued(tokenizer: Tokenizer, row: list[int], new: list[int]) -> str:
    """Decode the tokens `new` after those of `row`; decoded together, since a character may span both."""
    before = tokenizer.decode(row)
    whole = tokenizer.decode(row + new)
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)


def load_weights(config: PretrainConfig, state: Mapping[str, Section]) -> Section:
    """A checkpoint's weights for use: the averaged ones if the run kept them."""
    if config.ema_decay is None:
        return state["model"]
    return {name: state["ema"].get(name, tensor) for name, tensor in state["model"].items()}

"""Sampling from a decoder, batched and with a key-value cache, and the sampling distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlgym.ssl.models.backbone import Backbone

STEPS_BETWEEN_LOOKS = 8  # steps between checks for stopped rows, which synchronise with the device
SHARE_THAT_LEAVES = 0.25  # share of stopped rows from which on dropping them pays off


def warp(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits `[..., vocab]` of the sampling distribution, -inf for excluded tokens. In order: divide by the temperature
    (0: keep only the most likely token), keep the `top_k` most likely tokens, then the fewest of these whose
    probability reaches `top_p` (Holtzman et al. 2020, arXiv:1904.09751).
    """
    logits = logits.float()
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logits = logits / temperature
    if top_k and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        share = ordered.softmax(-1)
        beyond = share.cumsum(-1) - share >= top_p  # top_p is reached without this token
        beyond[..., 0] = False
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def log_probabilities(
    logits: Tensor, tokens: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of `tokens [...]` under the sampling distribution of `logits [..., vocab]`, and its entropy in
    nats, both `[...]`. A sampled token is always kept, even if rounding or a gradient step has moved it out of `top_k`
    or `top_p`, so that its probability is small but not 0, with a gradient.
    """
    assert temperature > 0, "the likeliest token alone is no distribution to learn from"
    warped = warp(logits, temperature, top_k, top_p)
    own = logits.float().gather(-1, tokens[..., None]) / temperature
    each = warped.scatter(-1, tokens[..., None], own).log_softmax(-1)
    share = each.exp()
    entropy = -torch.where(share > 0, share * each.clamp(min=torch.finfo(each.dtype).min), 0.0).sum(-1)
    return each.gather(-1, tokens[..., None]).squeeze(-1), entropy


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample one token from each row of `[batch, vocab]`: the argmin of exponential variables with the tokens'
    rates."""
    share = logits.softmax(-1)
    return (share / torch.empty_like(share).exponential_(generator=generator)).argmax(-1)


@torch.inference_mode()
def sample(
    model: Backbone,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    stop: Sequence[int] = (),
    pad: int = 0,
) -> list[list[int]]:
    """Continue each prompt by at most `max_new_tokens` tokens, the last one in `stop` if reached. Prompts may have
    different lengths, and rows are independent except for the shared generator, which is on the model's device. Stopped
    rows are dropped from the batch in groups. When a row exceeds the model's block, its older half is dropped.
    """
    assert model.causal and all(prompts), "a prompt has at least the token that begins a document"
    device, training = model.embedding().device, model.training
    model.eval()
    try:
        rows = _Rows(model, prompts, max_new_tokens, pad)
        places = list(range(len(prompts)))
        new: list[list[int]] = [[] for _ in prompts]
        stopped = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        ends = torch.tensor(stop, dtype=torch.long, device=device)
        for step in range(max_new_tokens):
            logits = model.logits(rows.hidden())[:, : model.tokens]
            tokens = draw(warp(logits, temperature, top_k, top_p), generator)
            rows.append(tokens)
            if stop:
                stopped |= torch.isin(tokens, ends)
                if step % STEPS_BETWEEN_LOOKS == STEPS_BETWEEN_LOOKS - 1:
                    gone = stopped.tolist()
                    if all(gone):
                        break
                    if sum(gone) >= SHARE_THAT_LEAVES * len(gone):
                        left = [row for row, done in enumerate(gone) if not done]
                        for place, row in zip(places, rows.new_tokens(), strict=True):
                            new[place] = row
                        rows.keep(left)
                        places, stopped = [places[row] for row in left], stopped[left]
        for place, row in zip(places, rows.new_tokens(), strict=True):
            new[place] = row
    finally:
        model.train(training)
    return [row[: next((at + 1 for at, token in enumerate(row) if token in stop), None)] for row in new]


class _Rows:
    """The texts so far and the part of each visible to the model. All lengths are known without synchronising with the
    device."""

    def __init__(self, model: Backbone, prompts: list[list[int]], room: int, pad: int) -> None:
        self.model = model
        longest = max(map(len, prompts))
        padded = [prompt + [pad] * (longest - len(prompt)) for prompt in prompts]
        self.text = torch.tensor(padded, device=model.embedding().device)
        self.text = torch.nn.functional.pad(self.text, (0, room), value=pad)
        self.given = [len(prompt) for prompt in prompts]
        self.ends = torch.tensor(self.given, device=self.text.device)
        self.added = 0
        self.seen = [min(len(prompt), model.block_size) for prompt in prompts]
        """Number of visible tokens at each row's end."""
        self.cache = model.new_cache(len(prompts))
        self.last: Tensor | None = None

    def view(self, rows: list[int], short: int = 0) -> Tensor:
        """The visible tokens of `rows` except the last `short`, `[rows, longest]`, right-padded."""
        starts = torch.tensor([self.given[row] + self.added - self.seen[row] for row in rows], device=self.text.device)
        width = max(self.seen[row] for row in rows) - short
        columns = (starts[:, None] + torch.arange(width, device=self.text.device)).clamp(max=self.text.shape[1] - 1)
        return self.text[torch.tensor(rows, device=self.text.device)].gather(1, columns)

    def hidden(self) -> Tensor:
        """Return the hidden state of each row's last token, `[batch, width]`."""
        every = list(range(len(self.given)))
        if self.cache is None or self.added == 0:
            if self.cache is None:
                hidden: Tensor = self.model(self.view(every))
            else:
                hidden = self.model(self.view(every), cache=self.cache)
                self.cache.set_lengths(self.seen)
            at = torch.tensor(self.seen, device=hidden.device) - 1
            return hidden[torch.arange(len(every), device=hidden.device), at]
        assert self.last is not None
        newest: Tensor = self.model(self.last[:, None], cache=self.cache)
        return newest[:, 0]

    def append(self, tokens: Tensor) -> None:
        """Append one token to each row; a row that exceeds the block keeps only its newer half."""
        self.text.scatter_(1, (self.ends + self.added)[:, None], tokens[:, None])
        self.added += 1
        self.last = tokens
        full = [row for row, seen in enumerate(self.seen) if seen == self.model.block_size]
        half = max(1, self.model.block_size // 2)
        self.seen = [half if row in full else seen + 1 for row, seen in enumerate(self.seen)]
        if full and self.cache is not None:
            fresh = self.model.new_cache(len(full))
            assert fresh is not None
            if half > 1:  # the newest token is processed in the next step, as for all rows
                self.model(self.view(full, short=1), cache=fresh)
            self.cache.put(torch.tensor(full, device=self.text.device), fresh)
            self.cache.set_lengths([seen - 1 for seen in self.seen])

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows; called after `append`."""
        index = torch.tensor(rows, device=self.text.device)
        assert self.last is not None
        self.text, self.ends, self.last = self.text[index], self.ends[index], self.last[index]
        self.given, self.seen = [self.given[row] for row in rows], [self.seen[row] for row in rows]
        if self.cache is not None:
            self.cache.keep(index)
            self.cache.set_lengths([seen - 1 for seen in self.seen])

    def new_tokens(self) -> list[list[int]]:
        columns = self.ends[:, None] + torch.arange(self.added, device=self.text.device)
        found: list[list[int]] = self.text.gather(1, columns).tolist()
        return found

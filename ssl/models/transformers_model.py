"""Any architecture of `transformers` by name, using its modules. Architectures differ in their inputs and heads, so
their capabilities are tested on a few tokens when built.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgym.common.suggest import did_you_mean
from rlgym.errors import RequestError
from rlgym.ssl.models.attention import Cache, pattern
from rlgym.ssl.models.backbone import Backbone
from rlgym.ssl.models.sizes import Estimate
from rlgym.ssl.models.weights import Weight, to_theirs

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from rlgym.ssl.config import TransformersModel

POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
ROOM = 2  # RoBERTa and related models count positions from 2


class TransformersBackbone(Backbone):
    def __init__(self, config: TransformersModel, tokens: int, vocab_size: int, causal: bool, seed: int) -> None:
        super().__init__()
        self.config, self.tokens, self.vocab_size, self.block_size = config, tokens, vocab_size, config.block_size
        self.causal = causal
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner = instance(config, vocab_size, causal)
        self.width = int(self.embedding().shape[1])
        self.with_positions: int | None = None
        """Position of the first token, if the architecture takes positions."""
        self.takes_documents = False
        self.parts: list[nn.Module] | None = []
        """The head as a sequence of modules; None: the whole model is run, and its outputs are logits."""
        training = self.inner.training
        self.inner.eval()
        with torch.no_grad():
            self._find_out()
        self.inner.train(training)
        self.tied = tied_names(self.inner)
        self.register_state_dict_post_hook(_drop_tied)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_restore_tied)  # type: ignore[no-untyped-call]

    @property
    def base(self) -> Any:
        """The architecture without its head, or all of it if it has no such part."""
        return getattr(self.inner, self.inner.base_model_prefix, self.inner)

    # ---- probing the architecture

    def _find_out(self) -> None:
        count = min(8, self.block_size)
        tokens = torch.arange(3, 3 + count)[None] % self.tokens
        try:
            plain = self._whole(tokens, {})
        except Exception as error:  # inconsistent values may raise anything
            raise refused(self.config, error) from error
        self._check_direction(tokens, plain)
        for first in (0, *range(1, ROOM + 1)):
            try:
                same = _close(self._whole(tokens, {"position_ids": first + torch.arange(count)[None]}), plain)
            except (TypeError, ValueError, IndexError, RuntimeError):
                continue
            if same:
                self.with_positions = first
                break
        self.parts = self._head(tokens)
        self.takes_documents = count >= 4 and self._keeps_apart(tokens)

    def _check_direction(self, tokens: Tensor, plain: Tensor) -> None:
        """Check that attention is causal, or bidirectional, as the objective requires."""
        changed = tokens.clone()
        changed[0, -1] = (changed[0, -1] + 1) % self.tokens
        causal = _close(self._whole(changed, {})[:, :-1], plain[:, :-1])
        if causal and not self.causal:
            raise RequestError(
                f"model.model_type={self.config.model_type} attends only to the left; objective=masked needs "
                "an encoder, such as model.model_type=roberta"
            )
        if self.causal and not causal:
            raise RequestError(
                f"model.model_type={self.config.model_type} attends to both sides; objective=next_token needs a "
                "decoder, such as model.model_type=gpt_neox (or +model.config.is_decoder=true, where it is known)"
            )

    def _head(self, tokens: Tensor) -> list[nn.Module] | None:
        """The modules from hidden states to logits, if they are a plain sequence."""
        if self.base is self.inner or self.inner.get_output_embeddings() is None:
            return None
        weight = self.inner.get_output_embeddings().weight
        weight.mul_(1024)  # soft caps that only affect large logits (Gemma) would not show with fresh weights
        try:
            return self._sequence(tokens, self._whole(tokens, {}))
        finally:
            weight.div_(1024)

    def _sequence(self, tokens: Tensor, plain: Tensor) -> list[nn.Module] | None:
        hidden = self._base(tokens, {})
        children = [module for module in self.inner.children() if module is not self.base]
        for parts in (children, [self.inner.get_output_embeddings()]):
            try:
                x = hidden
                for part in parts:
                    x = part(x)
                if x.shape == plain.shape and _close(x, plain):
                    return parts
            except (TypeError, ValueError, IndexError, RuntimeError):
                continue
        return None

    def _keeps_apart(self, tokens: Tensor) -> bool:
        """Whether two packed documents give the same outputs as separate ones."""
        window = getattr(self.inner.config, "sliding_window", None)
        if window is not None and window < self.block_size:
            return False  # the documents' mask would replace the window's
        first, second = tokens[:, :3], tokens[:, 3:]
        documents = torch.tensor([[0] * 3 + [1] * second.shape[1]])
        try:
            both = self._whole(tokens, self._inputs(tokens, documents))
            alone = [self._whole(part, {}) for part in (first, second)]
        except (TypeError, ValueError, IndexError, RuntimeError):
            return False
        return _close(both, torch.cat(alone, 1))

    # ---- the model

    def _inputs(self, tokens: Tensor, documents: Tensor | None) -> dict[str, Tensor]:
        """Inputs besides the tokens: restarting positions, and a mask `[batch, 1, time, time]`."""
        found: dict[str, Tensor] = {}
        if documents is None:
            if self.with_positions:
                at = torch.arange(tokens.shape[1], device=tokens.device)
                found["position_ids"] = (self.with_positions + at).expand(tokens.shape)
            return found
        shape = pattern(tokens, documents, None, self.causal)
        assert shape.mask is not None and shape.positions is not None
        if self.with_positions is not None:
            found["position_ids"] = self.with_positions + shape.positions
        mask = shape.mask
        if getattr(self.inner.config, "_attn_implementation", "") != "sdpa":  # an additive mask
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
        found["attention_mask"] = mask
        return found

    def _whole(self, tokens: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.inner(input_ids=tokens, **inputs, **_no_cache(self.inner)).logits
        return logits

    def _base(self, tokens: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        hidden: Tensor = self.base(input_ids=tokens, **inputs, **_no_cache(self.inner))[0]
        return hidden

    def forward(self, tokens: Tensor, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        assert cache is None
        if documents is not None and not self.takes_documents:
            raise no_documents(self.config)
        inputs = self._inputs(tokens, documents)
        return self._whole(tokens, inputs) if self.parts is None else self._base(tokens, inputs)

    def logits(self, hidden: Tensor) -> Tensor:
        for part in self.parts or ():
            hidden = part(hidden)
        return hidden

    def embedding(self) -> Tensor:
        weight: Tensor = self.inner.get_input_embeddings().weight
        return weight

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """2-d weights of repeated layers, recognised by the layer number in their names."""
        return {
            name: (parameter.shape[0],)
            for name, parameter in self.named_parameters()
            if parameter.ndim == 2 and re.search(r"\.\d+\.", name) and "embed" not in name
        }

    def weights(self) -> list[Weight]:
        return [Weight(name, (name.removeprefix("inner."),)) for name, _ in self.named_parameters()]

    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = self.inner.config.to_dict()
        return found

    def to_transformers(self) -> tuple[PretrainedConfig, dict[str, Tensor]]:
        return copy.deepcopy(self.inner.config), to_theirs(self, self.weights())


def no_documents(config: TransformersModel) -> RequestError:
    return RequestError(
        f"model.model_type={config.model_type} cannot keep the documents of a block apart; data.packing=stream would do"
    )


def refused(config: TransformersModel, error: Exception) -> RequestError:
    values = ", ".join(f"{key}={value}" for key, value in config.config.items())
    reason = " ".join(str(error).split())[:200]
    return RequestError(f"model.model_type={config.model_type} cannot be built with model.config {values}: {reason}")


def instance(config: TransformersModel, vocab_size: int, causal: bool) -> Any:
    """Build the module, initialised from torch's global generator; RequestError if the configuration is invalid."""
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    kind = config.model_type
    if kind not in CONFIG_MAPPING:
        near = did_you_mean(kind, CONFIG_MAPPING, "model.model_type=")
        raise RequestError(
            f"model.model_type={kind or '(empty)'} is not an architecture of transformers {transformers.__version__}"
            + (near or ", such as gpt_neox, mistral or roberta")
        )
    plain = AutoConfig.for_model(kind)
    for key in config.config:
        if not hasattr(plain, key):
            raise RequestError(
                f"model.config.{key}: {kind} has no such value{did_you_mean(key, plain.to_dict(), 'model.config.')}"
            )
    values: dict[str, Any] = {"vocab_size": vocab_size}
    values |= {
        key: None
        for key in ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
        if isinstance(getattr(plain, key, None), int) and getattr(plain, key) >= vocab_size
    }
    declared = plain.to_dict()
    for key in POSITIONS:
        if isinstance(declared.get(key), int) and declared[key] < config.block_size + ROOM:
            values[key] = config.block_size + ROOM
    values |= config.config
    auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    try:
        build: Any = auto.from_config
        return build(AutoConfig.for_model(kind, **values)).float()
    except Exception as error:  # exceptions depend on the architecture
        if "Unrecognized configuration class" in str(error):
            head = "next-token" if causal else "masked"
            raise RequestError(f"model.model_type={kind} has no {head} head in transformers") from error
        raise refused(config, error) from error


def resolve_padding(config: TransformersModel, pad_id: int) -> None:
    """Set the tokenizer's padding id in the config if open: RoBERTa and related models count positions from it, so that
    another id in an export would shift all positions."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if pad_id >= ROOM or config.model_type not in CONFIG_MAPPING:  # unknown ones are refused by `instance`
        return
    if hasattr(AutoConfig.for_model(config.model_type), "pad_token_id"):
        config.config.setdefault("pad_token_id", pad_id)


def count(config: TransformersModel, vocab_size: int, batch_size: int, causal: bool, predicted: float) -> Estimate:
    """Exact parameter count, from a model on the meta device; FLOP and memory as in `rlgym.ssl.models.build.estimate`,
    assuming that every matrix processes every token (a mixture of experts does less)."""
    with torch.device("meta"):
        inner = instance(config, vocab_size, causal)
    shape = inner.config
    layers = int(getattr(shape, "num_hidden_layers", 1))
    width = int(inner.get_input_embeddings().weight.shape[1])
    parameters = sum(parameter.numel() for parameter in inner.parameters())
    tables = sum(m.weight.numel() for m in inner.modules() if isinstance(m, nn.Embedding))
    head = vocab_size * width  # multiplied with each token, tied or not
    inside = parameters - tables - (0 if tied_names(inner) else head)
    flops = 6 * (inside + predicted * head) + 12 * layers * width * config.block_size
    kept = 4 * batch_size * config.block_size * (layers * 24 * width + 3 * predicted * vocab_size)
    return Estimate(parameters, float(flops), round(16 * parameters + kept))


def tied_names(inner: nn.Module) -> dict[str, str]:
    """Duplicate names of shared parameters -> the first name, which the state dict keeps."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, parameter in inner.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            found[name] = kept
    return found


def _drop_tied(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Mapping[str, Any]) -> None:
    assert isinstance(module, TransformersBackbone)
    for name in module.tied:
        state.pop(f"{prefix}inner.{name}", None)


def _restore_tied(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    assert isinstance(module, TransformersBackbone)
    for name, first in module.tied.items():
        if f"{prefix}inner.{first}" in state:
            state.setdefault(f"{prefix}inner.{name}", state[f"{prefix}inner.{first}"])


def _no_cache(inner: Any) -> dict[str, bool]:
    return {"use_cache": False} if hasattr(inner.config, "use_cache") else {}


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.isfinite(a).all()) and torch.allclose(a, b, rtol=1e-4, atol=1e-5)

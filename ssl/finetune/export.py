"""`export RUN` of a fine-tuned run: a folder that `transformers` loads, as a classifier, regressor, reward model or
language model.

Where transformers has a class for the head (`AutoModelForSequenceClassification`: ModernBERT with pooling mean or cls,
BERT with cls, decoders with last, including those on transformers' modules), the logits are equal. Other heads are
written to a separate file, with code in the README that applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.export_folder import export_folder, replacing
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load, open_checkpoint
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.finetune.adapt import take_lora
from rlgym.ssl.finetune.chat import Chat
from rlgym.ssl.finetune.labeller import Classifier, Headed, Regressor
from rlgym.ssl.finetune.reward_model import RewardModel
from rlgym.ssl.finetune.start import language_part
from rlgym.ssl.inference.export import write_model
from rlgym.ssl.inference.language_model import LanguageModel
from rlgym.ssl.models.transformers_model import TransformersBackbone

if TYPE_CHECKING:
    from rlgym.ssl.models.backbone import Backbone

LANGUAGE_HEADS = ("cls.", "head.", "decoder.", "lm_head.")
"""Prefixes of a language model's own head in transformers."""


def export(folder: Path, words: dict[str, Any]) -> Path:
    """Write configuration, weights, tokenizer and model card, complete or not at all; prints and returns the folder."""
    run = Run(folder)
    config = load_config(folder, trust=words["trust"])
    if words["adapter"] and config.adapt.mode != "lora":
        raise RequestError(f"adapter=true: {folder} was trained with adapt.mode={config.adapt.mode}, not with lora")
    model = load(run, words["checkpoint"], trust=words["trust"])
    if not isinstance(model, LanguageModel | Headed):
        raise RequestError(f"export: a run of method={config.method.name} has no folder that transformers loads")
    target = export_folder(words["path"], folder, "README.md")
    with replacing(target, (SafetensorError,)) as made:
        if words["adapter"]:
            state, _ = open_checkpoint(run, words["checkpoint"])
            plain = language_part(config, state["model"], model.tokenizer, merged=False)
            additions = take_lora(plain)
            model.model = plain.eval()
            (made / "base").mkdir()
            auto = write(model, made / "base")
            write_adapter(plain, additions, config.adapt, made)
            use = [
                f"from transformers import AutoTokenizer, {auto}",
                "from peft import PeftModel",
                f'model = PeftModel.from_pretrained({auto}.from_pretrained("base"), ".")',
                'tokenizer = AutoTokenizer.from_pretrained("base")',
            ]
        else:
            auto = write(model, made)
            use = how_to_use(model, auto)
        write_atomic(made / "README.md", card(run, config, model, use))
    print(f"written to {target}: {auto}.from_pretrained({str(target / 'base' if words['adapter'] else target)!r})")
    return target


def write(model: LanguageModel | Headed, made: Path) -> str:
    """Write the model to an empty folder; returns the transformers class that loads it."""
    if isinstance(model, LanguageModel):
        write_model(model, made)
        return "AutoModelForCausalLM" if model.causal else "AutoModelForMaskedLM"
    if fits_a_class(model):
        write_headed(model, made)
        return "AutoModelForSequenceClassification"
    write_model(LanguageModel(model.model, model.tokenizer), made)
    write_head(model, made)
    return "AutoModelForCausalLM" if model.model.causal else "AutoModelForMaskedLM"


def fits_a_class(model: Headed) -> bool:
    """Whether transformers has a class with this head."""
    kind = model.head.kind
    if kind == "score" and isinstance(model, RewardModel) and model.tokenizer.pad_id == model.tokenizer.eos_id:
        return False  # theirs uses the last non-padding token, which would miss the end of an answer
    if isinstance(model.model, TransformersBackbone):
        return kind == "score" and _scores(model.model)
    return kind in ("pooler", "score") or (kind == "prediction" and model.pooling in ("mean", "cls"))


def sequence_classes() -> Mapping[str, str]:
    """Architecture -> its sequence classification class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    found: Mapping[str, str] = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return found


def _scores(backbone: TransformersBackbone) -> bool:
    """Whether its architecture has a class with the base model and one matrix `score` on the last token."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            names = auto.from_config(AutoConfig.for_model(**backbone.configuration())).state_dict().keys()
    except Exception:  # no such class, or it cannot be built; exceptions depend on the architecture
        return False
    return set(names) == {*_without_head(backbone), "score.weight"}


def _without_head(backbone: Backbone) -> dict[str, Tensor]:
    """Weights under transformers' names, without the language model's own head."""
    _, state = backbone.to_transformers()
    if isinstance(backbone, TransformersBackbone):
        inside = f"{backbone.inner.base_model_prefix}."
        return {name: tensor for name, tensor in state.items() if name.startswith(inside)}
    return {name: tensor for name, tensor in state.items() if not name.startswith(LANGUAGE_HEADS)}


def write_headed(model: Headed, folder: Path) -> None:
    """config.json with the labels' names, model.safetensors and the tokenizer's files."""
    from safetensors.torch import save_file
    from transformers import AutoConfig

    backbone, tokenizer = model.model, model.tokenizer
    values = backbone.configuration()
    values["architectures"] = [sequence_classes()[values["model_type"]]]
    values |= {"pad_token_id": tokenizer.pad_id, **labels_of(model)}
    if model.head.kind == "prediction":
        values["classifier_pooling"] = model.pooling
    configuration = AutoConfig.for_model(**values)
    configuration.dtype = "float32"
    configuration.save_pretrained(folder)
    state = _without_head(backbone) | head_there(model)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    serving(model).save(folder, model.max_length)


def labels_of(model: Headed) -> dict[str, Any]:
    if isinstance(model, Classifier):
        return {
            "id2label": dict(enumerate(model.labels)),
            "label2id": {label: i for i, label in enumerate(model.labels)},
            "problem_type": "single_label_classification",
        }
    found: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if isinstance(model, Regressor) and model.head.kind == "score":  # without a bias for the mean
        found |= {"target_mean": model.mean, "target_std": model.std}
    return found


def head_there(model: Headed) -> dict[str, Tensor]:
    """The head under transformers' names, including a regressor's scale if it has a bias."""
    head = model.head
    weight: Tensor = head.out.weight
    bias: Tensor = head.out.bias
    if head.kind == "score":
        return {"score.weight": weight}
    if isinstance(model, Regressor):
        weight, bias = weight * model.std, bias * model.std + model.mean
    found = {"classifier.weight": weight, "classifier.bias": bias}
    if head.kind == "pooler":
        return found | {"bert.pooler.dense.weight": head.dense.weight, "bert.pooler.dense.bias": head.dense.bias}
    return found | {"head.dense.weight": head.dense.weight, "head.norm.weight": head.norm.weight}


def serving(model: Headed) -> Tokenizer:
    """A tokenizer with which transformers encodes as in training. A reward model reads a pair of prompt and answer,
    encoded separately, followed by the end of text."""
    return model.tokenizer.framed(answers=isinstance(model, RewardModel))


def write_head(model: Headed, folder: Path) -> None:
    """Write head.safetensors and head.json, for heads without a transformers class."""
    from safetensors.torch import save_file

    serving(model).save(folder, model.max_length)
    weights = {"weight": model.head.out.weight}
    if model.head.out.bias is not None:
        weights["bias"] = model.head.out.bias
    save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, folder / "head.safetensors")
    facts: dict[str, Any] = {"pooling": model.pooling}
    if isinstance(model, Classifier):
        facts["labels"] = model.labels
    elif isinstance(model, Regressor):
        facts |= {"mean": model.mean, "std": model.std}
    write_atomic(folder / "head.json", to_json(facts))


def write_adapter(plain: Backbone, additions: dict[str, tuple[Tensor, Tensor]], adapt: Any, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors. Matrices that are fused here and separate in
    transformers share A and take their rows of B."""
    from safetensors.torch import save_file

    rows = {own.removesuffix(".weight"): (theirs, sizes, turned) for own, theirs, sizes, turned in own_names(plain)}
    state: dict[str, Tensor] = {}
    targets = []
    transposed = False
    for name, (a, b) in additions.items():
        theirs, sizes, turned = rows[name]
        transposed |= turned
        parts = b.split(list(sizes)) if sizes else (b,)
        for their, part in zip(theirs, parts, strict=True):
            module = their.removesuffix(".weight")
            targets.append(module)
            state[f"base_model.model.{module}.lora_A.weight"] = a.cpu().clone()
            state[f"base_model.model.{module}.lora_B.weight"] = part.cpu().clone()
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": "base",
        "r": adapt.rank,
        "lora_alpha": adapt.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "target_modules": sorted(targets),
    }
    write_atomic(folder / "adapter_config.json", to_json(settings))


def own_names(plain: Backbone) -> list[tuple[str, tuple[str, ...], tuple[int, ...], bool]]:
    """(our name, their names, rows of each, whether theirs is transposed) of every matrix inside the layers."""
    if not hasattr(plain, "inner"):
        return [(w.own, w.theirs, w.rows, w.transposed) for w in plain.weights()]
    from transformers.pytorch_utils import Conv1D

    turned = {f"{name}.weight" for name, module in plain.named_modules() if isinstance(module, Conv1D)}
    return [(name, (name.removeprefix("inner."),), (), name in turned) for name in plain.matrices()]


def how_to_use(model: LanguageModel | Headed, auto: str) -> list[str]:
    use = [
        f"from transformers import AutoTokenizer, {auto}",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f'model = {auto}.from_pretrained(".")',
    ]
    if isinstance(model, Chat):
        use += [
            'chat = [{"role": "user", "content": "a question"}]',
            'inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")',
        ]
    if isinstance(model, LanguageModel):
        return use
    rewards = isinstance(model, RewardModel)
    texts = '["a prompt"], ["an answer"]' if rewards else '["a text"]'
    cut = '"only_second"' if rewards else "True"
    if rewards:
        use.append("# The end of text goes behind the answer; in training an answer that was cut had none.")
    use.append(f'inputs = tokenizer({texts}, truncation={cut}, padding=True, return_tensors="pt")')
    if fits_a_class(model):
        use.append(f"{'rewards' if rewards else 'logits'} = model(**inputs).logits")
        if isinstance(model, Regressor) and model.head.kind == "score":
            use.append("value = logits * model.config.target_std + model.config.target_mean")
        return use
    pooled = {
        "cls": "hidden[:, 0]",
        "last": "hidden[range(len(hidden)), inputs.attention_mask.sum(1) - 1]",
        "mean": "(hidden * inputs.attention_mask[..., None]).sum(1) / inputs.attention_mask.sum(1, keepdim=True)",
    }[model.pooling]
    use += [
        "# No class of transformers has this head: it is applied by hand.",
        "import json, safetensors.torch, torch",
        "head = safetensors.torch.load_file('head.safetensors')",
        "facts = json.load(open('head.json'))",
        "hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]",
        f"logits = torch.nn.functional.linear({pooled}, head['weight'], head.get('bias'))",
    ]
    if isinstance(model, Regressor):
        use.append("value = logits[:, 0] * facts['std'] + facts['mean']")
    elif isinstance(model, Classifier):
        use.append("label = facts['labels'][int(logits[0].argmax())]")
    else:
        use.append("rewards = logits[:, 0]")
    return use


def card(run: Run, config: Any, model: LanguageModel | Headed, use: list[str]) -> str:
    """The README.md: description, training data, usage, metrics."""
    summary, manifest = run.summary, run.manifest
    data, parent = manifest.get("data") or {}, manifest.get("parent") or {}
    final = summary.get("final") or {}
    measured = {tag: value for tag, value in final.items() if tag.startswith("validation/") and value is not None}
    with torch.no_grad():
        count = sum(parameter.numel() for parameter in model.model.parameters())
    lines = [
        "---",
        'library_name: "transformers"',
        'tags: ["rlgym"]',
        "---",
        f"# {config.method.name} on {config.data.name}",
        "",
        f"{count:,} parameters; fine-tuned (adapt.mode={config.adapt.mode}) from "
        f"{parent.get('run') or parent.get('folder')} on {summary.get('steps', 0):,} tokens (seed {config.seed}).",
        "",
        "```python",
        *use,
        "```",
        "",
        f"Data: {data.get('documents', 0):,} rows, fingerprint `{data.get('fingerprint', '')}`.",
        "",
        "| held out | |",
        "|---|---|",
        *(f"| {tag.removeprefix('validation/')} | {value:.4g} |" for tag, value in measured.items()),
        "",
        f"Made by `{' '.join(manifest.get('command', []))}`.",
        "",
    ]
    return "\n".join(lines)

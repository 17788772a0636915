"""`export RUN`: write a folder for `transformers`: AutoModelForCausalLM or AutoModelForMaskedLM, AutoTokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlgym.common.atomic_io import write_atomic
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.export_folder import export_folder, replacing
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.ssl.inference.language_model import LanguageModel


def export(folder: Path, words: dict[str, Any]) -> Path:
    """Write configuration, weights, tokenizer and model card atomically; prints and returns the folder."""
    run = Run(folder)
    config = load_config(folder, trust=words["trust"])
    model: LanguageModel = load(run, words["checkpoint"], trust=words["trust"])
    target = export_folder(words["path"], folder, "config.json")
    with replacing(target, (SafetensorError,)) as made:  # the library's error for a full disk
        write_model(model, made)
        write_atomic(made / "README.md", model_card(run, config, model))
    auto = "AutoModelForCausalLM" if model.causal else "AutoModelForMaskedLM"
    print(f"written to {target}: {auto}.from_pretrained({str(target)!r})")
    return target


def write_model(model: LanguageModel, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files to an empty folder."""
    from safetensors.torch import save_file

    configuration, state = model.model.to_transformers()
    tokenizer = model.tokenizer
    configuration.pad_token_id, configuration.eos_token_id = tokenizer.pad_id, tokenizer.eos_id
    configuration.bos_token_id = tokenizer.bos_id
    configuration.dtype = "float32"
    configuration.save_pretrained(folder)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer.framed().save(folder, model.model.block_size)


def model_card(run: Run, config: Any, model: LanguageModel) -> str:
    """The README.md in the hub's format: description, training data, usage, metrics."""
    summary, manifest = run.summary, run.manifest
    data = manifest.get("data") or {}
    final = summary.get("final") or {}
    measured = {tag: value for tag, value in final.items() if tag.startswith("validation/") and value is not None}
    rows = "\n".join(f"| {tag.removeprefix('validation/')} | {value:.4g} |" for tag, value in measured.items())
    auto, pipeline = (
        ("AutoModelForCausalLM", "text-generation") if model.causal else ("AutoModelForMaskedLM", "fill-mask")
    )
    head = {"library_name": "transformers", "pipeline_tag": pipeline, "tags": ["rlgym"]}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items())]
    if config.data.licence:
        lines.append(f"license: {json.dumps(config.data.licence.lower())}")
    lines += [
        "---",
        f"# {config.model.name}, {config.objective.name}, on {config.data.name}",
        "",
        f"{sum(p.numel() for p in model.model.parameters()):,} parameters, blocks of {config.model.block_size} tokens, "
        f"a vocabulary of {model.tokenizer.vocab_size:,}; trained from scratch on {summary.get('steps', 0):,} tokens "
        f"(seed {config.seed}).",
        "",
        "```python",
        f"from transformers import AutoTokenizer, {auto}",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f'model = {auto}.from_pretrained(".")',
        "```",
        "",
        "## Data",
        "",
        f"{data.get('documents', 0):,} documents, {data.get('bytes', 0):,} bytes; licence: "
        f"{config.data.licence or 'not given'}; fingerprint `{data.get('fingerprint', '')}`.",
        "",
        "## Held-out text",
        "",
        "| | |",
        "|---|---|",
        rows,
        "",
        f"Made by `{' '.join(manifest.get('command', []))}`.",
        "",
    ]
    return "\n".join(lines)

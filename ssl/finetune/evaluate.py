"""`evaluate RUN [data=...]`: metrics of a fine-tuned model on its held-out examples, or on others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rlgym.common.atomic_io import to_json, write_atomic
from rlgym.config.registry import learner_class
from rlgym.errors import RequestError
from rlgym.run_folder.checkpoint import fitting
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import open_checkpoint
from rlgym.ssl.data.documents import left_out
from rlgym.ssl.finetune.lineage import warning
from rlgym.ssl.finetune.predict import table_config


def evaluate(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Metrics of the run's `checkpoint`, by the method's own evaluation.

    Writes evaluations/*.json and the figures into plots/, prints the metrics and a warning if the data overlaps the
    base run's training text, and returns the record.
    """
    run = Run(folder)
    config = load_config(folder, trust=words["trust"])
    cls = learner_class(config)
    state, _ = open_checkpoint(run, words["checkpoint"])
    if words["data"]:
        if not hasattr(cls, "adopt"):
            raise RequestError(f"data={words['data']}: method={config.method.name} is evaluated on its own data alone")
        config.data = table_config(config, words["data"], words["settings"])
        cls.adopt(config, folder)
    elif words["settings"]:
        raise RequestError(f"data.{next(iter(words['settings']))} needs data=NAME, as in data=csv data.path=F")
    elif hasattr(config.method, "baselines"):
        config.method.baselines = False  # these were evaluated in training
    config.device, config.display = words["device"], "quiet"
    learner = cls.resumed(config, folder)
    try:
        with fitting(folder):
            learner.load_state_dict(state)
        evaluation = learner.evaluate()
        chosen = words["data"] or "held_out"
        overlap = warning(run.manifest.get("parent"), getattr(learner, "evaluated_texts", list)())
    finally:
        learner.close()
    result = {
        **{tag.removeprefix("validation/"): value for tag, value in evaluation.metrics.items()},
        **evaluation.records,
        "data": chosen,
        "fingerprint": learner.facts["data"].get("fingerprint"),
        "bad": learner.facts["data"].get("bad"),
        "checkpoint": words["checkpoint"],
        "overlap": overlap.share if overlap else None,
    }
    stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{chosen.replace('/', '-')[-40:]}"
    (folder / "evaluations").mkdir(exist_ok=True)
    path = folder / "evaluations" / f"{stem}.json"
    write_atomic(path, to_json(result))
    for tag, draw in evaluation.figures.items():
        (folder / "plots").mkdir(exist_ok=True)
        write_atomic(folder / "plots" / f"{tag.replace('/', '_')}_{stem}.png", draw())
    numbers = "  ".join(f"{tag.removeprefix('validation/')} {value:.4g}" for tag, value in evaluation.metrics.items())
    examples = evaluation.records.get("examples")
    data = learner.facts["data"]
    skipped = left_out(data["bad"], data["first_bad"]) if words["data"] else ""
    print(numbers + (f"  over {examples:,} examples" if isinstance(examples, int) else "") + skipped)
    if overlap:
        print(overlap.line)
    print(f"written to {path}")
    return result

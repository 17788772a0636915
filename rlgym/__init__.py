"""rlgym: one training gym for learning by reward and by predicting one's own data.

import rlgym
run = rlgym.train("agent=ppo", "env=CartPole-v1")   # the words of the command line; returns the finished run
policy = rlgym.load(run)                            # its policy, ready to act
model = rlgym.load(rlgym.pretrain("tokens=1e6"))    # a language model
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout agents/, ssl/ and conf/ sit beside this folder; an installed wheel holds them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "agents").is_dir():
    __path__.insert(0, str(_root))

__version__ = "0.1.0"
__all__ = ["__version__", "finetune", "load", "pretrain", "train"]

if TYPE_CHECKING:
    from rlgym.loading import load
    from rlgym.training import finetune, pretrain, train


def __getattr__(name: str) -> Any:  # lazily: `import rlgym` stays free of torch
    if name in ("train", "pretrain", "finetune"):
        from rlgym import training

        return getattr(training, name)
    if name == "load":
        from rlgym.loading import load

        return load
    raise AttributeError(f"module 'rlgym' has no attribute {name!r}")

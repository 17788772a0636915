"""rlgym: one training gym for learning by reward and by predicting one's own data.

import rlgym
run = rlgym.train("agent=ppo", "env=CartPole-v1")   # the words of the command line; returns the finished run
policy = rlgym.load(run)                            # its policy, ready to act
model = rlgym.load(rlgym.pretrain("tokens=1e6"))    # a language model
"""

from __future__ import annotations

import os  # no pathlib and no typing: a Ctrl-C before `__main__` has its handler would show their imports

# In a checkout agents/, ssl/ and conf/ sit beside this folder; an installed wheel holds them inside it.
_root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if os.path.isfile(os.path.join(_root, "pyproject.toml")) and os.path.isdir(os.path.join(_root, "agents")):
    __path__.insert(0, _root)

__version__ = "0.1.0"
__all__ = ["__version__", "finetune", "load", "pretrain", "train"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rlgym.api import finetune, load, pretrain, train


def __getattr__(name: str) -> Any:  # lazily: `import rlgym` stays free of torch
    if name in ("train", "pretrain", "finetune", "load"):
        from rlgym import api

        return getattr(api, name)
    raise AttributeError(f"module 'rlgym' has no attribute {name!r}")

"""Keys that were given and would change nothing are refused, with what they depend on; those of files are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from rlgym.agents.on_policy.base import GAUSSIAN
from rlgym.cli.commands import COMMANDS, options_of
from rlgym.cli.main import main
from rlgym.config.built_in import BUILT_IN
from rlgym.config.compose import compose, revise
from rlgym.config.effect import refuse_without_effect
from rlgym.config.io import from_plain
from rlgym.config.options import read
from rlgym.config.registry import resolve
from rlgym.config.schema import ROOTS, knob
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config, save_config
from rlgym.training.train import check_request

SECTIONS: dict[str, dict[str, Any]] = {
    "train": {"agent": {"name": "ppo"}, "env": {"id": "CartPole-v1"}},
    "pretrain": {
        "objective": {"name": "next_token"},
        "model": {"architecture": "qwen3"},
        "data": {"name": "stdlib"},
        "tokenizer": {"name": "bpe"},
        "optimizer": {"name": "adamw"},
    },
    "finetune": {
        "method": {"name": "classification"},
        "data": {"name": "default"},
        "reward": {"name": "default"},
        "optimizer": {"name": "adamw"},
    },
}
SIZED = {"num_hidden_layers": 3, "hidden_size": 96}
POOL = "env.self_play.pool."
IDLE: dict[str, tuple[str, dict[str, Any], str]] = {
    # key -> (root, what else is asked for, why the key is idle)
    "model.depth": ("pretrain", {"model": SIZED}, "layers and width are set"),
    "model.hidden_size": ("finetune", {"model": {"hidden_size": 4}}, "the model's shape is taken over from init_from"),
    "causal": ("finetune", {}, "it is taken over from init_from"),
    "adapt.rank": ("finetune", {}, "adapt.mode=full; adapt.mode=lora would do"),
    "adapt.layers": ("finetune", {"adapt": {"mode": "lora"}}, "adapt.mode=lora; adapt.mode=last would do"),
    "adapt.alpha": ("finetune", {"adapt": {"mode": "head"}}, "adapt.mode=head; adapt.mode=lora would do"),
    "agent.v_min": (
        "train",
        {"agent": {"name": "dqn"}},
        "agent.distributional=none; agent.distributional=c51 would do",
    ),
    "agent.quantiles": ("train", {"agent": {"name": "rainbow"}}, "agent.distributional=c51"),
    "agent.priority_beta": ("train", {"agent": {"name": "dqn"}}, "agent.prioritized=false"),
    "agent.noisy_std": ("train", {"agent": {"name": "dqn"}}, "agent.noisy=false"),
    "agent.hidden_size": ("train", {}, "agent.recurrent=none"),
    "agent.rms_prop_eps": ("train", {"agent": {"name": "a2c", "use_rms_prop": False}}, "agent.use_rms_prop=false"),
    "agent.target_entropy": ("train", {"agent": {"name": "sac", "ent_coef": "0.2"}}, "agent.ent_coef=0.2"),
    "agent.action_noise_std": ("train", {"agent": {"name": "sb3/td3"}}, "agent.action_noise=none"),
    "agent.c_puct": ("train", {"agent": {"name": "alphazero"}}, "agent.search=gumbel; agent.search=puct would do"),
    "agent.reservoir_size": ("train", {"agent": {"name": "nfsp", "average": False}}, "agent.average=false"),
    f"{POOL}size": ("train", {"env": {"self_play": {"opponent": "random"}}}, "env.self_play.opponent=random"),
    f"{POOL}power": ("train", {"env": {"self_play": {"pool": {"draw": "latest"}}}}, f"{POOL}draw=latest"),
    "stop.patience": ("train", {"evaluate": {"every": 0}}, "evaluate.every=0"),
    "stop.at": ("finetune", {"evaluate": {"every": 0}}, "evaluate.every=0"),
    "optimizer.decay": ("pretrain", {}, "optimizer.schedule=cosine; optimizer.schedule=wsd would do"),
    "optimizer.min_learning_rate": (
        "finetune",
        {"optimizer": {"schedule": "constant"}},
        "optimizer.schedule=constant",
    ),
    "sample.prompt": ("pretrain", {"objective": {"name": "masked"}}, "objective=masked"),
    "sample.tokens": ("pretrain", {"sample": {"count": 0}}, "sample.count=0"),
    "method.epochs": ("finetune", {"tokens": 500}, "tokens=500"),
    "method.prompt": ("finetune", {"method": {"name": "grpo"}}, "data=default"),
    "method.truncation_penalty": ("finetune", {"method": {"name": "grpo"}}, "method.truncated=score"),
    "method.kl_horizon": ("finetune", {"method": {"name": "ppo"}}, "method.kl_target is empty"),
    "data.packing": ("finetune", {"data": {"name": "csv"}}, "fine-tuning takes each row as an example"),
    "data.column": ("finetune", {"data": {"name": "jsonl"}}, "fine-tuning takes each row as an example"),
    "data.normalize": ("finetune", {"data": {"name": "hub"}}, "fine-tuning takes each row as an example"),
    "data.min_length": ("finetune", {}, "fine-tuning takes each row as an example"),
    "data.deduplicate": ("finetune", {"method": {"name": "dpo"}}, "fine-tuning takes each row as an example"),
    "data.bad": ("finetune", {}, "the method's own examples can all be read"),
    "method.rejected": ("finetune", {"method": {"name": "dpo"}}, "data=default"),
    "method.margin": ("finetune", {"method": {"name": "reward_model"}}, "data=default"),
}


def config_of(root: str, **more: dict[str, Any]) -> Any:
    sections: dict[str, Any] = {group: {**values, **more.pop(group, {})} for group, values in SECTIONS[root].items()}
    return from_plain({**sections, **more}, trust=True)


@pytest.mark.parametrize("key", IDLE)
def test_an_idle_key_is_refused_with_the_value_that_it_depends_on(key: str) -> None:
    root, more, why = IDLE[key]
    with pytest.raises(RequestError, match=f"^{re.escape(key)}=7 has no effect because {re.escape(why)}"):
        refuse_without_effect(config_of(root, **more), {key: "7"})


BUSY: dict[str, tuple[str, dict[str, Any]]] = {
    "model.depth": ("pretrain", {}),
    "agent.v_min": ("train", {"agent": {"name": "rainbow"}}),
    "agent.target_entropy": ("train", {"agent": {"name": "sac", "ent_coef": "auto_0.1"}}),
    "agent.adam_eps": ("train", {"agent": {"name": "a2c", "use_rms_prop": False}}),
    f"{POOL}power": ("train", {}),
    "stop.patience": ("finetune", {}),
    "adapt.rank": ("finetune", {"adapt": {"mode": "lora"}}),
    "data.packing": ("pretrain", {"data": {"name": "csv"}}),
    "method.epochs": ("finetune", {}),
    "method.prompt": ("finetune", {"method": {"name": "grpo"}, "data": {"name": "jsonl"}}),
    "env.kwargs.x": ("train", {}),
}


@pytest.mark.parametrize("key", BUSY)
def test_a_key_with_an_effect_is_taken(key: str) -> None:
    root, more = BUSY[key]
    refuse_without_effect(config_of(root, **more), {key: "7"})


def classes() -> Iterator[tuple[type, type | None]]:
    """Every dataclass of knobs, and the root config that it is a section of."""
    for group, known in BUILT_IN.items():
        for root in ROOTS.values():
            if group in root.sections:
                yield from ((resolve(entry.config), root) for entry in known)
    for root in ROOTS.values():
        yield root, root
    for products in (command.code for command in COMMANDS.values()):
        yield from ((options_of(code), None) for code in products.values())


def test_every_need_names_a_key_that_there_is() -> None:
    """Of the same dataclass, or of the whole config after a slash."""

    def check(cls: type, root: type | None) -> int:
        hints, count = get_type_hints(cls), 0
        for f in fields(cls):
            for need in f.metadata.get("needs", ()):
                for condition in need.partition(": ")[0].split(" or "):
                    name, equals, _ = condition.partition("=")
                    if equals and not name.startswith("/"):
                        assert name.rstrip("!") in hints, (cls, f.name, need)
                    elif equals and root is not None and "." not in name:
                        assert hasattr(root, name[1:].rstrip("!")) or name[1:].rstrip("!") in get_type_hints(root)
                    count += 1
            if is_dataclass(hints[f.name]):
                count += check(hints[f.name], root)
        return count

    assert sum(check(cls, root) for cls, root in classes()) > 100


def test_files_and_saved_configs_may_hold_what_has_no_effect(tmp_path: Any) -> None:
    file = tmp_path / "tuned/dqn/CartPole-v1.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("agent: {v_min: -5, priority_beta: 0.5}\nstop: {patience: 3}\nevaluate: {every: 0}\n")
    config = compose(["agent=dqn"], config_dir=str(tmp_path))
    assert (config.agent.v_min, config.agent.priority_beta, config.stop.patience) == (-5.0, 0.5, 3)
    save_config(config, tmp_path / "config.yaml")
    loaded = load_config(tmp_path)
    assert loaded == config and loaded.given == frozenset()
    assert revise(loaded, ["seed=3"]).stop.patience == 3
    with pytest.raises(RequestError, match="^agent.v_max=5 has no effect because agent.distributional=none"):
        revise(loaded, ["agent.v_max=5"])
    assert revise(loaded, ["agent.v_max=5"], drawn=True).agent.v_max == 5
    with pytest.raises(RequestError, match="^stop.patience=3 has no effect because evaluate.every=0$"):
        compose(["agent=dqn", "stop.patience=3"], config_dir=str(tmp_path))


@pytest.mark.parametrize("key", [*GAUSSIAN, "sb3 log_std_init"])
def test_keys_of_a_gaussian_in_an_environment_without_one(key: str) -> None:
    agent, key = ("sb3/ppo", key[4:]) if key.startswith("sb3") else ("ppo", key)
    value = {"std": "state", "log_std_init": "-1", "squash": "true"}[key]
    words = [f"agent={agent}", "tuned=off", "env.num_envs=2", "device=cpu", f"agent.{key}={value}"]
    with pytest.raises(RequestError, match=rf"^agent.{key}={value} has no effect because env=CartPole-v1 takes Discr"):
        check_request(compose(words))
    config = compose(words[:-1])
    setattr(config.agent, key, {"std": "state", "log_std_init": -1.0, "squash": True}[key])  # as of a file
    check_request(config)


WORDS = {
    "temperature=0 top_k=3": ("generate", "top_k=3 has no effect because temperature=0"),
    "temperature=0 seed=3": ("generate", "seed=3 has no effect because temperature=0"),
    "text=x column=zz": ("predict", "column=zz has no effect because data is empty"),
}


@pytest.mark.parametrize("words", WORDS)
def test_words_of_commands_on_a_run(words: str) -> None:
    command, message = WORDS[words]
    with pytest.raises(RequestError, match=f"^{message}"):
        read(options_of(COMMANDS[command].code["finetune"]), words.split())


def test_a_key_of_ones_own_class_may_say_what_it_needs() -> None:
    knobs = knob(1, "help", needs="mode=a")
    assert knobs.metadata["needs"] == ("mode=a",)


@pytest.mark.parametrize(
    "words", [["seed=1", "seed=2"], ["agent=ppo", "+agent=dqn"], ["agent.gamma=0.9", "++agent.gamma=0.9"]]
)
def test_a_key_that_is_given_twice_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["-m"], ["pretrain"], ["sweep"]):
        assert main([*command, *words]) == 2
        assert " is given twice, first as " in capsys.readouterr().err
    with pytest.raises(RequestError, match="^episodes=4: episodes is given twice, first as episodes=3"):
        read(options_of(COMMANDS["evaluate"].code["train"]), ["episodes=3", "episodes=4"])

"""The table of built-in algorithms, objectives, models, methods and so on. A new one takes an entry here, its code, its
config dataclass and its docs page.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    name: str
    config: str
    """`module:Class` of its config dataclass, which has a field for its name."""
    target: str
    """`module:Class` of its code; empty where the config is all there is."""
    summary: str
    """One line for help."""


BUILT_IN: dict[str, tuple[Entry, ...]] = {
    "agent": (
        Entry(
            "ppo",
            "rlgym.agents.configs.on_policy:PPOConfig",
            "rlgym.agents.ppo:PPO",
            "Proximal Policy Optimization: on-policy, any action space",
        ),
        Entry(
            "a2c",
            "rlgym.agents.configs.on_policy:A2CConfig",
            "rlgym.agents.a2c:A2C",
            "Advantage actor-critic: on-policy, any action space, a gradient step each few environment steps",
        ),
        Entry(
            "reinforce",
            "rlgym.agents.configs.on_policy:ReinforceConfig",
            "rlgym.agents.reinforce:Reinforce",
            "REINFORCE with a learned baseline: on-policy, any action space, whole returns",
        ),
        Entry(
            "dqn",
            "rlgym.agents.configs.q_learning:DQNConfig",
            "rlgym.agents.dqn:DQN",
            "Deep Q-learning: off-policy, discrete actions; double, dueling, n-step, prioritised, noisy, C51 "
            "or QR by its knobs",
        ),
        Entry(
            "rainbow",
            "rlgym.agents.configs.q_learning:RainbowConfig",
            "rlgym.agents.dqn:DQN",
            "Rainbow: DQN with all of its parts, at the published values",
        ),
        Entry(
            "pqn",
            "rlgym.agents.configs.q_learning:PQNConfig",
            "rlgym.agents.pqn:PQN",
            "Parallel Q-learning: discrete actions, many environments, neither replay nor target network",
        ),
        Entry(
            "sac",
            "rlgym.agents.configs.continuous:SACConfig",
            "rlgym.agents.sac:SAC",
            "Soft Actor-Critic: off-policy, continuous actions, entropy held by itself",
        ),
        Entry(
            "td3",
            "rlgym.agents.configs.continuous:TD3Config",
            "rlgym.agents.td3:TD3",
            "Twin Delayed DDPG: off-policy, continuous actions, a deterministic policy",
        ),
        Entry(
            "alphazero",
            "rlgym.agents.configs.alphazero:AlphaZeroConfig",
            "rlgym.agents.alphazero:AlphaZero",
            "AlphaZero: self-play with search, in games of perfect information",
        ),
        Entry(
            "nfsp",
            "rlgym.agents.configs.nfsp:NFSPConfig",
            "rlgym.agents.nfsp:NFSP",
            "Neural Fictitious Self-Play: small games, also with hidden cards, to an equilibrium",
        ),
        Entry(
            "sb3/ppo",
            "rlgym.agents.sb3.config:SB3PPOConfig",
            "rlgym.agents.sb3.learner:SB3",
            "Stable-Baselines3's PPO: on-policy, any bounded action space",
        ),
        Entry(
            "sb3/a2c",
            "rlgym.agents.sb3.config:SB3A2CConfig",
            "rlgym.agents.sb3.learner:SB3",
            "Stable-Baselines3's A2C: on-policy, any bounded action space",
        ),
        Entry(
            "sb3/dqn",
            "rlgym.agents.sb3.config:SB3DQNConfig",
            "rlgym.agents.sb3.learner:SB3",
            "Stable-Baselines3's DQN: off-policy, discrete actions",
        ),
        Entry(
            "sb3/sac",
            "rlgym.agents.sb3.config:SB3SACConfig",
            "rlgym.agents.sb3.learner:SB3",
            "Stable-Baselines3's SAC: off-policy, continuous actions",
        ),
        Entry(
            "sb3/td3",
            "rlgym.agents.sb3.config:SB3TD3Config",
            "rlgym.agents.sb3.learner:SB3",
            "Stable-Baselines3's TD3: off-policy, continuous actions",
        ),
    ),
    "objective": (
        Entry(
            "next_token",
            "rlgym.ssl.config:NextTokenConfig",
            "rlgym.ssl.objectives.next_token:NextToken",
            "predict each token from those before it: for models that generate",
        ),
        Entry(
            "masked",
            "rlgym.ssl.config:MaskedConfig",
            "rlgym.ssl.objectives.masked:Masked",
            "predict hidden tokens from all others: for models that understand and fill in",
        ),
    ),
    "model": (
        Entry(
            "gpt2",
            "rlgym.ssl.config:GPT2Model",
            "rlgym.ssl.models.gpt2:GPT2",
            "GPT-2 layout of any size: model.depth=6, or layers, width and heads",
        ),
        Entry(
            "llama",
            "rlgym.ssl.config:LlamaModel",
            "rlgym.ssl.models.llama:Llama",
            "Llama layout of any size: model.depth=6, or layers, width and heads",
        ),
        Entry(
            "qwen3",
            "rlgym.ssl.config:Qwen3Model",
            "rlgym.ssl.models.llama:Qwen3",
            "Qwen3 layout of any size: model.depth=6, or layers, width and heads",
        ),
        Entry(
            "bert",
            "rlgym.ssl.config:BertModel",
            "rlgym.ssl.models.bert:Bert",
            "BERT layout of any size: model.depth=6, or layers, width and heads",
        ),
        Entry(
            "modernbert",
            "rlgym.ssl.config:ModernBertModel",
            "rlgym.ssl.models.modernbert:ModernBert",
            "ModernBERT layout of any size: model.depth=6, or layers, width and heads",
        ),
        Entry(
            "transformers",
            "rlgym.ssl.config:TransformersModel",
            "rlgym.ssl.models.transformers_model:TransformersBackbone",
            "any architecture of transformers: model.model_type=gpt_neox +model.config.num_hidden_layers=4",
        ),
    ),
    "data": (
        Entry(
            "stdlib",
            "rlgym.ssl.config:StdlibData",
            "",
            "The Python standard library's own source and reference text: on every machine, nothing to download",
        ),
        Entry(
            "additions",
            "rlgym.ssl.config:AdditionsData",
            "",
            "additions of two-digit numbers (12+34=46), for reward=arithmetic to go on from",
        ),
        Entry(
            "text",
            "rlgym.ssl.config:TextData",
            "",
            "Plain text files, folders or globs, packed or not: data.path=FILE",
        ),
        Entry(
            "jsonl",
            "rlgym.ssl.config:JsonlData",
            "",
            "Files with one JSON object a line: data.path=FILE data.column=FIELD",
        ),
        Entry(
            "csv",
            "rlgym.ssl.config:CsvData",
            "",
            "Comma- or tab-separated tables, one document a row: data.path=FILE data.column=NAME",
        ),
        Entry(
            "parquet",
            "rlgym.ssl.config:ParquetData",
            "",
            "Parquet files, one document a row: data.path=FILE data.column=NAME",
        ),
        Entry(
            "hub",
            "rlgym.ssl.config:HubData",
            "",
            "A data set of the Hugging Face hub, or a local folder in its layout: data.path=NAME",
        ),
        Entry(
            "default",
            "rlgym.ssl.config:DefaultData",
            "",
            "of fine-tuning: what the method brings itself, nothing to download",
        ),
    ),
    "method": (
        Entry(
            "classification",
            "rlgym.ssl.finetune.config:ClassificationMethod",
            "rlgym.ssl.finetune.classification:Classification",
            "a label for each text; accuracy, F1, calibration, beside cheap baselines",
        ),
        Entry(
            "regression",
            "rlgym.ssl.finetune.config:RegressionMethod",
            "rlgym.ssl.finetune.regression:Regression",
            "a number for each text; errors, R2, correlation, beside cheap baselines",
        ),
        Entry(
            "instruction",
            "rlgym.ssl.finetune.config:InstructionMethod",
            "rlgym.ssl.finetune.instruction:Instruction",
            "answers to prompts or chat messages, the loss on the answers alone",
        ),
        Entry(
            "reward_model",
            "rlgym.ssl.finetune.config:RewardModelMethod",
            "rlgym.ssl.finetune.reward_model:RewardModelling",
            "preferences; a number that is higher for better answers, for reward=reward_model",
        ),
        Entry(
            "dpo",
            "rlgym.ssl.finetune.config:DPOMethod",
            "rlgym.ssl.finetune.dpo:DPO",
            "preferences; directly, without a reward model",
        ),
        Entry(
            "ppo",
            "rlgym.ssl.finetune.config:PPOMethod",
            "rlgym.ssl.finetune.ppo:PPO",
            "a reward; per-token values, GAE, KL in the reward, as agent=ppo learns",
        ),
        Entry(
            "grpo",
            "rlgym.ssl.finetune.config:GRPOMethod",
            "rlgym.ssl.finetune.grpo:GRPO",
            "a reward; against the mean of a group of completions",
        ),
        Entry(
            "rloo",
            "rlgym.ssl.finetune.config:RLOOMethod",
            "rlgym.ssl.finetune.rloo:RLOO",
            "a reward; each completion against the mean of the others",
        ),
        Entry(
            "best_of_n",
            "rlgym.ssl.finetune.config:BestOfNMethod",
            "rlgym.ssl.finetune.best_of_n:BestOfN",
            "a reward; cross-entropy on the best of n completions: the baseline for the others",
        ),
    ),
    "reward": (
        Entry(
            "default",
            "rlgym.ssl.finetune.config:DefaultReward",
            "",
            "the method's own; methods without a reward take no other",
        ),
        Entry(
            "python_syntax",
            "rlgym.ssl.finetune.config:PythonSyntaxReward",
            "rlgym.ssl.finetune.rewards:PythonSyntax",
            "1 for Python that parses and does something, ended by the model; never run",
        ),
        Entry(
            "arithmetic",
            "rlgym.ssl.finetune.config:ArithmeticReward",
            "rlgym.ssl.finetune.rewards:Arithmetic",
            "1 for the exact answer to 12+34=",
        ),
        Entry(
            "regex",
            "rlgym.ssl.finetune.config:RegexReward",
            "rlgym.ssl.finetune.rewards:Regex",
            "1 where a pattern is found in the completion",
        ),
        Entry(
            "length",
            "rlgym.ssl.finetune.config:LengthReward",
            "rlgym.ssl.finetune.rewards:Length",
            "a length in characters",
        ),
        Entry(
            "reward_model",
            "rlgym.ssl.finetune.config:ModelReward",
            "rlgym.ssl.finetune.rewards:Model",
            "what a run of method=reward_model says",
        ),
        Entry(
            "sum",
            "rlgym.ssl.finetune.config:SumReward",
            "rlgym.ssl.finetune.rewards:Sum",
            "a weighted sum of rewards",
        ),
    ),
    "tokenizer": (
        Entry("bpe", "rlgym.ssl.config:BpeTokenizer", "", "byte-level BPE, trained on the corpus"),
        Entry("char", "rlgym.ssl.config:CharTokenizer", "", "one token a character of the corpus"),
        Entry("byte", "rlgym.ssl.config:ByteTokenizer", "", "one token a byte of UTF-8"),
        Entry(
            "existing",
            "rlgym.ssl.config:ExistingTokenizer",
            "",
            "one that is there: tokenizer.path=FOLDER, a run's folder, or a name on the hub",
        ),
    ),
    "optimizer": (
        Entry(
            "adamw",
            "rlgym.ssl.config:AdamWOptimizer",
            "rlgym.optim.adamw:AdamW",
            "AdamW, fused, over all parameters",
        ),
        Entry(
            "muon",
            "rlgym.ssl.config:MuonOptimizer",
            "rlgym.optim.muon:Muon",
            "Muon for the layers' matrices, AdamW for the rest",
        ),
    ),
}
"""Group -> its entries, in the order of the help."""

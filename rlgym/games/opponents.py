"""Opponents by name: `random`, `one_ply`, `mcts_100`, or a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlgym.common.suggest import did_you_mean
from rlgym.config.registry import resolve
from rlgym.envs.game_ids import POOL
from rlgym.errors import RequestError
from rlgym.games.game import Game
from rlgym.games.players import OnePlyPlayer, Player, RandomPlayer

if TYPE_CHECKING:
    from rlgym.envs.spaces import Obs

MCTS = "rlgym.agents.selfplay.uct_player:MCTSPlayer"
"""By name: it uses the search of agents/, which games do not import."""
WORDS = "random, one_ply, mcts_K (K playouts a move) or a RUN of this game"


def make_player(word: str, game: Game, device: torch.device | str = "cpu", trust: bool = False) -> Player:
    """The player named `word`: random, one_ply, mcts_K, else a run of this game (a folder, a short name, or `last`).
    RequestError where there is none. A run's policy samples its moves, so that games differ; code named by its config
    as `module:Name` is imported only with `trust`.
    """
    if word == "random":
        return RandomPlayer(game)
    if word == "one_ply":
        if not game.perfect_information:
            raise RequestError(f"opponent one_ply would look at hidden cards of {game.name}: {WORDS}")
        return OnePlyPlayer(game)
    if re.fullmatch(r"mcts_[1-9]\d*", word):
        if not game.perfect_information:
            raise RequestError(f"opponent {word} would look at hidden cards of {game.name}: {WORDS}")
        player: Player = resolve(MCTS)(game, int(word.removeprefix("mcts_")))
        return player
    return _of_run(word, game, device, trust)


def make_players(words: str, game: Game, device: torch.device | str = "cpu", trust: bool = False) -> list[Player]:
    """The players of a comma list, each once."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    players = [make_player(word, game, device, trust) for word in dict.fromkeys(names)]
    if not players:
        raise RequestError(f"opponents={words}: names at least one of {WORDS}")
    return players


def usual(game: Game) -> list[Player]:
    """The standard opponents: random, and one_ply if the game supports it."""
    return [RandomPlayer(game), *([OnePlyPlayer(game)] if game.perfect_information else [])]


def _of_run(word: str, game: Game, device: torch.device | str, trust: bool) -> Player:
    from rlgym.config.schema import TrainConfig
    from rlgym.run_folder.config_file import load_config
    from rlgym.run_folder.folder import find_run
    from rlgym.run_folder.loading import load

    try:
        run = find_run(word)
    except RequestError as error:
        near = did_you_mean(word, ["random", "one_ply", "mcts_100", POOL])
        raise RequestError(f"opponent {word}: {error}" if not near else f"opponent {word} not found{near}") from None
    config = load_config(run.dir, trust=trust)
    of = config.env.id if isinstance(config, TrainConfig) else "no game"
    if of.rpartition(":")[2] != game.name:
        raise RequestError(f"opponent {word} is a run of {of}, and this is {game.name}: {WORDS} would do")
    player = as_player(load(run, device=str(device), trust=trust), game, samples=True)
    player.name = run.dir.name
    return player


def as_player(loaded: Any, game: Game, samples: bool | None = None) -> Player:
    """Convert a result of `rlgym.load` to a Player. `samples`: see PolicyPlayer."""
    player: Player = PolicyPlayer(loaded, game, samples) if hasattr(loaded, "act") else loaded
    return player


class PolicyPlayer:
    """Plays by an agent's policy on the observations of `SelfPlayEnv`."""

    name = "policy"

    def __init__(self, policy: Any, game: Game, samples: bool | None = None) -> None:
        """`samples`: sample moves instead of taking the most likely one; None: sample in games with hidden cards, in
        which deterministic play can be exploited."""
        self.policy, self.game = policy, game
        self.samples = not game.perfect_information if samples is None else samples

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        legal = self.game.legal(position)
        sampler = None
        if self.samples:
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            sampler = self.policy.sampler(int(seed))
        chosen = self.policy.act(seen(self.game, position, legal), legal.cpu().numpy(), sampler)
        action = torch.from_numpy(np.asarray(chosen, np.int64)).to(position.device)
        # Stable-Baselines3 ignores masks: an illegal move is replaced by the first legal one.
        return torch.where(legal.gather(1, action[:, None]).squeeze(1), action, legal.int().argmax(1))


def seen(game: Game, position: Tensor, legal: Tensor, player: Tensor | None = None) -> Obs:
    """The leaves of `SelfPlayEnv`'s observations: what `player [games]` (None: the player to move) sees of `position`,
    and which moves are `legal [games, actions]`."""
    return {
        "observation": game.observe(position, player).cpu().numpy(),
        "action_mask": legal.to(torch.int8).cpu().numpy(),
    }

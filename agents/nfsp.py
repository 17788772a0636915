"""Neural Fictitious Self-Play (Heinrich & Silver 2016, arXiv:1603.01121): an equilibrium of a two-player zero-sum game,
also one with hidden cards, as the average of best responses.

Two networks play both seats, each from the seat's own view. Q is a best response to the current play, learned by double
Q-learning from a replay of all moves:

    Q(s, a)  ->  r + gamma Q_target(s', argmax_a' Q(s', a'))          s': where the same player moves next

and the average policy P imitates all moves that Q has played, by cross-entropy on a reservoir of them:

    loss = E[-log P(a | s)]

In each game each player plays Q's best move with probability `anticipatory`, else draws from P. Without the average
(`average=false`) both seats play Q, which then need not converge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.agents.common.base import seeded
from rlgym.agents.common.distributions import mask_logits
from rlgym.agents.common.networks import mlp
from rlgym.agents.off_policy import saved_replay
from rlgym.agents.q_learning.epsilon_greedy import annealed_epsilon
from rlgym.agents.selfplay.game_config import game_named
from rlgym.agents.selfplay.game_replay import GameReplay
from rlgym.agents.selfplay.reservoir import Reservoir
from rlgym.common.rng import generator_state, load_generator_state
from rlgym.config.device import pick_device, resolve_auto
from rlgym.envs.episodes import fresh_seed
from rlgym.errors import RequestError
from rlgym.games.evaluation import evaluate_player
from rlgym.games.exploitability import nash_conv
from rlgym.games.film import against_itself
from rlgym.games.game import DONE, TURN, random_moves, rewards
from rlgym.games.opponents import usual
from rlgym.games.tree import levels
from rlgym.learner import NON_FINITE, REPLAY, Evaluation, Learner, Metrics, Section, weights_and_gradients
from rlgym.optim.adam import FlatAdam
from rlgym.run_folder.records import count
from rlgym.training.load_module import load_module

if TYPE_CHECKING:
    from rlgym.agents.configs.nfsp import NFSPConfig
    from rlgym.config.schema import TrainConfig
    from rlgym.games.game import Game

RECENT = 1_000
"""The rollout/ tags average over this many finished games."""


class MoveReplay(GameReplay):
    """The latest moves: `position [n, words]`, the `action` taken, the mover's `reward`, and `after`, the position
    where the same player moved next or the game was over."""

    def storage(self, game: Game) -> dict[str, Tensor]:
        count, device, whole = self.capacity, self.device, torch.int64
        return {
            "position": torch.zeros(count, game.words, dtype=whole, device=device),
            "action": torch.zeros(count, dtype=whole, device=device),
            "reward": torch.zeros(count, device=device),
            "after": torch.zeros(count, game.words, dtype=whole, device=device),
        }


class NFSP(Learner):
    """The learner."""

    unit = "moves"
    monitor = ("eval/nash_conv", "min")

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.knobs: NFSPConfig = config.agent
        knobs = self.knobs
        self.game = game_named(config)
        try:
            levels(self.game)  # its evaluation visits all positions
        except RequestError as error:
            raise RequestError(f"agent={knobs.name}: {error}; agent=ppo or agent=dqn would do") from None
        super().__init__(pick_device(config.device))
        resolve_auto(config, self.device, repays=False, threads=1)

        self.networks = build_networks(config, self.game, self.device)
        self.response = self.networks["best_response"]
        self.target = deepcopy(self.response).requires_grad_(False)
        self.response_optimizer = FlatAdam(self.response, knobs.max_grad_norm, knobs.adam_eps)
        self.average = self.networks["average"] if knobs.average else None
        if self.average is not None:
            self.average_optimizer = FlatAdam(self.average, knobs.max_grad_norm, knobs.adam_eps)

        self.player_rng = torch.Generator(self.device).manual_seed(config.seed + 1)
        self.replay_rng = torch.Generator(self.device).manual_seed(config.seed + 2)
        games = knobs.games
        self.position = self.game.init(games, self.device, self.player_rng)
        self.last_position = torch.zeros(games, 2, self.game.words, dtype=torch.int64, device=self.device)
        self.last_action = torch.full((games, 2), -1, device=self.device)
        """Latest move of each game and seat, whose outcome is still open; -1: none yet."""
        self.responds = self.draw_roles(games)
        """Which seats play the best response, `[games, seats]` bool."""
        self.every = torch.arange(games, device=self.device)
        self.replay = MoveReplay(self.game, knobs.buffer_size, self.device)
        size = knobs.reservoir_size if knobs.average else 1
        self.reservoir = Reservoir(size, {"position": self.position[:1], "action": self.last_action[:1, 0]})
        self.pending_gradient_steps = 0.0
        self.learns_from = knobs.learning_starts
        """First step with gradient steps; a resume without its replay sets it later."""
        self.target_at = 0
        """The step of the last update of the target network."""
        self.recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        """Number of moves and the first player's result of each recent game."""
        self.length = torch.zeros(games, dtype=torch.int64, device=self.device)

        self.exactness = {
            "environment": "exact: games are plain tensors",
            "replay": saved_replay.promise(knobs.save_replay, saved_replay.refill(knobs), "moves"),
            **self.exactness,
        }

    # ---- play

    @property
    def epsilon(self) -> float:
        knobs = self.knobs
        return annealed_epsilon(
            knobs.exploration_initial_eps,
            knobs.exploration_final_eps,
            knobs.exploration_fraction,
            self.progress.step,
            self.config.schedule_budget,
        )

    def draw_roles(self, games: int) -> Tensor:
        share = self.knobs.anticipatory if self.knobs.average else 1.0
        return torch.rand((games, 2), generator=self.player_rng, device=self.device) < share

    def update(self) -> Metrics:
        """Play `n_steps` moves in every game, then take the gradient steps due for them."""
        for _ in range(self.knobs.n_steps):
            self.move()
        metrics = self.learn()
        self.progress.update += 1
        metrics["rollout/exploration_rate"] = self.epsilon
        if self.recent:
            lengths, won = zip(*self.recent, strict=True)
            metrics["rollout/game_length"] = sum(lengths) / len(lengths)
            metrics["rollout/first_player_return"] = sum(won) / len(won)
        return metrics

    @torch.no_grad()
    def move(self) -> None:
        """Play one move in every game."""
        game, position, every = self.game, self.position, self.every
        seat = position[:, TURN]
        self.record_moves((self.last_action[every, seat] >= 0).nonzero().squeeze(1), seat, position)
        action, responded = self.choose(position, self.responds[every, seat])
        if self.average is not None:
            rows = responded.nonzero().squeeze(1)
            self.reservoir.add({"position": position[rows], "action": action[rows]}, self.player_rng)
        self.last_position[every, seat], self.last_action[every, seat] = position, action
        self.position = game.play(position, action)
        self.length += 1
        self.progress.step += len(position)
        over = self.position[:, DONE].nonzero().squeeze(1)
        if len(over):
            self.finish(over)

    def choose(self, position: Tensor, responds: Tensor) -> tuple[Tensor, Tensor]:
        """Moves `[games]`, and which of them come from the best response: where the player `responds`."""
        obs, legal = self.game.observe(position), self.game.legal(position)
        best = mask_logits(self.response(obs), legal).argmax(1)
        explores = torch.rand(best.shape, generator=self.player_rng, device=self.device) < self.epsilon
        best = torch.where(explores, random_moves(legal, self.player_rng), best)
        if self.average is None:
            return best, responds
        drawn = draw(mask_logits(self.average(obs), legal), self.player_rng)
        return torch.where(responds, best, drawn), responds

    def record_moves(self, rows: Tensor, seat: Tensor, after: Tensor) -> None:
        """Store the latest moves of `seat [games]` in the games `rows [n]`, which led to `after [games, words]`."""
        seat, after = seat[rows], after[rows]
        self.replay.add(
            {
                "position": self.last_position[rows, seat],
                "action": self.last_action[rows, seat],
                "reward": rewards(after, seat) / self.game.max_return,
                "after": after,
            }
        )

    def finish(self, over: Tensor) -> None:
        """Store the last moves of the finished games `over [n]` and start new games."""
        for seat in (0, 1):
            moved = over[self.last_action[over, seat] >= 0]
            self.record_moves(moved, torch.full_like(self.every, seat), self.position)
        won = rewards(self.position[over], torch.zeros_like(over))
        self.recent.extend(zip(self.length[over].tolist(), won.long().tolist(), strict=True))
        self.position[over] = self.game.init(len(over), self.device, self.player_rng)
        self.last_action[over] = -1
        self.length[over] = 0
        self.responds[over] = self.draw_roles(len(over))

    # ---- learn

    def learn(self) -> Metrics:
        knobs = self.knobs
        if self.progress.step < self.learns_from:
            return {}
        self.pending_gradient_steps += knobs.games * knobs.n_steps / knobs.train_freq
        steps = int(self.pending_gradient_steps)
        self.pending_gradient_steps -= steps
        self.move_target()
        found = [self.learn_once() for _ in range(steps)]
        if not found:
            return {}
        metrics: Metrics = {tag: torch.stack([each[tag] for each in found]).mean() for tag in found[0]}
        metrics[NON_FINITE] = metrics[NON_FINITE] * len(found)
        return metrics | {"train/reservoir": float(len(self.reservoir))}

    def move_target(self) -> None:
        every = self.knobs.target_update_interval
        if self.progress.step // every > self.target_at // every:
            self.target.load_state_dict(self.response.state_dict())
        self.target_at = self.progress.step

    def learn_once(self) -> dict[str, Tensor]:
        """One gradient step of each network."""
        knobs = self.knobs
        batch = self.replay.draw(knobs.batch_size, self.replay_rng)
        loss, value = self.response_loss(batch)
        norm, skipped = self.response_optimizer.step(loss, knobs.learning_rate)
        metrics = {"train/loss": loss.detach(), "train/q_value_mean": value.detach(), "train/grad_norm": norm}
        if self.average is not None and len(self.reservoir):
            loss = self.average_loss(self.reservoir.draw(knobs.average_batch_size, self.replay_rng))
            _, too = self.average_optimizer.step(loss, knobs.average_learning_rate)
            metrics["train/average_loss"], skipped = loss.detach(), skipped + too
        return metrics | {NON_FINITE: skipped}

    def response_loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean squared error of Q, and the mean of Q; 0-d."""
        game, after = self.game, batch["after"]
        q = self.response(game.observe(batch["position"])).gather(1, batch["action"][:, None]).squeeze(1)
        with torch.no_grad():
            obs = game.observe(after)
            best = mask_logits(self.response(obs), game.legal(after)).argmax(1, keepdim=True)
            next_q = self.target(obs).gather(1, best).squeeze(1)
            td_target = batch["reward"] + self.knobs.gamma * (after[:, DONE] == 0) * next_q
        return F.mse_loss(q, td_target), q.mean()

    def average_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        position = batch["position"]
        assert self.average is not None
        logits = mask_logits(self.average(self.game.observe(position)), self.game.legal(position))
        return F.cross_entropy(logits, batch["action"])

    # ---- evaluate

    def evaluate(self) -> Evaluation:
        """Exact NashConv of the learned policy and of the best response, and games against fixed opponents."""
        game, seed = self.game, fresh_seed(self.config.seed, self.progress.step)
        player = NetworkPlayer(game, self.networks)
        found = evaluate_player(game, player, usual(game), self.config.evaluate.episodes, seed, self.device)
        found.metrics["eval/nash_conv"] = nash_conv(game, player.chances)
        if self.average is not None:
            response = NetworkPlayer(game, nn.ModuleDict({"best_response": self.response}))
            found.metrics["eval/best_response_nash_conv"] = nash_conv(game, response.chances)
        if self.config.evaluate.video:
            found.videos["eval/episode"] = against_itself(game, player, seed, self.device)
        return found

    def histograms(self) -> dict[str, Tensor]:
        return weights_and_gradients(self.networks)

    # ---- checkpoints

    def state_dict(self) -> dict[str, Section]:
        state: dict[str, Section] = {
            "model": self.networks.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.response_optimizer.state_dict(),
            "rng": {"player": generator_state(self.player_rng), "drawer": generator_state(self.replay_rng)},
            "games": {name: getattr(self, name) for name in GAMES_UNDER_WAY},
            "progress": {
                **self.progress_state(),
                "earned": self.pending_gradient_steps,
                "learns_from": self.learns_from,
                "target_at": self.target_at,
                "recent": [list(each) for each in self.recent],
            },
        }
        if self.average is not None:
            state["average_optimizer"] = self.average_optimizer.state_dict()
            state["reservoir"] = self.reservoir.state_dict()
        if self.knobs.save_replay:
            state[REPLAY] = self.replay.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        running = len(cast(Tensor, state["games"]["position"]))
        if running != self.knobs.games:
            raise RequestError(
                f"agent.games={self.knobs.games}: the checkpoint holds {running} running games, and a resume goes on "
                "with those"
            )
        load_module(self.networks, state["model"])
        load_module(self.target, state["target"])
        self.response_optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average_optimizer.load_state_dict(state["average_optimizer"])
            self.reservoir.load_state_dict(state["reservoir"])
        load_generator_state(self.player_rng, state["rng"]["player"])
        load_generator_state(self.replay_rng, state["rng"]["drawer"])
        for name in GAMES_UNDER_WAY:
            getattr(self, name).copy_(state["games"][name])
        progress = self.load_progress(state)
        self.pending_gradient_steps, self.learns_from = count(progress["earned"], 1), count(progress["learns_from"])
        self.target_at = count(progress["target_at"], self.progress.step)
        self.recent.extend(tuple(each) for each in cast(list[Any], progress["recent"]))
        if REPLAY in state:
            self.replay.load_state_dict(state[REPLAY])
        else:
            refill = saved_replay.refill(self.knobs)
            self.learns_from = max(self.learns_from, self.progress.step + refill)
            self.notices.append(saved_replay.missing(refill, "moves"))

    @classmethod
    def load(
        cls, config: TrainConfig, state: Mapping[str, Section], device: torch.device, folder: Path
    ) -> NetworkPlayer:
        """The player of the finished run in `folder`."""
        game = game_named(config)
        networks = build_networks(config, game, device)
        load_module(networks, state["model"])
        return NetworkPlayer(game, networks)


GAMES_UNDER_WAY = ("position", "last_position", "last_action", "responds", "length")


class NetworkPlayer:
    """Draws moves from the average policy; without one, plays the best response."""

    name = "nfsp"

    def __init__(self, game: Game, networks: nn.ModuleDict) -> None:
        self.game, self.networks = game, networks

    @property
    def network(self) -> nn.Module:
        """The average policy's network; without one, the best response's."""
        return self.networks["average" if "average" in self.networks else "best_response"]

    @torch.no_grad()
    def chances(self, observation: Tensor, legal: Tensor) -> Tensor:
        """Probabilities of moves `[n, actions]`, for `observation [n, *shape]` and `legal [n, actions]`."""
        if "average" in self.networks:
            return mask_logits(self.networks["average"](observation), legal).softmax(1) * legal
        best = mask_logits(self.networks["best_response"](observation), legal).argmax(1)
        return F.one_hot(best, legal.shape[1]).to(observation.dtype)

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        chances = self.chances(self.game.observe(position), self.game.legal(position))
        return torch.multinomial(chances, 1, generator=generator).squeeze(1)


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Sample an action `[batch]` from the softmax of each row of `logits [batch, actions]`."""
    noise = torch.rand(logits.shape, generator=generator, device=logits.device)
    return (logits - noise.log_().neg_().log_()).argmax(1)  # Gumbel noise: the argmax is a sample of the softmax


def build_networks(config: TrainConfig, game: Game, device: torch.device) -> nn.ModuleDict:
    """Freshly initialised networks, seeded by the run's seed without touching torch's global generator: observations
    `[batch, *shape]` to values or logits `[batch, actions]`."""
    knobs: NFSPConfig = config.agent
    inputs = torch.Size(game.shape).numel()
    networks = {}
    with seeded(config.seed):
        for name in ("best_response", "average") if knobs.average else ("best_response",):
            layers = mlp(inputs, list(knobs.net_arch), game.actions, knobs.activation, last_gain=0.01)
            networks[name] = nn.Sequential(nn.Flatten(), *layers)
    return nn.ModuleDict(networks).to(device)

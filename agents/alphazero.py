"""AlphaZero (Silver et al. 2018, doi:10.1126/science.aar6404): a network learns from games that it plays against
itself, searching before every move.

All games run in lockstep. The network's policy p and value v are trained towards the search's improved policy pi' and
the outcome z of the game:

    loss = KL(pi' || p) + vf_coef (v - z)^2

The network that plays is always the latest one: no gating by matches, and "best" is decided by ratings among past
selves. The search is in selfplay/mcts.py.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.agents.common.base import seeded
from rlgym.agents.off_policy import saved_replay
from rlgym.agents.selfplay.board_networks import BoardNetwork
from rlgym.agents.selfplay.game_config import game_named
from rlgym.agents.selfplay.game_replay import GameReplay, Positions
from rlgym.agents.selfplay.mcts import ILLEGAL, Found, Settings
from rlgym.agents.selfplay.search import search
from rlgym.agents.selfplay.search_player import Evaluator, NetworkPlayer, SearchPlayer
from rlgym.common.rng import generator_state, load_generator_state
from rlgym.config.device import pick_device, resolve_auto
from rlgym.envs.episodes import fresh_seed
from rlgym.errors import RequestError
from rlgym.games.evaluation import evaluate_player
from rlgym.games.film import against_itself
from rlgym.games.game import DONE, TURN, rewards
from rlgym.games.match import versus
from rlgym.games.opponents import make_players
from rlgym.games.ratings import Ladder
from rlgym.learner import NON_FINITE, REPLAY, Evaluation, Learner, Metrics, Section, weights_and_gradients
from rlgym.optim.adam import FlatAdam
from rlgym.training.load_module import load_module
from rlgym.training.schedules import factor

if TYPE_CHECKING:
    from rlgym.agents.configs.alphazero import AlphaZeroConfig
    from rlgym.config.schema import TrainConfig
    from rlgym.games.game import Game

RECENT = 1_000
"""The rollout/ tags average over this many finished games."""
HELD_OUT = 20_000
"""Capacity for positions of held-out games."""


class AlphaZero(Learner):
    """The learner."""

    unit = "moves"
    monitor = ("eval/rating", "max")

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.knobs: AlphaZeroConfig = config.agent
        knobs = self.knobs
        self.game = game_of(config)
        super().__init__(pick_device(config.device, heavy=True))
        large = knobs.network == "conv" or knobs.width > 256
        resolve_auto(config, self.device, repays=False, threads=(os.cpu_count() or 1) if large else 1)
        self.opponents = make_players(knobs.opponents, self.game, self.device)

        self.network = build_network(config, self.game, self.device)
        self.optimizer = FlatAdam(self.network, knobs.max_grad_norm, knobs.adam_eps)
        self.evaluate_positions = evaluator(config, self.game, self.network)
        self.loss_of: Callable[..., tuple[Tensor, ...]] = self.losses
        if config.compile == "on":
            self.loss_of = torch.compile(self.losses, dynamic=False)

        self.player_rng = torch.Generator(self.device).manual_seed(config.seed + 1)
        self.replay_rng = torch.Generator(self.device).manual_seed(config.seed + 2)
        self.full_search_rng = torch.Generator().manual_seed(config.seed + 3)
        self.replay = GameReplay(self.game, knobs.buffer_size, self.device)
        self.held_out = GameReplay(self.game, HELD_OUT, self.device)
        self.pending_gradient_steps = 0.0
        self.learns_from = 0
        """First step with gradient steps; a resume without its replay sets it later."""

        games, longest = knobs.games, self.game.max_moves
        self.position = self.game.init(games, self.device, self.player_rng)
        self.length = torch.zeros(games, dtype=torch.int64, device=self.device)
        self.running: Positions = {
            "position": torch.zeros(longest, games, self.game.words, dtype=torch.int64, device=self.device),
            "policy": torch.zeros(longest, games, self.game.actions, device=self.device),
            "value": torch.zeros(longest, games, device=self.device),
            "full": torch.zeros(longest, games, dtype=torch.bool, device=self.device),
            "move": torch.zeros(longest, games, dtype=torch.int64, device=self.device),
        }
        """Moves of the running games, `[moves, games, ...]`; of game g the first `length[g]` are filled."""
        self.every = torch.arange(games, device=self.device)
        self.finished = 0
        self.recent: deque[tuple[int, int, int]] = deque(maxlen=RECENT)
        """First move, number of moves and the first player's result of each recent game."""

        self.ladder = Ladder()
        self.past: dict[str, Tensor] = {}
        """Name -> weights of past selves, oldest first."""
        self.exactness = {
            "environment": "exact: games are plain tensors",
            "replay": saved_replay.promise(knobs.save_replay, knobs.learning_starts, "positions"),
            **self.exactness,
        }

    # ---- play

    def update(self) -> Metrics:
        """Play `n_steps` moves in every game, then take the gradient steps due for the finished ones."""
        began = perf_counter()
        before, simulations = self.finished, 0
        self.evaluate_positions.refresh()
        for _ in range(self.knobs.n_steps):
            simulations += self.move()
        played = perf_counter()
        metrics: Metrics = {
            "time/simulations_per_second": simulations / (played - began),
            "time/games_per_second": (self.finished - before) / (played - began),
        }
        metrics |= self.learn()
        self.progress.update += 1
        return metrics | self.rollout_metrics()

    def move(self) -> int:
        """Play one move in every game; returns the number of simulations."""
        knobs, game = self.knobs, self.game
        full = bool(torch.rand((), generator=self.full_search_rng) < knobs.full_share)
        settings = search_settings(knobs, knobs.simulations if full else knobs.fast_simulations)
        found = search(game, self.position, self.evaluate_positions, settings, self.player_rng)
        move = self.choose(found)
        here = (self.length, self.every)
        self.running["position"][here] = self.position
        self.running["policy"][here] = found.policy
        self.running["value"][here] = found.value
        self.running["full"][self.length, self.every] = full
        self.running["move"][here] = move
        self.position = game.step(self.position, move)
        self.length += 1
        self.progress.step += knobs.games
        over = self.position[:, DONE].nonzero().squeeze(1)
        if len(over):
            self.finish(over)
        return settings.simulations * knobs.games

    def choose(self, found: Found) -> Tensor:
        """The moves to play, `[games]`: the search's choice, or in the first `temperature_plies` of a game drawn from
        policy^(1 / T)."""
        knobs = self.knobs
        if knobs.temperature == 0 or knobs.temperature_plies == 0:
            return found.move
        weights = found.policy.clamp(min=1e-30).log().div_(knobs.temperature)
        weights = torch.softmax(weights, 1) * (found.policy > 0)
        drawn = torch.multinomial(weights, 1, generator=self.player_rng).squeeze(1)
        return torch.where(self.length < knobs.temperature_plies, drawn, found.move)

    def finish(self, over: Tensor) -> None:
        """Move the finished games `over [n]` into the replay, one after another, and start new ones."""
        ended, length = self.position[over], self.length[over]
        held = self.is_held_out(torch.arange(self.finished, self.finished + len(over), device=self.device))
        self.finished += len(over)
        within = torch.arange(self.game.max_moves, device=self.device) < length.unsqueeze(1)  # [n, moves]
        parts = {name: part[:, over].transpose(0, 1)[within] for name, part in self.running.items()}
        game = within.nonzero()[:, 0]
        parts["outcome"] = rewards(ended[game], parts["position"][:, TURN])
        learned = ~held[game]
        self.replay.add({name: part[learned] for name, part in parts.items()})
        self.held_out.add({name: part[~learned] for name, part in parts.items()})
        self.pending_gradient_steps += float(learned.sum()) * self.knobs.reuse / self.knobs.batch_size
        won = rewards(ended, torch.zeros_like(length)).long()
        self.recent.extend(zip(self.running["move"][0, over].tolist(), length.tolist(), won.tolist(), strict=True))
        self.position[over] = self.game.init(len(over), self.device, self.player_rng)
        self.length[over] = 0

    def is_held_out(self, number: Tensor) -> Tensor:
        """Whether the games numbered `number [n]` are held out; held-out games are evenly spaced."""
        share = self.knobs.held_out
        return ((number + 1) * share).long() > (number * share).long()

    def rollout_metrics(self) -> Metrics:
        if not self.recent:
            return {}
        _, lengths, won = zip(*self.recent, strict=True)
        games = len(self.recent)
        return {
            "rollout/game_length": sum(lengths) / games,
            "rollout/first_player_wins": sum(w > 0 for w in won) / games,
            "rollout/draws": sum(w == 0 for w in won) / games,
        }

    # ---- learn

    def learn(self) -> Metrics:
        knobs = self.knobs
        if len(self.replay) < knobs.learning_starts or self.progress.step < self.learns_from:
            self.pending_gradient_steps = 0.0
            return {}
        steps = int(self.pending_gradient_steps)
        self.pending_gradient_steps -= steps
        if not steps:
            return {}
        learning_rate = knobs.learning_rate * factor(
            knobs.learning_rate_schedule, self.progress.step, self.config.schedule_budget
        )
        found = []
        for _ in range(steps):
            planes, batch = self.sample(self.replay.draw(knobs.batch_size, self.replay_rng))
            loss, *rest = self.loss_of(planes, batch)
            norm, skipped = self.optimizer.step(loss, learning_rate)
            with torch.no_grad():  # decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)
                self.optimizer.parameters.mul_(1 - learning_rate * knobs.weight_decay)
            found.append(torch.stack([loss.detach(), *(x.detach() for x in rest), norm, skipped]))
        means = torch.stack(found).mean(0)
        names = ("loss", "policy_loss", "value_loss", "kl", "entropy", "grad_norm")
        metrics: Metrics = {f"train/{name}": mean for name, mean in zip(names, means, strict=False)}
        return metrics | {"train/learning_rate": learning_rate, NON_FINITE: means[-1] * steps}

    def sample(self, drawn: Positions) -> tuple[Tensor, Positions]:
        """Observations `[batch, *shape]` and targets of the `drawn` positions, each under a random symmetry. Adds
        `legal [batch, actions]`."""
        game = self.game
        planes, legal, policy = game.observe(drawn["position"]), game.legal(drawn["position"]), drawn["policy"]
        cells, actions = self.symmetries
        if self.knobs.symmetries and len(cells) > 1:
            which = torch.randint(len(cells), (len(policy),), generator=self.replay_rng, device=self.device)
            planes, moves = turned(planes, cells[which]), actions[which]
            policy, legal = policy.gather(1, moves), legal.gather(1, moves)
        return planes, {**drawn, "policy": policy, "legal": legal}

    @property
    def symmetries(self) -> tuple[Tensor, Tensor]:
        cells, actions = self.game.symmetries()
        return cells.to(self.device), actions.to(self.device)

    def losses(self, planes: Tensor, batch: Positions) -> tuple[Tensor, ...]:
        """The loss, its cross-entropy with pi', the squared error of the value, KL(pi' || p) and the entropy of p, all
        0-d. The policy learns from full searches only."""
        knobs = self.knobs
        logits, value = self.network(planes)
        log_p = F.log_softmax(torch.where(batch["legal"], logits, ILLEGAL), 1)
        target, full = batch["policy"], batch["full"].float()
        count = full.sum().clamp(min=1)
        policy_loss = -((target * log_p).sum(1) * full).sum() / count
        value_target = torch.lerp(batch["outcome"], batch["value"], knobs.root_value)
        value_loss = ((value - value_target) / self.game.max_return).square().mean()
        certain = (torch.xlogy(target, target).sum(1) * full).sum() / count
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        return policy_loss + knobs.vf_coef * value_loss, policy_loss, value_loss, certain + policy_loss, entropy

    # ---- evaluate

    def evaluate(self) -> Evaluation:
        """Play against the opponents and past selves, with search, and update the ratings."""
        knobs, game, config = self.knobs, self.game, self.config
        self.evaluate_positions.refresh()
        seed = fresh_seed(config.seed, self.progress.step)
        settings = search_settings(knobs, knobs.evaluate_simulations)
        me = f"step_{self.progress.step}"
        player = SearchPlayer(game, self.evaluate_positions, settings, name=me)
        found = evaluate_player(game, player, self.opponents, config.evaluate.episodes, seed, self.device)
        alone = NetworkPlayer(game, self.evaluate_positions)
        alone_metrics = evaluate_player(
            game, alone, self.opponents, config.evaluate.episodes, seed + 1, self.device
        ).metrics
        found.metrics |= {
            tag.replace("eval/", "eval/network_"): value
            for tag, value in alone_metrics.items()
            if tag.endswith("/win_rate")
        }
        if knobs.exact:
            found.metrics |= self.exact_errors(player, alone)
        for opponent in self.opponents:
            won = [e["return"] for e in found.records["episodes"] if e["opponent"] == opponent.name]
            wins, losses = sum(w > 0 for w in won), sum(w < 0 for w in won)
            self.ladder.add(me, opponent.name, wins, len(won) - wins - losses, losses)
        rival = SearchPlayer(game, self.evaluate_positions, settings, explores=True, name=me)
        for name, weights in self.past.items():
            if name == me:
                continue
            scores = versus(
                game, rival, self.past_self(name, weights), -(-config.evaluate.episodes // 2), seed, self.device
            )
            self.ladder.add(me, name, *(sum(getattr(s, x) for s in scores) for x in ("wins", "draws", "losses")))
        ratings = self.ladder.ratings()
        rating, low, high = ratings[me]
        found.metrics |= {"eval/rating": rating, "eval/rating_low": low, "eval/rating_high": high}
        found.metrics |= self.held_out_losses()
        found.records["ratings"] = {name: list(each) for name, each in ratings.items()}
        self.remember(me)
        if config.evaluate.video:
            found.videos["eval/episode"] = against_itself(game, player, seed, self.device)
        return found

    def exact_errors(self, player: SearchPlayer, alone: NetworkPlayer) -> dict[str, float]:
        """Error rates in solved positions, with search and of the network alone."""
        from rlgym.games.connect_four.positions import drawn_positions, exact_errors

        positions = drawn_positions(say=self.notices.append)
        found = {}
        for prefix, who in (("eval/exact_error", player), ("eval/network_exact_error", alone)):
            for stage, error in exact_errors(who, positions, device=self.device).items():
                found[f"{prefix}/{stage}"] = error
        return found

    def past_self(self, name: str, weights: Tensor) -> SearchPlayer:
        network = deepcopy(self.network)
        flat = FlatAdam(network, 1.0, 1e-8)
        flat.parameters.copy_(weights)
        evaluate = evaluator(self.config, self.game, network)
        settings = search_settings(self.knobs, self.knobs.evaluate_simulations)
        return SearchPlayer(self.game, evaluate, settings, explores=True, name=name)

    def remember(self, me: str) -> None:
        """Add the current weights to the past selves; when full, drop the one closest in time to its neighbours."""
        if not self.knobs.past_selves:
            return
        self.past[me] = self.optimizer.parameters.detach().clone()
        if len(self.past) > self.knobs.past_selves:
            steps = [int(name.removeprefix("step_")) for name in self.past]
            gaps = [after - before for before, after in zip([0, *steps[:-2]], steps[1:], strict=True)]
            del self.past[list(self.past)[gaps.index(min(gaps))] if gaps else next(iter(self.past))]

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """Losses on positions of held-out games."""
        if not len(self.held_out):
            return {}
        numbers = torch.arange(self.held_out.oldest, self.held_out.written, device=self.device)
        held = self.held_out.at(numbers[-4_096:])
        planes = self.game.observe(held["position"])
        _, policy, value, kl, _ = self.losses(planes, {**held, "legal": self.game.legal(held["position"])})
        return {"eval/policy_loss": float(policy), "eval/value_loss": float(value), "eval/kl": float(kl)}

    def histograms(self) -> dict[str, Tensor]:
        found = weights_and_gradients(self.network)
        if self.recent:
            found["rollout/first_move"] = torch.tensor([float(first) for first, _, _ in self.recent])
        return found

    # ---- checkpoints

    def state_dict(self) -> dict[str, Section]:
        state: dict[str, Section] = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": {
                "player": generator_state(self.player_rng),
                "drawer": generator_state(self.replay_rng),
                "coin": generator_state(self.full_search_rng),
            },
            "games": {
                "position": self.position,
                "length": self.length,
                **{f"running.{name}": part for name, part in self.running.items()},
            },
            "progress": {
                **self.progress_state(),
                "finished": self.finished,
                "earned": self.pending_gradient_steps,
                "learns_from": self.learns_from,
                "recent": [list(each) for each in self.recent],
            },
            "ladder": {**self.ladder.state_dict(), "names": list(self.past), **self.past},
            "held_out": {key: x for key, x in self.held_out.state_dict().items()},
        }
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
        load_module(self.network, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, generator in (
            ("player", self.player_rng),
            ("drawer", self.replay_rng),
            ("coin", self.full_search_rng),
        ):
            load_generator_state(generator, state["rng"][name])
        self.position.copy_(cast(Tensor, state["games"]["position"]))
        self.length.copy_(cast(Tensor, state["games"]["length"]))
        for name, part in self.running.items():
            part.copy_(cast(Tensor, state["games"][f"running.{name}"]))
        progress = self.load_progress(state)
        self.finished, self.pending_gradient_steps = cast(int, progress["finished"]), cast(float, progress["earned"])
        self.learns_from = cast(int, progress["learns_from"])
        self.recent.extend(tuple(each) for each in cast(list[Any], progress["recent"]))
        self.ladder.load_state_dict(state["ladder"])
        self.past = {
            name: cast(Tensor, state["ladder"][name]).to(self.device)
            for name in cast(list[str], state["ladder"]["names"])
        }
        self.held_out.load_state_dict(state["held_out"])
        if REPLAY in state:
            self.replay.load_state_dict(state[REPLAY])
        else:
            self.notices.append(saved_replay.missing(self.knobs.learning_starts, "positions"))

    @classmethod
    def load(
        cls, config: TrainConfig, state: Mapping[str, Section], device: torch.device, folder: Path
    ) -> SearchPlayer:
        """The player of the finished run in `folder`."""
        game = game_of(config)
        network = build_network(config, game, device)
        load_module(network, state["model"])
        settings = search_settings(config.agent, config.agent.evaluate_simulations)
        return SearchPlayer(game, evaluator(config, game, network), settings)


def game_of(config: TrainConfig) -> Game:
    """The game named by `env=`. RequestError, with agents that would do, where it cannot be searched."""
    name, agent = config.env.id, config.agent.name
    game = game_named(config)
    if not game.perfect_information:
        raise RequestError(
            f"agent={agent} searches positions that both players see, and env={name} hides cards; agent=nfsp, "
            "agent=ppo or agent=dqn would do"
        )
    if config.agent.network == "conv" and len(game.shape) != 3:
        raise RequestError(
            f"agent.network=conv reads boards, and env={name} shows {list(game.shape)} numbers; mlp would do"
        )
    if config.agent.exact and game.name != "connect_four":
        raise RequestError(f"agent.exact=true: only connect_four is solved, not env={name}; agent.exact=false would do")
    return game


def build_network(config: TrainConfig, game: Game, device: torch.device) -> BoardNetwork:
    """A freshly initialised network, seeded by the run's seed without touching torch's global generator."""
    knobs: AlphaZeroConfig = config.agent
    with seeded(config.seed):
        network = BoardNetwork(game, knobs.network, knobs.width, knobs.blocks)
    return network.to(device)


def evaluator(config: TrainConfig, game: Game, network: BoardNetwork) -> Evaluator:
    """An evaluator of positions for searches; in bfloat16 on a GPU."""
    precision = config.agent.precision
    on_gpu = next(network.parameters()).is_cuda
    return Evaluator(game, network, precision == "bf16" or (precision == "auto" and on_gpu))


def search_settings(knobs: AlphaZeroConfig, simulations: int) -> Settings:
    return Settings(
        simulations,
        knobs.search,
        considered=knobs.considered,
        c_visit=knobs.c_visit,
        c_scale=knobs.c_scale,
        rescale=knobs.rescale,
        c_puct=knobs.c_puct,
        dirichlet_alpha=knobs.dirichlet_alpha,
        dirichlet_fraction=knobs.dirichlet_fraction,
    )


def turned(planes: Tensor, cells: Tensor) -> Tensor:
    """Permute the cells of `planes [batch, planes, rows, columns]`: cell c of row i comes from `cells[i, c]`."""
    flat = planes.flatten(-2)
    return flat.gather(2, cells.unsqueeze(1).expand_as(flat)).view_as(planes)

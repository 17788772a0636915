"""The search of mcts.py on a CPU with compiled tree operations. Same trees, same arrays, same choices up to rounding
(float64 here). Game rules and network remain calls for all games at once; two compiled functions replace the forty
other calls of a simulation, which in 64 games cost half as much as the network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from rlgym.agents.selfplay.mcts import ILLEGAL, UNTRIED, Evaluate, Found, Search, Settings
from rlgym.common.jit import compiled
from rlgym.games.game import DONE, RETURN, TURN

if TYPE_CHECKING:
    from torch import Tensor

    from rlgym.envs.spaces import Array
    from rlgym.games.game import Game

GUMBEL, PUCT, UCT = range(3)
LEGAL = ILLEGAL / 2
"""Logits above this belong to legal moves."""


class Trees(NamedTuple):
    """The arrays of `Search` under the same names."""

    visits: Array
    value_sum: Array
    logits: Array
    prior: Array
    raw_value: Array
    sign: Array
    child: Array
    position: Array


class Way(NamedTuple):
    """The descents from the roots."""

    path: Array
    """Nodes, `[depth, games]`."""
    moves: Array
    """Moves chosen in them, `[depth, games]`."""
    length: Array
    """Their number, `[games]`."""
    leaf: Array
    """The last node, `[games]`."""
    leaf_position: Array
    """Its position, `[games, words]`."""
    action: Array
    """The move chosen there, `[games]`."""


class Rule(NamedTuple):
    """The selection rule; see `Settings`."""

    method: int
    c_visit: float
    scale: float
    rescale: bool
    explore: float
    untried: float


class CompiledSearch(Search):
    """`Search` with compiled tree operations; positions on the CPU."""

    def __init__(
        self, game: Game, position: Tensor, evaluate: Evaluate, settings: Settings, generator: torch.Generator | None
    ) -> None:
        super().__init__(game, position, evaluate, settings, generator)
        tensors = self.visits, self.value_sum, self.logits, self.prior, self.raw_value, self.sign
        child = self.child.view(-1, self.actions)
        self.trees = Trees(*(tensor.numpy() for tensor in (*tensors, child, self.position)))
        self.moves, self.length = torch.zeros_like(self.path), torch.zeros_like(self.path[0])
        self.leaf, self.action = torch.zeros_like(self.path[:2])
        self.leaf_position = torch.empty_like(position)
        walks = self.path, self.moves, self.length, self.leaf, self.leaf_position, self.action
        self.way = Way(*(tensor.numpy() for tensor in walks))
        top = float(game.max_return)
        method, explore = {
            "gumbel": (GUMBEL, 0.0),
            "puct": (PUCT, settings.c_puct * top),
            "uct": (UCT, settings.c_uct * top),
        }[settings.method]
        scale = settings.c_scale if settings.rescale else settings.c_scale / (2 * top)
        self.rule = Rule(method, settings.c_visit, scale, settings.rescale, explore, UNTRIED * top)
        if method == GUMBEL:
            self.noise, self.table = self.perturbation.numpy(), self.considered.squeeze(2).numpy()
        else:
            self.noise, self.table = np.zeros((2, settings.simulations, 0), np.float32)

    def simulate(self, simulation: int) -> None:
        descend(self.trees, self.way, self.rule, self.noise, self.table[simulation])
        position = self.play(self.leaf_position, self.action)
        legal = self.game.legal(position)  # before the network, which evicts the rules from the cache
        evaluated = [x.contiguous().numpy() for x in self.evaluate(position)]
        absorb(self.trees, self.way, self.games * (simulation + 2), position.numpy(), legal.numpy(), *evaluated)

    def found(self) -> Found:
        if self.settings.method == "gumbel":
            self.at_root = self.improved(self.row[self.root], self.visits[self.root])
        return super().found()


@compiled
def improve(trees: Trees, rule: Rule, node: int, score: Array) -> None:
    """Write the logits of pi' in `node` to `score [actions]`, as `mcts.improved_logits`."""
    visits, value_sum = trees.visits[node], trees.value_sum[node]
    logits, prior = trees.logits[node], trees.prior[node]
    count, mean, mass = visits.sum(), 0.0, 0.0
    for a in range(len(score)):
        if visits[a] > 0:
            mean += prior[a] * value_sum[a] / visits[a]
            mass += prior[a]
    mixed = (trees.raw_value[node] + count * mean / max(mass, 1e-30)) / (1 + count)
    low, high = math.inf, -math.inf
    for a in range(len(score)):
        score[a] = value_sum[a] / visits[a] if visits[a] > 0 else mixed
        if logits[a] > LEGAL:
            low, high = min(low, score[a]), max(high, score[a])
    sigma = (rule.c_visit + visits.max()) * rule.scale
    for a in range(len(score)):
        q = (score[a] - low) / max(high - low, 1e-8) if rule.rescale else score[a]
        score[a] = logits[a] + sigma * q


@compiled
def lag(visits: Array, score: Array) -> None:
    """Turn logits of pi' into (pi' - N / (1 + sum N)) * (1 + sum N), in place."""
    greatest, whole, count = score.max(), 0.0, visits.sum()
    for a in range(len(score)):
        score[a] = math.exp(score[a] - greatest)
        whole += score[a]
    for a in range(len(score)):
        score[a] = score[a] / whole * (1 + count) - visits[a]


@compiled
def puct(trees: Trees, rule: Rule, node: int, score: Array) -> None:
    """Q + c P sqrt(N(s)) / (1 + N): `Search.puct`."""
    visits = trees.visits[node]
    root = math.sqrt(1 + visits.sum())
    for a in range(len(score)):
        q = trees.value_sum[node, a] / max(visits[a], 1.0)
        legal = trees.logits[node, a] > LEGAL
        score[a] = q + rule.explore * trees.prior[node, a] * root / (1 + visits[a]) if legal else -math.inf


@compiled
def uct(trees: Trees, rule: Rule, node: int, score: Array) -> None:
    """Q + c sqrt(ln sum N / N): `Search.uct`."""
    visits = trees.visits[node]
    log = math.log(max(visits.sum(), 1.0))
    for a in range(len(score)):
        if visits[a] > 0:
            score[a] = trees.value_sum[node, a] / visits[a] + rule.explore * math.sqrt(log / visits[a])
        else:
            score[a] = trees.logits[node, a] + rule.untried


@compiled
def descend(trees: Trees, way: Way, rule: Rule, noise: Array, considered: Array) -> None:
    """Descend every tree to an unexpanded move. At the root of a gumbel search the move is chosen by sequential halving
    among those with `considered [games]` visits, with `noise [games, actions]`."""
    games = len(way.leaf)
    score = np.empty(trees.visits.shape[1])
    for game in range(games):
        node, depth = games + game, 0
        while True:
            if rule.method == PUCT:
                puct(trees, rule, node, score)
            elif rule.method == UCT:
                uct(trees, rule, node, score)
            else:
                improve(trees, rule, node, score)
                if depth > 0:
                    lag(trees.visits[node], score)
                else:
                    for a in range(len(score)):
                        allowed = trees.visits[node, a] == considered[game]
                        score[a] = score[a] + noise[game, a] if allowed else -math.inf
            best = score.argmax()
            way.path[depth, game], way.moves[depth, game] = node, best
            depth += 1
            if trees.child[node, best] == 0:
                way.leaf[game], way.leaf_position[game], way.action[game] = node, trees.position[node], best
                way.length[game] = depth
                break
            node = trees.child[node, best]


@compiled
def absorb(trees: Trees, way: Way, first: int, position: Array, legal: Array, scores: Array, value: Array) -> None:
    """Add the nodes from row `first` on: `position [games, words]`, its `legal` moves, its logits (`scores`) and
    its `value`. Links them to their parents and backs their values up."""
    logits, prior = trees.logits, trees.prior
    actions = logits.shape[1]
    for game in range(len(way.leaf)):
        new = first + game
        trees.position[new] = position[game]
        side = 1.0 - 2.0 * position[game, TURN]
        trees.sign[new], trees.raw_value[new] = side, value[game]
        greatest = -math.inf
        for a in range(actions):
            logits[new, a] = scores[game, a] if legal[game, a] else ILLEGAL
            greatest = max(greatest, logits[new, a])
        whole = 0.0
        for a in range(actions):
            prior[new, a] = math.exp(logits[new, a] - greatest)
            whole += prior[new, a]
        for a in range(actions):
            prior[new, a] /= whole
        result = value[game] * side
        if position[game, DONE]:
            result = float(position[game, RETURN])
        else:
            trees.child[way.leaf[game], way.action[game]] = new
        for depth in range(way.length[game]):
            node, made = way.path[depth, game], way.moves[depth, game]
            trees.value_sum[node, made] += trees.sign[node] * result
            trees.visits[node, made] += 1

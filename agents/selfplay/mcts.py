"""Tree search by a network in many games at once: all trees in one set of tensors, on any device.

Each simulation descends every tree to an unexpanded move, adds a node for it, evaluates it by one call of the network
for all games, and backs the values up. Three selection rules share the tree:

- gumbel: Danihelka et al. 2022, "Policy improvement by planning with Gumbel": sequential halving at the root over moves
  sampled without replacement, completed values, and below the root argmax(pi' - N / (1 + sum N));
- puct: Silver et al. 2018 (doi:10.1126/science.aar6404), with Dirichlet noise on the root's prior;
- uct: Kocsis & Szepesvari 2006, each move once, then Q + c sqrt(ln sum N / N).

The number of calls limits such a search, so: nodes of one age are adjacent ([nodes, games, ...], flattened), each
node's choice is cached and updated only along the changed path, and a descent is one gather per depth. Row 0 is where
finished descents wait for the others. A move that ends the game gets no node to descend into: each visit repeats it,
and its value is the game's result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.games.game import DONE, RETURN, TURN

if TYPE_CHECKING:
    from rlgym.games.game import Game

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From positions `[games, words]` to `(logits [games, actions], value [games])`, the value for the player to move.
Outputs for illegal moves and finished games are ignored."""

ILLEGAL = -1e9
"""Logit of an illegal move: finite, so that positions without legal moves stay finite."""
UNTRIED = 1e3
"""UCT's bonus for an untried move: far above any score, yet small enough that logits still break ties."""


@dataclass(frozen=True)
class Settings:
    """Settings of a search, described in agents/configs/alphazero.py."""

    simulations: int
    method: str = "gumbel"
    considered: int = 16
    c_visit: float = 50.0
    c_scale: float = 1.0
    rescale: bool = False
    c_puct: float = 1.25
    c_uct: float = math.sqrt(2)
    noise: bool = True
    """Whether to add noise at the root: Gumbel, or PUCT's Dirichlet noise."""
    dirichlet_alpha: float = 1.0
    dirichlet_fraction: float = 0.25
    line: int = 0
    """Length of the principal variation to return."""


@dataclass
class Found:
    """Results of a search in each game; zero for finished games."""

    visits: Tensor
    """`[games, actions]` float32; they sum to the number of simulations."""
    policy: Tensor
    """`[games, actions]`, the policy target: pi' of the Gumbel paper's equation 11, else visit shares."""
    value: Tensor
    """`[games]`, for the player to move: the mean over the root's network value and all simulations."""
    move: Tensor
    """`[games]`: gumbel's A_(n+1), else the most visited."""
    q: Tensor
    """`[games, actions]`, mean value of each move, 0 if untried."""
    prior: Tensor
    """`[games, actions]`, the network's probabilities without noise."""
    line: Tensor
    """`[games, Settings.line]`, the principal variation; -1 after its end."""


class Search:
    """The trees. Rows are nodes: row 0 is no node, `games * (i + 1) + g` the i-th node of game g, its root the 0th.

    position      [rows, words]
    visits, value_sum, logits, prior  [rows, actions] float32: N and W of each move, from its mover's side
    raw_value     [rows] the network's value
    sign          [rows] +1 where player 0 is to move, -1 where player 1, 0 in row 0
    child         [rows * actions] the node behind a move, 0 while there is none
    choice, hop   [rows] the move that the node would make now, as an index of `child`, and the node behind it
    """

    def __init__(
        self, game: Game, position: Tensor, evaluate: Evaluate, settings: Settings, generator: torch.Generator | None
    ) -> None:
        self.game, self.evaluate, self.settings, self.generator = game, evaluate, settings, generator
        self.games, self.actions = len(position), game.actions
        rows = self.games * (settings.simulations + 2)
        device = position.device
        self.position = torch.empty(rows, game.words, dtype=torch.int64, device=device)
        self.visits, self.value_sum = torch.zeros(2, rows, self.actions, device=device)
        self.logits, self.prior = torch.zeros(2, rows, self.actions, device=device)
        self.raw_value, self.sign = torch.zeros(2, rows, device=device)
        self.child = torch.zeros(rows * self.actions, dtype=torch.int64, device=device)
        self.choice, self.hop = torch.zeros(2, rows, dtype=torch.int64, device=device)
        self.row = torch.arange(rows, device=device)
        self.edge = self.row * self.actions
        """Index in `child` of each node's first move."""
        self.root = slice(self.games, 2 * self.games)
        self.path = torch.empty(settings.simulations + 2, self.games, dtype=torch.int64, device=device)
        self.path[0] = self.row[self.root]
        self.deepest = 0
        """Length of the longest descent so far, in nodes."""
        self.choose = {"gumbel": self.gumbel, "puct": self.puct, "uct": self.uct}[settings.method]
        # Descents stop before terminal moves: only a root can be terminal.
        self.play = game.step if bool(position[:, DONE].any()) else game.play
        self.add(self.root, position)
        if settings.method == "gumbel":
            self.prepare_halving()
        elif settings.method == "puct" and settings.noise:
            self.add_noise()

    def run(self) -> Found:
        for simulation in range(self.settings.simulations):
            self.simulate(simulation)
        return self.found()

    # ---- a simulation

    def simulate(self, simulation: int) -> None:
        if self.settings.method == "gumbel":
            self.choose_at_root(simulation)
        self.expand(simulation, self.walk())

    def walk(self) -> Tensor:
        """The nodes from each root to the one whose choice is unexpanded: `[depth, games]`, 0 after the end."""
        reach = self.deepest + 1  # one simulation deepens the trees by one node at most: no check on the way
        for depth in range(reach):
            torch.index_select(self.hop, 0, self.path[depth], out=self.path[depth + 1])
        length = int(self.path[:reach].amax(1).count_nonzero())
        self.deepest = max(self.deepest, length)
        return self.path[:length]

    def expand(self, simulation: int, path: Tensor) -> None:
        """Play the chosen moves, evaluate the new positions, and back the values up."""
        games = self.games
        leaf = path.amax(0)  # a node is younger than its ancestors
        edge = self.choice.index_select(0, leaf)
        before, action = self.position.index_select(0, leaf), torch.sub(edge, leaf, alpha=self.actions)
        new = slice(games * (simulation + 2), games * (simulation + 3))
        value, over = self.add(new, self.play(before, action))
        self.child.scatter_(0, edge, torch.addcmul(self.row[new], self.row[new], over, value=-1))

        # No move is on two paths, so the result does not depend on the order of additions.
        rows = path.view(-1)
        edges = self.choice.index_select(0, rows)
        sign = self.sign.index_select(0, rows)
        self.value_sum.view(-1).index_add_(0, edges, (sign.view(path.shape) * value).view(-1))
        self.visits.view(-1).index_add_(0, edges, sign.square())

        choice = self.choose(rows).add_(self.edge.index_select(0, rows))
        self.choice.scatter_(0, rows, choice)
        self.hop.scatter_(0, rows, self.child.index_select(0, choice))

    def add(self, new: slice, position: Tensor) -> tuple[Tensor, Tensor]:
        """Add `position [games, words]` as the rows `new`. Returns their value for player 0, `[games]`, and whether
        they are terminal, `[games]` int64."""
        logits, value = self.evaluate(position)
        logits = torch.where(self.game.legal(position), logits, ILLEGAL)
        turn, over, result = position[:, TURN], position[:, DONE], position[:, RETURN]
        sign = 1.0 - 2.0 * turn
        self.position[new], self.sign[new], self.raw_value[new], self.logits[new] = position, sign, value, logits
        self.prior[new] = softmax(logits)
        torch.add(logits.argmax(1), self.edge[new], out=self.choice[new])  # the first choice of every rule
        return torch.addcmul(result.float(), value * sign, 1.0 - over), over

    # ---- choices below the root

    def gumbel(self, rows: Tensor) -> Tensor:
        """argmax(pi' - N / (1 + sum N)), equation 14: visits in proportion to pi'."""
        visits = self.visits.index_select(0, rows)
        improved = self.improved(rows, visits)
        self.at_root = improved[: self.games]
        visits_and_one = total(visits).add_(1)
        # Multiplied by 1 + sum N, which keeps the order.
        return softmax(improved).mul_(visits_and_one).sub_(visits).argmax(1)

    def puct(self, rows: Tensor) -> Tensor:
        """argmax(Q + c P sqrt(N(s)) / (1 + N)), N(s) counting the visit that made the node; Q = 0 if untried."""
        visits, prior, logits = (x.index_select(0, rows) for x in (self.visits, self.prior, self.logits))
        explore = total(visits).add_(1).sqrt_().mul_(self.settings.c_puct * self.game.max_return) * prior / (visits + 1)
        score = explore.addcdiv_(self.value_sum.index_select(0, rows), visits.clamp(min=1))
        return torch.where(logits > ILLEGAL / 2, score, -math.inf).argmax(1)

    def uct(self, rows: Tensor) -> Tensor:
        """argmax(Q + c sqrt(ln sum N / N)); untried moves are ordered by their logits."""
        visits, logits = self.visits.index_select(0, rows), self.logits.index_select(0, rows)
        tried = visits.clamp(min=1)
        explore = (total(visits).clamp_(min=1).log_() / tried).sqrt_().mul_(self.settings.c_uct * self.game.max_return)
        score = explore.addcdiv_(self.value_sum.index_select(0, rows), tried)
        return torch.where(visits > 0, score, logits + UNTRIED * self.game.max_return).argmax(1)

    def improved(self, rows: Tensor, visits: Tensor) -> Tensor:
        """Logits of pi' in the nodes `rows`, `[rows, actions]`."""
        logits, prior, value_sum = (x.index_select(0, rows) for x in (self.logits, self.prior, self.value_sum))
        raw_value = self.raw_value.index_select(0, rows)
        return improved_logits(logits, prior, raw_value, visits, value_sum, self.settings, self.game.max_return)

    # ---- the root

    def prepare_halving(self) -> None:
        settings = self.settings
        logits = self.logits[self.root]
        legal = (logits > ILLEGAL / 2).sum(1).clamp(max=settings.considered)
        table = halving_table(settings.considered, settings.simulations).to(legal.device)
        self.considered = table[legal].t().unsqueeze(2).contiguous()
        """`[simulations, games, 1]`: the visit count of the move to be played next."""
        self.at_root = logits
        self.perturbation = torch.zeros_like(logits)
        if settings.noise:
            self.perturbation.exponential_(
                generator=self.generator
            ).log_().neg_()  # -ln of exponential noise is Gumbel noise

    def choose_at_root(self, simulation: int) -> None:
        """Sequential halving: argmax(g + logits + sigma(completed Q)) over the moves with the visit count of the
        table."""
        score = self.at_root + self.perturbation
        allowed = self.visits[self.root] == self.considered[simulation]
        edge = torch.where(allowed, score, -math.inf).argmax(1).add_(self.edge[self.root])
        self.choice[self.root] = edge
        torch.index_select(self.child, 0, edge, out=self.hop[self.root])

    def add_noise(self) -> None:
        """Dirichlet noise on the roots' priors, over legal moves only."""
        legal = self.logits[self.root] > ILLEGAL / 2
        alpha = torch.full(legal.shape, self.settings.dirichlet_alpha, device=legal.device)
        drawn = torch._standard_gamma(alpha, generator=self.generator).clamp_(min=1e-30) * legal
        drawn /= drawn.sum(1, keepdim=True).clamp_(min=1e-30)
        prior = self.prior[self.root] * legal
        noisy = torch.lerp(prior, drawn, self.settings.dirichlet_fraction)
        self.prior[self.root] = noisy
        torch.add(noisy.argmax(1), self.edge[self.root], out=self.choice[self.root])

    # ---- the end

    def found(self) -> Found:
        root = self.root
        logits = self.logits[root]
        legal = logits > ILLEGAL / 2
        visits, values = self.visits[root] * legal, self.value_sum[root] * legal
        count = visits.sum(1)
        value = (self.raw_value[root] + values.sum(1)) / (count + 1) * legal.any(1)
        q = values / visits.clamp(min=1)
        most = visits == visits.amax(1, keepdim=True)
        if self.settings.method == "gumbel":
            policy = softmax(self.at_root) * legal
            best = self.at_root + self.perturbation
        else:
            policy = visits / count.clamp(min=1).unsqueeze(1)
            best = q
        move = torch.where(most & legal, best, -math.inf).argmax(1)
        return Found(visits, policy, value, move, q, softmax(logits) * legal, self.variation(move))

    def variation(self, move: Tensor) -> Tensor:
        """The chosen move followed by the most visited ones, `[games, line]`; -1 after the last visited move."""
        line = []
        node = self.row[self.root]
        for _ in range(self.settings.line):
            known = (node > 0) & (self.visits[node].amax(1) > 0)
            line.append(torch.where(known, move, -1))
            node = self.child[self.edge[node] + move] * known
            move = self.visits[node].argmax(1)
        return torch.stack(line, 1) if line else self.path[:0].t()


def improved_logits(
    logits: Tensor,
    prior: Tensor,
    raw_value: Tensor,
    visits: Tensor,
    value_sum: Tensor,
    settings: Settings,
    max_return: float = 1.0,
) -> Tensor:
    """logits + sigma(completed Q), whose softmax is pi' (Danihelka et al. 2022, equations 8, 11 and 33).

    All `[nodes, actions]` but `raw_value [nodes]`; `prior` is the softmax of `logits`. An untried move has the mixed
    value: the network's value averaged with those of the tried moves, weighted by the prior. Values are scaled to [0,
    1] by the range of a game's returns, or with `settings.rescale` by the node's own range.
    """
    q = value_sum / visits.clamp(min=1)
    tried = visits.clamp(max=1)
    count = total(visits)
    mean = total(prior * q).div_(total(prior * tried).clamp_(min=1e-30))
    mixed = mean.mul_(count).add_(raw_value.unsqueeze(-1)).div_(count.add_(1))
    completed = torch.addcmul(q, 1 - tried, mixed)
    scale = settings.c_scale
    if settings.rescale:
        illegal = logits < ILLEGAL / 2
        low = completed.masked_fill(illegal, math.inf).amin(-1, keepdim=True)
        high = completed.masked_fill(illegal, -math.inf).amax(-1, keepdim=True)
        completed = (completed - low) / (high - low).clamp(min=1e-8)
    else:
        scale /= 2 * max_return  # adding a constant to all logits changes nothing
    sigma = visits.amax(-1, keepdim=True).add_(settings.c_visit).mul_(scale)
    return completed.mul_(sigma).add_(logits)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension; for few actions on a CPU, five calls at a third of the cost of torch's one."""
    p = (logits - logits.amax(-1, keepdim=True)).exp_()
    return p.div_(total(p))


def total(x: Tensor) -> Tensor:
    """Sums over the last dimension, `[..., 1]`; for few actions a product with ones takes a third of the time."""
    return x @ ones(x.shape[-1], x.device)


@cache
def ones(count: int, device: torch.device) -> Tensor:
    return torch.ones(count, 1, device=device)


@cache
def halving_table(considered: int, simulations: int) -> Tensor:
    """Sequential halving (Karnin et al. 2013; Danihelka et al. 2022, algorithm 2) as `[considered + 1, simulations]`.

    Row m is for m moves: simulation i visits a move with exactly `table[m, i]` visits so far. Half of the moves are
    dropped after each of ceil(log2 m) phases of about equal length; the last two remain.
    """
    return torch.tensor([_sequence(m, simulations) for m in range(considered + 1)], dtype=torch.float32)


def _sequence(considered: int, simulations: int) -> list[int]:
    if considered <= 1:
        return list(range(simulations))
    phases = math.ceil(math.log2(considered))
    sequence: list[int] = []
    made, left = 0, considered
    while len(sequence) < simulations:
        for _ in range(max(1, simulations // (phases * left))):
            sequence += [made] * left
            made += 1
        left = max(2, left // 2)
    return sequence[:simulations]

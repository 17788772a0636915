"""Tree search: against plain one-game implementations of the papers, hand-computed cases, and facts of the games."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgym.agents.selfplay.mcts import ILLEGAL, Found, Search, Settings, halving_table, improved_logits
from rlgym.agents.selfplay.mcts_compiled import CompiledSearch
from rlgym.agents.selfplay.search import search
from rlgym.agents.selfplay.uct_player import MCTSPlayer
from rlgym.games import make_game
from rlgym.games.game import DONE, RETURN, TURN, Game, random_moves
from rlgym.games.match import versus
from rlgym.games.players import RandomPlayer

METHODS = ("gumbel", "puct", "uct")
KINDS = (Search, CompiledSearch)
"""In tensors, for any device, and compiled, which a search on a CPU is."""
GAMES = ("tic_tac_toe", "connect_four", "othello_6x6")


def hashed(game: Game) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Logits and values that look random, are the same for the same position in any batch, and heed colours alone."""
    factors = torch.arange(1, game.words + 1) * 7_919 + 12_345

    def evaluate(position: Tensor) -> tuple[Tensor, Tensor]:
        own = position.clone()
        own[:, :3] = 0  # whose turn it is changes nothing
        mixed = (own * factors).sum(1, keepdim=True) ^ (own * factors).sum(1, keepdim=True) >> 13
        columns = torch.arange(1, game.actions + 2)
        numbers = ((mixed * columns * 40_503 + columns * 977) % 10_007).abs().double() / 10_007
        return (3 * numbers[:, :-1]).float(), (2 * numbers[:, -1] - 1).float()

    return evaluate


def positions(game: Game, games: int, moves: int, seed: int = 0) -> Tensor:
    """Positions after random play, none of which is over."""
    generator = torch.Generator().manual_seed(seed)
    found = game.init(4 * games)
    for _ in range(moves):
        following = game.step(found, random_moves(game.legal(found), generator))
        found = torch.where(following[:, DONE : DONE + 1] > 0, found, following)
    return found[:games]


def played(game: Game, text: str) -> Tensor:
    position = game.init(1)
    for word in text.split():
        move = game.parse_move(word)
        assert move is not None and game.legal(position)[0, move]
        position = game.play(position, torch.tensor([move]))
    return position


def flat(game: Game, value: float = 0.0) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda position: (torch.zeros(len(position), game.actions), torch.full((len(position),), value))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- one game at a time, by the papers


class Node:
    def __init__(self, game: Game, position: Tensor, evaluate: Any) -> None:
        self.position = position
        self.legal = game.legal(position[None])[0].numpy()
        logits, value = evaluate(position[None])
        self.logits = np.where(self.legal, logits[0].numpy().astype(np.float64), -np.inf)
        shifted = np.exp(self.logits - self.logits[self.legal].max())
        self.prior = shifted / shifted.sum()
        self.value = float(value[0])
        self.visits = np.zeros(game.actions)
        self.total = np.zeros(game.actions)
        self.children: dict[int, Node] = {}

    @property
    def q(self) -> np.ndarray:
        return self.total / np.maximum(self.visits, 1)


class OneGame:
    """Recursive search; values from the side of who moves, turned over where the other one moves next."""

    def __init__(self, game: Game, settings: Settings, evaluate: Any) -> None:
        self.game, self.settings, self.evaluate = game, settings, evaluate

    def run(self, position: Tensor, gumbel: np.ndarray | None = None) -> Node:
        root = Node(self.game, position, self.evaluate)
        considered = min(int(root.legal.sum()), self.settings.considered)
        for simulation in range(self.settings.simulations):
            if self.settings.method == "gumbel":
                assert gumbel is not None
                wanted = halving_by_hand(considered, self.settings.simulations)[simulation]
                score = np.where(root.legal & (root.visits == wanted), gumbel + self.improved(root), -np.inf)
                self.visit(root, int(score.argmax()))
            else:
                self.simulate(root)
        return root

    def simulate(self, node: Node) -> float:
        return self.visit(node, self.select(node))

    def visit(self, node: Node, action: int) -> float:
        if action in node.children:
            child = node.children[action]
            value = self.simulate(child)
            same = bool(child.position[TURN] == node.position[TURN])
        else:
            position = self.game.play(node.position[None], torch.tensor([action]))[0]
            same = bool(position[TURN] == node.position[TURN])
            if position[DONE]:
                value, same = float(position[RETURN] * (1 - 2 * node.position[TURN])), True
            else:
                child = node.children[action] = Node(self.game, position, self.evaluate)
                value = child.value
        value = value if same else -value
        node.visits[action] += 1
        node.total[action] += value
        return value

    def select(self, node: Node) -> int:
        count = node.visits.sum()
        if self.settings.method == "gumbel":
            logits = self.improved(node)
            p = np.exp(logits - logits.max())
            score = p / p.sum() - node.visits / (1 + count)
        elif self.settings.method == "puct":
            score = node.q + self.settings.c_puct * node.prior * math.sqrt(1 + count) / (1 + node.visits)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                score = node.q + self.settings.c_uct * np.sqrt(np.log(max(count, 1)) / node.visits)
            score = np.where(node.visits > 0, score, 1e3 + node.logits)
        return int(np.where(node.legal, score, -np.inf).argmax())

    def improved(self, node: Node) -> np.ndarray:
        tried, count = node.visits > 0, node.visits.sum()
        mixed = node.value
        if count:
            mean = (node.prior * node.q)[tried].sum() / node.prior[tried].sum()
            mixed = (node.value + count * mean) / (1 + count)
        completed = np.where(tried, node.q, mixed)
        if self.settings.rescale:
            low, high = completed[node.legal].min(), completed[node.legal].max()
            completed = (completed - low) / max(high - low, 1e-8)
        else:
            completed = completed / 2
        sigma = (self.settings.c_visit + node.visits.max()) * self.settings.c_scale * completed
        return np.where(node.legal, node.logits + sigma, -np.inf)


def halving_by_hand(considered: int, simulations: int) -> list[int]:
    """By the words of Danihelka et al. 2022, section 3.3: which visit count each simulation goes to."""
    if considered <= 1:
        return list(range(simulations))
    budget = simulations / math.ceil(math.log2(considered))
    counts, alive = [0] * considered, considered
    found: list[int] = []
    while len(found) < simulations:
        for _ in range(max(1, math.floor(budget / alive + 1e-9))):
            for arm in range(alive):
                found.append(counts[arm])
                counts[arm] += 1
        alive = max(2, alive // 2)
    return found[:simulations]


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("method", ["gumbel", "gumbel rescaled", "puct", "uct"])
@pytest.mark.parametrize("kind", KINDS)
def test_batched_search_equals_one_game_at_a_time(kind: type[Search], name: str, method: str) -> None:
    game = make_game(name)
    evaluate = hashed(game)
    way, *rescaled = method.split()
    settings = Settings(60, way, considered=5, rescale=bool(rescaled), noise=way == "gumbel", c_scale=0.3)
    at = positions(game, 8, 5)
    trees = kind(game, at, evaluate, settings, seeded(3))
    found = trees.run()
    gumbel = trees.perturbation.double().numpy() if way == "gumbel" else np.zeros((len(at), game.actions))
    for row, each in enumerate(at):
        root = OneGame(game, settings, evaluate).run(each, gumbel[row])
        assert found.visits[row].tolist() == root.visits.tolist()
        assert found.q[row].numpy() == pytest.approx(root.q, abs=1e-5)
        value = (root.value + root.total.sum()) / (1 + root.visits.sum())
        assert float(found.value[row]) == pytest.approx(value, abs=1e-5)
        if way == "gumbel":
            logits = OneGame(game, settings, evaluate).improved(root)
            p = np.exp(logits - logits.max())
            assert found.policy[row].numpy() == pytest.approx(p / p.sum(), abs=1e-4)
            score = np.where(root.legal & (root.visits == root.visits.max()), gumbel[row] + logits, -np.inf)
            assert int(found.move[row]) == int(score.argmax())
        else:
            assert found.policy[row].numpy() == pytest.approx(root.visits / root.visits.sum(), abs=1e-6)


# ---- hand-computed cases


@pytest.mark.parametrize(
    ("considered", "simulations", "expected"),
    [
        # 4 moves, 16 simulations: two phases of 8; each of 4 twice, then each of 2 four times.
        (4, 16, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        # 3 moves, 8 simulations: two phases of 4; each of 3 once, each of 2 twice, and what is left on the same two.
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 3]),
        # 8 moves, 8 simulations: three phases of 2; at least one visit each.
        (8, 8, [0] * 8),
        (1, 5, [0, 1, 2, 3, 4]),
        (2, 5, [0, 0, 1, 1, 2]),
    ],
)
def test_the_halving_table_by_hand(considered: int, simulations: int, expected: list[int]) -> None:
    assert halving_table(16, simulations)[considered].tolist() == expected
    assert halving_by_hand(considered, simulations) == expected


@pytest.mark.parametrize("simulations", [1, 2, 7, 16, 50, 200])
def test_every_row_of_the_halving_table_is_a_search(simulations: int) -> None:
    table = halving_table(16, simulations)
    assert table.shape == (17, simulations)
    for considered, row in enumerate(table.tolist()):
        counts = [0] * max(1, considered)  # each simulation finds a move that was made so often
        for wanted in row:
            counts[counts.index(wanted)] += 1
        assert sum(counts) == simulations
        assert row == halving_by_hand(considered, simulations)


def test_completed_values_by_hand() -> None:
    """Three legal moves and an illegal one; equation 33's mixed value for the one that was not tried."""
    settings = Settings(1, c_visit=50, c_scale=0.1)
    logits = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.2), ILLEGAL]])
    prior = torch.softmax(logits, 1)
    visits, total = torch.tensor([[2.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, -0.4, 0.0, 0.0]])
    raw = torch.tensor([0.2])
    # q = 0.5 and -0.4; their mean under the prior (0.5 * 0.5 - 0.3 * 0.4) / 0.8 = 0.1625; mixed (0.2 + 3 * 0.1625) / 4
    mixed = (0.2 + 3 * 0.1625) / 4
    sigma = (50 + 2) * 0.1
    expected = [math.log(0.5) + sigma * 0.25, math.log(0.3) - sigma * 0.2, math.log(0.2) + sigma * mixed / 2]
    found = improved_logits(logits, prior, raw, visits, total, settings)
    assert found[0, :3].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.softmax(found, 1)[0, 3] == 0
    # Rescaled: from the least, -0.4, to the greatest, 0.5, of the legal ones. An illegal move's would be outside.
    rescaled = improved_logits(logits, prior, raw, visits, total, replace(settings, rescale=True))
    expected = [math.log(0.5) + sigma, math.log(0.3), math.log(0.2) + sigma * (mixed + 0.4) / 0.9]
    assert rescaled[0, :3].tolist() == pytest.approx(expected, abs=1e-5)


def test_illegal_moves_are_outside_of_least_and_greatest() -> None:
    """All legal moves tried: the mixed value, that of the illegal one, is below them all through the network's."""
    settings = Settings(1, c_visit=50, c_scale=0.1, rescale=True)
    logits = torch.tensor([[0.0, 0.0, ILLEGAL]])
    visits, total = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.2, 0.4, 0.0]])
    found = improved_logits(logits, torch.softmax(logits, 1), torch.tensor([-1.0]), visits, total, settings)
    assert found[0, :2].tolist() == pytest.approx([0.0, 5.1], abs=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
def test_equal_values_leave_the_prior(rescale: bool) -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, ILLEGAL]])
    visits = torch.tensor([[3.0, 0.0, 1.0, 0.0]])
    found = improved_logits(
        logits, torch.softmax(logits, 1), torch.tensor([0.5]), visits, 0.5 * visits, Settings(1, rescale=rescale)
    )
    assert torch.allclose(torch.softmax(found, 1), torch.softmax(logits, 1), atol=1e-6)


# ---- facts of games


@pytest.mark.parametrize("method", METHODS)
def test_signs_at_backup(method: str) -> None:
    """A move that wins at once is worth +1 to who makes it; one ply earlier, what allows it is worth less than 0."""
    game = make_game("tic_tac_toe")
    settings = Settings(200, method, noise=False)
    mate = played(game, "a3 a1 b3 b1")  # X to move has c3
    found = search(game, mate, flat(game), settings, seeded())
    win = game.parse_move("c3")
    assert float(found.q[0, win]) == 1.0 and int(found.move[0]) == win and float(found.value[0]) > 0.5
    before = played(game, "a3 b2 b3")  # O must stop c3
    found = search(game, before, flat(game), settings, seeded())
    stop = game.parse_move("c3")
    assert int(found.move[0]) == stop and float(found.q[0, stop]) > -0.1
    losing = game.parse_move("b1")
    assert float(found.q[0, losing]) < 0


@pytest.mark.parametrize("method", METHODS)
def test_a_lying_network_does_not_change_a_finished_game(method: str) -> None:
    game = make_game("tic_tac_toe")
    mate = played(game, "a3 a1 b3 b1")
    for lie in (0.9, -0.9):
        found = search(game, mate, flat(game, lie), Settings(50, method, noise=False), seeded())
        assert float(found.q[0, game.parse_move("c3")]) == 1.0
    # One free cell left, and it makes a draw: nothing but the game's 0 comes of it, however often it is visited.
    last = played(game, "b2 a3 c3 a1 a2 c2 b3 b1")
    found = search(game, last, flat(game, 0.9), Settings(20, method, noise=False), seeded())
    assert float(found.q.abs().sum()) == 0.0 and float(found.visits.sum()) == 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_visits_add_up_and_illegal_moves_have_none(kind: type[Search], name: str, method: str) -> None:
    game = make_game(name)
    late = positions(game, 32, game.max_moves - 6)
    trees = kind(game, late, hashed(game), Settings(150, method), seeded())
    found = trees.run()
    going = late[:, DONE] == 0
    assert (found.visits.sum(1)[going] == 150).all()
    # At every node that was made, not the root alone.
    legal = game.legal(trees.position[trees.games :])
    visits = trees.visits[trees.games :]
    running = trees.position[trees.games :, DONE] == 0
    assert (visits[running] * ~legal[running] == 0).all()
    assert (found.policy * ~game.legal(late) == 0).all()
    assert torch.allclose(found.policy[going].sum(1), torch.ones(int(going.sum())), atol=1e-5)
    # Nobody walks into a finished game, and every node but the roots was visited once more than its moves were.
    over = trees.position[trees.games :, DONE] > 0
    assert (visits[over][trees.games if over[: trees.games].any() else 0 :].sum(1) == 0).all() or not over.any()
    linked = trees.child.view(-1, game.actions)
    parent, move = linked.nonzero(as_tuple=True)
    child = linked[parent, move]
    assert len(child.unique()) == len(child)
    assert (trees.visits[parent, move] == trees.visits[child].sum(1) + 1).all()
    assert (trees.position[child, DONE] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_finished_games_in_a_batch_are_harmless(method: str) -> None:
    game = make_game("tic_tac_toe")
    over = played(game, "a3 a1 b3 b1 c3")
    going = positions(game, 3, 2)
    settings = Settings(40, method, noise=False)
    mixed = search(game, torch.cat([over, going, over]), hashed(game), settings, seeded())
    alone = search(game, going, hashed(game), settings, seeded())
    for name in ("visits", "policy", "value", "move", "q"):
        both = getattr(mixed, name)
        assert torch.allclose(both[1:4], getattr(alone, name), atol=1e-6)
        assert not both[[0, 4]].isnan().any()
    assert float(mixed.visits[[0, 4]].sum() + mixed.policy[[0, 4]].sum() + mixed.value[[0, 4]].abs().sum()) == 0


def test_root_noise_is_over_legal_moves_and_stays_at_the_root() -> None:
    game = make_game("connect_four")
    at = positions(game, 16, 20)
    trees = Search(game, at, hashed(game), Settings(30, "puct", dirichlet_fraction=0.5), seeded())
    prior, legal = trees.prior[trees.root], game.legal(at)
    assert torch.allclose(prior.sum(1), torch.ones(16), atol=1e-5) and (prior * ~legal == 0).all()
    plain = torch.softmax(trees.logits[trees.root], 1)
    assert ((prior - plain).abs().sum(1)[legal.sum(1) > 1] > 1e-3).all()
    trees.run()
    below = slice(2 * trees.games, None)
    assert torch.allclose(trees.prior[below], torch.softmax(trees.logits[below], 1), atol=1e-6)
    running = trees.position[below, DONE] == 0
    expected, _ = hashed(game)(trees.position[below])
    expected = torch.where(game.legal(trees.position[below]), expected, ILLEGAL)
    assert torch.equal(trees.logits[below][running], expected[running])


def test_gumbel_noise_draws_by_the_prior() -> None:
    """With values that say nothing, argmax(g + logits) is a draw from the prior (Gumbel-max)."""
    game = make_game("tic_tac_toe")
    logits = torch.arange(9).float() / 4

    def evaluate(position: Tensor) -> tuple[Tensor, Tensor]:
        return logits.expand(len(position), 9), torch.zeros(len(position))

    settings = Settings(1, c_scale=1e-9)
    found = search(game, game.init(20_000), evaluate, settings, seeded())
    share = torch.bincount(found.move, minlength=9) / 20_000
    assert share.tolist() == pytest.approx(torch.softmax(logits, 0).tolist(), abs=0.015)


@pytest.mark.parametrize("method", METHODS)
def test_colours_change_nothing(method: str) -> None:
    """The same stones with the other player to move, who owns them now."""
    game = make_game("connect_four")
    at = positions(game, 8, 10)
    swapped = at.clone()
    swapped[:, TURN] = 1 - at[:, TURN]
    settings = Settings(64, method, noise=False)
    ours = search(game, at, hashed(game), settings, seeded())
    theirs = search(game, swapped, hashed(game), settings, seeded())
    for name in ("visits", "policy", "value", "move", "q"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("method", METHODS)
def test_search_of_a_mirrored_board_is_mirrored(method: str) -> None:
    game = make_game("connect_four")
    mirrored = played(game, "1 2 2 3 7"), played(game, "7 6 6 5 1")
    base = hashed(game)

    def evaluate(position: Tensor) -> tuple[Tensor, Tensor]:
        """Of a board and its mirror image, the lesser one is looked at."""
        own = position.clone()
        flipped = own.clone()
        columns = [7 * c for c in range(7)]
        for word in (3, 4):
            stones = sum(((own[:, word] >> a) & 127) << b for a, b in zip(columns, reversed(columns), strict=True))
            flipped[:, word] = stones
        turn = flipped[:, 3:] - own[:, 3:]
        less = (turn[:, 0] < 0) | ((turn[:, 0] == 0) & (turn[:, 1] < 0))
        logits, value = base(torch.where(less[:, None], flipped, own))
        return torch.where(less[:, None], logits.flip(1), logits), value

    settings = Settings(100, method, noise=False)
    one, other = (search(game, each, evaluate, settings, seeded()) for each in mirrored)
    assert torch.equal(one.visits, other.visits.flip(1))
    assert torch.allclose(one.policy, other.policy.flip(1), atol=1e-6) and torch.allclose(one.value, other.value)
    assert int(one.move[0]) == 6 - int(other.move[0])


def test_search_is_the_same_on_any_number_of_threads_and_in_any_batch() -> None:
    game = make_game("connect_four")
    at = positions(game, 512, 12)
    settings = Settings(40, noise=False)
    found: list[Found] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(search(game, at, hashed(game), settings, seeded()))
    torch.set_num_threads(1)
    alone = search(game, at[100:101], hashed(game), settings, seeded())
    for name in ("visits", "policy", "value", "move", "q"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))
    assert torch.equal(found[0].visits[100], alone.visits[0])


def test_the_principal_variation_is_legal_and_ends() -> None:
    game = make_game("tic_tac_toe")
    at = torch.cat([game.init(1), played(game, "a3 a1 b3 b1"), played(game, "b2 a3 c3 a1 a2 c2 b3 b1")])
    found = search(game, at, flat(game), Settings(300, noise=False, line=9), seeded())
    assert found.line.shape == (3, 9)
    assert found.line[:, 0].tolist() == found.move.tolist()
    assert found.line[1].tolist() == [game.parse_move("c3"), *[-1] * 8]
    assert found.line[2].tolist() == [game.parse_move("c1"), *[-1] * 8]
    position = at[:1]
    for move in found.line[0].tolist():
        if move < 0:
            break
        assert game.legal(position)[0, move]
        position = game.play(position, torch.tensor([move]))


def test_uct_by_playouts_knows_its_tactics() -> None:
    game = make_game("connect_four")
    player = MCTSPlayer(game, 300)
    assert player.name == "mcts_300"
    at = torch.cat([played(game, "1 7 2 7 3 6"), played(game, "1 7 1 7 1")])  # win at 4; stop the column
    moves = player.choose(at, seeded())
    assert moves.tolist() == [3, 0]


def test_uct_beats_random() -> None:
    game = make_game("tic_tac_toe")
    first, second = versus(game, MCTSPlayer(game, 100), RandomPlayer(game), 100, 1)
    assert first.losses == 0 and first.rate > 0.9 and second.rate > 0.85

"""Two-player poker with one deal and few moves. A position is the deal and a node in the tree of betting sequences,
which is built once in plain Python; playing is then a table look-up. A player who folds loses the chips paid. Otherwise
both have paid the same, and the better hand wins.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlgym.envs.spaces import Array
from rlgym.games.game import DONE, OWN, Game
from rlgym.games.poker_picture import picture

DEAL, NODE = OWN, OWN + 1
HIDDEN = "?"
"""Stands for a face-down card."""


class Deal(NamedTuple):
    """Ranks of the players' cards and the common card (None: there is none); 0 is the lowest."""

    cards: tuple[int, int]
    common: int | None
    probability: float


class Betting(NamedTuple):
    """The state after a sequence of moves."""

    turn: int
    paid: tuple[int, int]
    """Chips of players 0 and 1 in the pot."""
    legal: tuple[int, ...]
    """Actions; none once the game is over."""
    rounds: tuple[tuple[int, ...], ...]
    """The moves by betting round; the common card is visible from the second on."""


@dataclass
class Tables:
    """The rules as tables.

    after `[nodes, actions]`: the next node. turn, done `[nodes]` and legal `[nodes, actions]`.
    won `[deals, nodes]`: RETURN. seen `[deals, nodes, players, features]`: the observations.
    """

    after: Tensor
    turn: Tensor
    done: Tensor
    legal: Tensor
    won: Tensor
    seen: Tensor


class PokerGame(Game):
    """Base class; a subclass defines the deals, the betting, and which hand wins. Observations are one-hot: seat, own
    card, common card once visible, and each move so far.
    """

    words = OWN + 2
    perfect_information = False
    ranks: ClassVar[str]
    """Letters of the cards, lowest first."""
    moves: ClassVar[tuple[str, ...]]
    """Names of the actions."""
    rounds: ClassVar[int] = 1
    round_moves: ClassVar[int]
    """Maximum length of a betting round."""

    @abstractmethod
    def deals(self) -> list[Deal]:
        """All distinct deals."""

    @abstractmethod
    def betting(self, moves: tuple[int, ...]) -> Betting:
        """The state after legal `moves` from the deal on."""

    @abstractmethod
    def strength(self, card: int, common: int | None) -> int:
        """Rank of a hand; the higher one wins."""

    # ---- the rules, looked up

    def starts(self) -> tuple[Tensor, Tensor]:
        deals = self.deals()
        position = torch.zeros(len(deals), self.words, dtype=torch.int64)
        position[:, DEAL] = torch.arange(len(deals))
        return position, torch.tensor([deal.probability for deal in deals], dtype=torch.float64)

    def legal(self, position: Tensor) -> Tensor:
        return tables(self, position.device).legal[position[:, NODE]] & (position[:, DONE : DONE + 1] == 0)

    def play(self, position: Tensor, action: Tensor) -> Tensor:
        table, deal = tables(self, position.device), position[:, DEAL]
        node = table.after[position[:, NODE], action]
        return torch.stack([table.turn[node], table.done[node], table.won[deal, node], deal, node], 1)

    def observe(self, position: Tensor, player: Tensor | None = None) -> Tensor:
        table, node = tables(self, position.device), position[:, NODE]
        return table.seen[position[:, DEAL], node, table.turn[node] if player is None else player]

    @cached_property
    def nodes(self) -> list[tuple[int, ...]]:
        """All sequences of moves, prefixes first."""
        nodes: list[tuple[int, ...]] = [()]
        for node in nodes:  # grows while iterating
            nodes += [(*node, action) for action in self.betting(node).legal]
        return nodes

    def features(self, deal: Deal, betting: Betting, player: int) -> list[int]:
        """What `player` has observed."""
        hot: list[tuple[int, int | None]] = [(2, player), (len(self.ranks), deal.cards[player])]
        if deal.common is not None:
            hot.append((len(self.ranks), deal.common if len(betting.rounds) > 1 else None))
        for number in range(self.rounds):
            made = betting.rounds[number] if number < len(betting.rounds) else ()
            hot += [(self.actions, move) for move in (*made, *[None] * (self.round_moves - len(made)))]
        return [int(index == place) for size, index in hot for place in range(size)]

    # ---- for people

    def text(self, position: Tensor) -> str:
        return self.in_words(*self.table(position))

    def text_for(self, position: Tensor, player: int) -> str:
        cards, common, paid, moves = self.table(position)
        cards[1 - player] = HIDDEN
        return self.in_words(cards, common, paid, moves)

    def in_words(self, cards: list[str], common: str | None, paid: tuple[int, int], moves: list[str]) -> str:
        lines = [f"player {seat}: {cards[seat]}, {paid[seat]} in the pot" for seat in (0, 1)]
        lines += [] if common is None else [f"common card: {common}"]
        return "\n".join([*lines, f"moves: {' '.join(moves) or 'none'}"])

    def image(self, position: Tensor) -> Array:
        return picture(*self.table(position))

    def table(self, position: Tensor) -> tuple[list[str], str | None, tuple[int, int], list[str]]:
        """One position `[words]` for display: the players' cards, the common card (None: the game has none), chips
        paid, and the moves so far."""
        deal, node = self.deals()[int(position[DEAL])], self.nodes[int(position[NODE])]
        betting = self.betting(node)
        common = None if deal.common is None else self.ranks[deal.common] if len(betting.rounds) > 1 else HIDDEN
        return [self.ranks[card] for card in deal.cards], common, betting.paid, [self.moves[move] for move in node]

    def move_name(self, action: int) -> str:
        return self.moves[action]


@cache
def tables(game: PokerGame, device: torch.device) -> Tables:
    number = {node: index for index, node in enumerate(game.nodes)}
    every, actions, deals = [game.betting(node) for node in game.nodes], range(game.actions), game.deals()
    return Tables(
        after=torch.tensor([[number.get((*node, action), 0) for action in actions] for node in number], device=device),
        turn=torch.tensor([betting.turn for betting in every], device=device),
        done=torch.tensor([int(not betting.legal) for betting in every], device=device),
        legal=torch.tensor([[action in betting.legal for action in actions] for betting in every], device=device),
        won=torch.tensor([[won(game, deal, betting) for betting in every] for deal in deals], device=device),
        seen=torch.tensor(
            [[[game.features(deal, betting, player) for player in (0, 1)] for betting in every] for deal in deals],
            dtype=torch.float32,
            device=device,
        ),
    )


def won(game: PokerGame, deal: Deal, betting: Betting) -> int:
    """Return of player 0 at this end; 0 in a running game."""
    if betting.legal:
        return 0
    first, second = betting.paid
    if first == second:
        first, second = (game.strength(card, deal.common) for card in deal.cards)
    return min(betting.paid) * ((first > second) - (first < second))

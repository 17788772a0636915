"""Play against a program in the terminal: moves are typed, and the program can show its search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rlgym.games.game import DONE, RETURN, TURN, Game
from rlgym.games.players import Player

HELP = "a move, ? for what the program thinks of the position, undo, or quit"
SEATS = ("first", "second")


@dataclass
class Thought:
    """Result of a search in one position."""

    prior: Tensor
    """`[actions]`: the network's probabilities."""
    visits: Tensor
    """`[actions]`: number of simulations starting with each move."""
    policy: Tensor
    """`[actions]`: the improved probabilities of the search."""
    value: float
    """Expected return of the player to move."""
    line: list[int]
    """The principal variation: the most visited moves from here."""


@runtime_checkable
class Thinks(Protocol):
    def think(self, position: Tensor) -> Thought:
        """Search one position `[words]`, which must not be terminal."""
        ...


class Quit(Exception):
    """Raised when the person quits."""


def play_in_terminal(
    game: Game,
    program: Player,
    seat: int,
    generator: torch.Generator,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> float | None:
    """Play one game of a person in `seat` (0 moves first) against `program`. Returns the person's result; None if the
    game was left. Opponents' cards are hidden."""
    device = generator.device
    position = game.init(1, device, generator)
    past: list[Tensor] = []
    while not position[0, DONE]:
        if position[0, TURN] != seat:
            action = int(program.choose(position, generator)[0])
            say(f"{program.name} plays {game.move_name(action)}")
        else:
            say("\n" + game.text_for(position[0], seat))
            try:
                answer = asked(game, program, position, ask, say)
            except Quit:
                return None
            if answer is None:
                if not past:
                    say("nothing to take back")
                    continue
                position = past.pop()
                continue
            past.append(position)
            action = answer
        position = game.play(position, torch.tensor([action], device=device))
    won = float(position[0, RETURN]) * (1 - 2 * seat)
    say("\n" + game.text(position[0]))
    say("a draw" if won == 0 else f"you {'win' if won > 0 else 'lose'}{amount(game, won)}")
    return won


def asked(
    game: Game, program: Player, position: Tensor, ask: Callable[[str], str], say: Callable[[str], None]
) -> int | None:
    """Read a legal move from the person; None to take the last one back. Raises Quit."""
    legal = game.legal(position)[0]
    names = " ".join(game.move_name(action) for action in legal.nonzero().squeeze(1).tolist())
    while True:
        try:
            word = ask(f"your move ({names}): ").strip()
        except EOFError:
            raise Quit from None
        if word.lower() in ("q", "quit", "exit"):
            raise Quit
        if word.lower() in ("u", "undo"):
            return None
        if word == "?":
            say(thoughts(game, program.think(position[0])) if isinstance(program, Thinks) else "it does not search")
            continue
        move = game.parse_move(word)
        if move is not None and legal[move]:
            return move
        say(f"{word or 'nothing'} is no legal move here; type {HELP}")


def thoughts(game: Game, thought: Thought) -> str:
    """Text with moves by visits, the expected return, and the principal variation."""
    lines = ["move  prior  visits  policy"]
    for action in thought.visits.argsort(descending=True).tolist():
        if thought.visits[action] or thought.policy[action] > 0.005:
            numbers = f"{thought.prior[action]:.2f}  {int(thought.visits[action]):6d}  {thought.policy[action]:6.2f}"
            lines.append(f"{game.move_name(action):>4}   {numbers}")
    line = " ".join(game.move_name(action) for action in thought.line)
    return "\n".join([*lines, f"value {thought.value:+.2f} for who is to move; expected: {line}"])


def amount(game: Game, won: float) -> str:
    return f" {abs(won):g}" if game.max_return > 1 else ""

"""Batched search beside the network that it asks, and beside OpenSpiel's, on this machine.

    python benchmarks/selfplay.py                          # every table at one thread: some minutes
    python benchmarks/selfplay.py search linear            # some of: search, linear, memory, openspiel
    python benchmarks/selfplay.py search --network conv --width 32 --blocks 3 --device cuda

`search`: simulations and moves per second by the number of games, and the rate at which the network alone evaluates
batches of that size. `linear`: the cost of a move by simulations. `memory`: of the trees. `openspiel`: its Python
MCTSBot, whose evaluator asks the same network, in turns with this search. Medians over rounds, in which what is
compared takes turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.turns import machine
from rlgym.agents.selfplay.board_networks import BoardNetwork
from rlgym.agents.selfplay.mcts import Settings
from rlgym.agents.selfplay.search import search
from rlgym.agents.selfplay.search_player import Evaluator
from rlgym.config.device import keep_freed_memory
from rlgym.games import make_game
from rlgym.games.game import random_moves


class Bench:
    def __init__(self, given: argparse.Namespace) -> None:
        self.rounds, self.simulations, self.device = given.repeats, given.simulations, torch.device(given.device)
        self.games, self.at_least = given.games, given.seconds
        self.game = make_game(given.game)
        torch.manual_seed(0)
        network = BoardNetwork(self.game, given.network, given.width, given.blocks).to(self.device)
        self.network = network
        self.evaluate = Evaluator(self.game, network, low=self.device.type == "cuda")
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.method = given.search

    def positions(self, games: int) -> Any:
        """A few moves into games that differ."""
        position = self.game.init(games, self.device)
        for _ in range(6):
            position = self.game.step(position, random_moves(self.game.legal(position), self.generator))
        return position

    def searched(self, position: Any, simulations: int) -> Callable[[], object]:
        settings = Settings(simulations, self.method)
        return lambda: search(self.game, position, self.evaluate, settings, self.generator)

    def seconds(self, *programs: Callable[[], object]) -> list[float]:
        """Of one call of each, the median over rounds."""
        counts = []
        for program in programs:
            program()
            began = self.now()
            program()
            counts.append(max(1, round(self.at_least / (self.now() - began))))
        times: list[list[float]] = [[] for _ in programs]
        for turn in range(self.rounds):
            for i in [(turn + k) % len(programs) for k in range(len(programs))]:
                began = self.now()
                for _ in range(counts[i]):
                    programs[i]()
                times[i].append((self.now() - began) / counts[i])
        return [statistics.median(found) for found in times]

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    # ---- tables

    def search(self) -> None:
        n = self.simulations
        print(f"\n| games | simulations/s | moves/s | network alone/s | share |\n{'|---' * 5}|")
        for games in self.games:
            position = self.positions(games)
            move, alone = self.seconds(self.searched(position, n), partial(self.evaluate, position))
            rate, network = games * n / move, games / alone
            print(
                f"| {games} | {rate:,.0f} | {games / move:,.0f} | {network:,.0f} | {rate / network:.0%} |", flush=True
            )

    def linear(self) -> None:
        games = self.games[len(self.games) // 2 - 1]
        position = self.positions(games)
        counts = [max(1, self.simulations * times // 4) for times in (1, 2, 4, 8, 16, 32)]
        print(f"\n{games} games\n\n| simulations a move | ms a move | us a simulation of all games |\n{'|---' * 3}|")
        for count, move in zip(counts, self.seconds(*(self.searched(position, c) for c in counts)), strict=True):
            print(f"| {count} | {1e3 * move:,.1f} | {1e6 * move / count:,.0f} |", flush=True)

    def memory(self) -> None:
        """From the shapes: nothing else grows with the games."""
        from rlgym.agents.selfplay.search import kind_of_search

        positions, settings = self.positions(64), Settings(self.simulations)
        trees = kind_of_search(self.device)(self.game, positions, self.evaluate, settings, self.generator)
        held = sum(x.numel() * x.element_size() for x in vars(trees).values() if isinstance(x, torch.Tensor))
        print(f"\ntrees of {self.simulations} simulations: {held / 64 / 1024:.1f} KiB a game")

    def openspiel(self) -> None:
        import numpy as np

        pyspiel: Any = import_module("pyspiel")
        mcts: Any = import_module("open_spiel.python.algorithms.mcts")
        network = self.network.float()

        class Asks(mcts.Evaluator):  # type: ignore[misc]
            """The same network, a position at a time: OpenSpiel's search has no other way."""

            @torch.inference_mode()
            def ask(self, state: Any) -> Any:
                planes = np.asarray(state.observation_tensor(), np.float32).reshape(3, 6, 7)[:2]
                return network(torch.from_numpy(planes)[None])

            def evaluate(self, state: Any) -> Any:
                value = float(self.ask(state)[1])
                return np.array([value, -value] if state.current_player() == 0 else [-value, value])

            def prior(self, state: Any) -> list[tuple[int, float]]:
                legal = state.legal_actions()
                p = torch.softmax(self.ask(state)[0][0, legal], 0).tolist()
                return list(zip(legal, p, strict=True))

        state = pyspiel.load_game(self.game.name).new_initial_state()
        bot = mcts.MCTSBot(
            pyspiel.load_game(self.game.name),
            1.25,
            self.simulations,
            Asks(),
            child_selection_fn=mcts.SearchNode.puct_value,
        )
        n = self.simulations
        print(f"\n| program | simulations/s | times OpenSpiel's |\n{'|---' * 3}|")
        programs = [self.searched(self.positions(games), n) for games in (1, *self.games)]
        theirs, *ours = self.seconds(lambda: bot.mcts_search(state), *programs)
        print(f"| OpenSpiel's MCTSBot, one game | {n / theirs:,.0f} | 1 |")
        for games, found in zip((1, *self.games), ours, strict=True):
            print(f"| rlgym, {games} games | {games * n / found:,.0f} | {games * theirs / found:.1f} |")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ("search", "linear", "memory", "openspiel")
    parser.add_argument("tables", nargs="*", choices=[*tables, []], default=[])
    parser.add_argument("--game", default="connect_four")
    parser.add_argument("--search", default="gumbel", choices=("gumbel", "puct"))
    parser.add_argument("--network", default="mlp", choices=("mlp", "conv"))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--simulations", type=int, default=64)
    parser.add_argument("--games", type=int, nargs="+", default=[64, 256, 1024, 4096], help="at once")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a measurement, one call at least")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every run does
    print(machine())
    print(f"{given.game}, {given.search}, {given.network} {given.blocks} x {given.width}, {given.threads} thread(s)")
    bench = Bench(given)
    for name in given.tables or tables:
        getattr(bench, name)()


if __name__ == "__main__":
    main(sys.argv[1:])

"""AlphaZero learns tic-tac-toe so well that nothing the other player does makes it lose (slow: `make test-all`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rlgym
from rlgym.games import make_game
from rlgym.games.minimax import ExactPlayer, trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORDS = ["agent=alphazero", "env=tic_tac_toe", "display=quiet"]  # and the tuned file, whose steps take 1.6 minutes


def test_it_loses_no_game_of_tic_tac_toe(tmp_path: Path) -> None:
    """With 32 simulations, over all openings and every reply, from both seats."""
    player = rlgym.load(rlgym.train(*WORDS, f"run.dir='{tmp_path / 'run'}'"))
    game = make_game("tic_tac_toe")
    for opening in (0, 1):
        found = trial(game, player, ExactPlayer(game), torch.Generator().manual_seed(0), opening, every_reply=True)
        print(f"after {opening} moves: {found.ends} ends, {found.lost} lost")
        assert found.lost == 0

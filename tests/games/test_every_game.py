"""What every game promises (rlgym/games/game.py), checked for all in GAMES and the one in docs/games.md."""

from __future__ import annotations

import re
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgym.games import GAMES, make_game
from rlgym.games.board import BoardGame, masks
from rlgym.games.game import DONE, OWN, RETURN, TURN, Game, random_moves, rewards
from tests.games.walks import going, moved, walk

PAGE = Path(__file__).parents[2] / "docs/games.md"
NUMBER = 64
"""Games played at once."""


@pytest.fixture(params=[*GAMES, "docs"])
def game(request: pytest.FixtureRequest, tmp_path: Path) -> Game:
    return make_game(request.param) if request.param in GAMES else documented(tmp_path)


def documented(folder: Path) -> Game:
    """The game that the page on writing games writes."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    file = folder / "documented_game.py"
    file.write_text(next(block for block in code if "(BoardGame)" in block))
    spec = util.spec_from_file_location("documented_game", file)
    assert spec is not None and spec.loader is not None
    module: ModuleType = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    (found,) = (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == spec.name)
    game: Game = found()
    return game


def test_what_it_declares(game: Game) -> None:
    assert game.name and game.summary and "\n" not in game.summary
    assert game.words >= OWN and game.actions > 0 and game.max_moves > 0 and game.max_return > 0
    assert len(game.shape) in (1, 3)


def test_starts(game: Game) -> None:
    starts, probability = game.starts()
    assert starts.dtype == torch.int64 and starts.shape == (len(probability), game.words)
    assert probability.dtype == torch.float64 and (probability > 0).all() and abs(probability.sum() - 1) < 1e-12
    assert len(starts.unique(dim=0)) == len(starts)
    assert not starts[:, DONE].any() and not starts[:, RETURN].any() and not starts[:, TURN].any()


def test_fresh_games_are_drawn_as_the_starts_are_probable(game: Game) -> None:
    starts, probability = game.starts()
    drawn, again = (game.init(20_000, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(drawn, again)
    share = (drawn[:, None] == starts).all(2).double().mean(0)
    assert ((share - probability).abs() < 5 * (probability * (1 - probability) / 20_000).sqrt() + 1e-12).all()
    drawn.fill_(9)  # the caller's own
    assert torch.equal(game.init(20_000, generator=torch.Generator().manual_seed(3)), again)


def test_random_games(game: Game) -> None:
    """Shapes and types; there is a move exactly while a game goes on; it ends in time, and what one wins the other
    loses."""
    positions = list(walk(game, NUMBER))
    assert len(positions) - 1 <= game.max_moves
    seat = torch.zeros(NUMBER, dtype=torch.int64)
    for position, _ in positions:
        assert position.dtype == torch.int64 and position.shape == (NUMBER, game.words)
        legal, seen = game.legal(position), game.observe(position)
        assert legal.dtype == torch.bool and legal.shape == (NUMBER, game.actions)
        assert torch.equal(legal.any(1), position[:, DONE] == 0)
        assert seen.dtype == torch.float32 and seen.shape == (NUMBER, *game.shape) and seen.isfinite().all()
        for word in (TURN, DONE):
            assert ((position[:, word] == 0) | (position[:, word] == 1)).all()
        assert (position[:, RETURN].abs() <= game.max_return * position[:, DONE]).all()
        assert torch.equal(rewards(position, seat), position[:, RETURN].float())
        assert torch.equal(rewards(position, seat + 1), -position[:, RETURN].float())
    assert positions[-1][0][:, DONE].all()


def test_a_finished_game_stays_as_it_is(game: Game) -> None:
    (*_, (position, _)) = walk(game, NUMBER)
    for action in range(game.actions):
        assert torch.equal(game.step(position, torch.full((NUMBER,), action)), position)


def test_a_game_can_be_ended_from_outside(game: Game) -> None:
    """As by giving up: DONE alone says that there are no more moves."""
    position = going(game, 8)
    position[:, DONE] = 1
    assert not game.legal(position).any()


def test_a_move_changes_only_what_it_returns(game: Game) -> None:
    for position, action in walk(game, 8):
        before = position.clone()
        game.legal(position).fill_(False)  # the caller's own, too
        game.observe(position).fill_(7.0)
        if len(action):
            game.step(position, action).fill_(7)
        assert torch.equal(position, before)
    assert game.legal(game.init(1)).any() and not (game.observe(game.init(1)) == 7.0).any()


def test_a_batch_is_its_rows(game: Game) -> None:
    position = going(game, 6)
    legal, seen = game.legal(position), game.observe(position)
    action = random_moves(legal, torch.Generator().manual_seed(1))
    after, views = game.play(position, action), game.observe(position, 1 - position[:, TURN])
    for row in range(len(position)):
        one = slice(row, row + 1)
        assert torch.equal(game.legal(position[one]), legal[one])
        assert torch.equal(game.observe(position[one]), seen[one])
        assert torch.equal(game.observe(position[one], 1 - position[one, TURN]), views[one])
        assert torch.equal(game.play(position[one], action[one]), after[one])
        assert torch.equal(game.step(position[one], action[one]), after[one])
    assert game.legal(position[:0]).shape == (0, game.actions)
    assert game.play(position[:0], action[:0]).shape == (0, game.words)
    assert game.observe(position[:0]).shape == (0, *game.shape)


def test_rows_that_are_a_view_of_others(game: Game) -> None:
    """Positions come from slices and transposes, too."""
    position = going(game, 8)
    for view in (position[::2], position.t().contiguous().t()):
        action = random_moves(game.legal(view), torch.Generator().manual_seed(1))
        assert torch.equal(game.play(view, action), game.play(view.contiguous(), action))
        assert torch.equal(game.observe(view), game.observe(view.contiguous()))


def test_who_looks(game: Game) -> None:
    position = torch.cat([each for each, _ in walk(game, NUMBER)])
    assert torch.equal(game.observe(position), game.observe(position, position[:, TURN]))


def test_an_observation_tells_what_a_player_knows(game: Game) -> None:
    """With perfect information it tells the position; else equal observations have equal pasts (perfect recall)."""
    if game.perfect_information:
        position = going(game, NUMBER).unique(dim=0)
        seen = torch.cat([position[:, TURN, None].float(), game.observe(position).flatten(1)], 1)
        assert len(seen.unique(dim=0)) == len(position)
        return
    pasts: dict[tuple[int, bytes], tuple[object, ...]] = {}
    past: list[list[tuple[object, ...]]] = [[(), ()] for _ in range(400)]
    for position, action in walk(game, 400):
        legal = game.legal(position)
        for row in (position[:, DONE] == 0).nonzero().squeeze(1).tolist() if len(action) else ():
            player = int(position[row, TURN])
            key = game.observe(position[row : row + 1]).numpy().tobytes()
            known = (*past[row][player], tuple(legal[row].tolist()))
            assert pasts.setdefault((player, key), known) == known
            past[row][player] = (*past[row][player], (key, int(action[row])))


def turned(game: BoardGame, position: Tensor, cells: Tensor) -> Tensor:
    """The position with its board turned, bit by bit."""
    bits = masks(game.bits, position.device)
    board = position[:, OWN:, None] & bits
    words = torch.where(board[..., cells] != 0, bits, 0).sum(2)
    return torch.cat([position[:, :OWN], words], 1)


def test_symmetries_of_a_board(game: Game) -> None:
    """What is seen, what may be played and what comes of it turn with the board."""
    if not isinstance(game, BoardGame):
        pytest.skip("no board")
    position = going(game, 24)
    cells, actions = game.symmetries()
    assert torch.equal(cells[0], torch.arange(cells.shape[1])) and torch.equal(actions[0], torch.arange(game.actions))
    assert len(cells.unique(dim=0)) == len(actions.unique(dim=0)) == len(cells)
    legal = game.legal(position)
    row, action = legal.nonzero(as_tuple=True)
    for cell, move in zip(cells, actions, strict=True):
        assert torch.equal(cell.sort().values, cells[0]) and torch.equal(move.sort().values, actions[0])
        other = turned(game, position, cell)
        assert torch.equal(game.observe(other).flatten(-2), game.observe(position).flatten(-2)[..., cell])
        assert torch.equal(game.legal(other), legal[:, move])
        after = game.play(other[row], move.argsort()[action])
        assert torch.equal(after, turned(game, game.play(position[row], action), cell))


def test_symmetries_of_other_games(game: Game) -> None:
    if isinstance(game, BoardGame):
        pytest.skip("a board")
    cells, actions = game.symmetries()
    assert len(cells) == len(actions) and torch.equal(actions[0], torch.arange(game.actions))


def test_colours_do_not_matter(game: Game) -> None:
    """The same position with the players exchanged: who is to move sees and may do the same, and wins the same."""
    if not isinstance(game, BoardGame):
        pytest.skip("no colours")
    position = going(game, 24)
    swapped = position.clone()
    swapped[:, TURN] = 1 - position[:, TURN]
    assert torch.equal(game.observe(position), game.observe(swapped))
    assert torch.equal(game.observe(position, position[:, TURN]), game.observe(position, 1 - position[:, TURN]).flip(1))
    assert torch.equal(game.legal(position), game.legal(swapped))
    after, other = moved(game, position), moved(game, swapped)
    assert torch.equal(after[:, TURN], 1 - other[:, TURN]) and torch.equal(after[:, RETURN], -other[:, RETURN])
    assert torch.equal(after[:, DONE], other[:, DONE]) and torch.equal(after[:, OWN:], other[:, OWN:])


def test_moves_by_name(game: Game) -> None:
    names = [game.move_name(action) for action in range(game.actions)]
    assert len({name.lower() for name in names}) == game.actions
    for action, name in enumerate(names):
        assert game.parse_move(name) == game.parse_move(f" {name.upper()} ") == action
    assert game.parse_move("") is None and game.parse_move("nothing") is None


def test_text_and_picture_show_the_position(game: Game) -> None:
    position = torch.cat([each for each, _ in walk(game, 2)]).unique(dim=0)
    texts, pictures = [game.text(row) for row in position], [game.image(row) for row in position]
    for text, picture in zip(texts, pictures, strict=True):
        assert text and all(line == line.rstrip() and len(line) <= 80 for line in text.splitlines())
        assert isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.flags.writeable
        assert picture.shape == (*pictures[0].shape[:2], 3)
    seen = {shown.numpy().tobytes() for shown in game.observe(position, torch.zeros_like(position[:, 0]))}
    assert len(set(texts)) >= len(seen) and len({picture.tobytes() for picture in pictures}) >= len(seen)


def test_text_for_a_player_tells_what_that_player_knows(game: Game) -> None:
    position = torch.cat([each for each, _ in walk(game, 4 if game.perfect_information else 60)]).unique(dim=0)
    for player in (0, 1):
        known: dict[bytes, str] = {}
        for row, seen in zip(position, game.observe(position, torch.full((len(position),), player)), strict=True):
            text = game.text_for(row, player)
            assert known.setdefault(seen.numpy().tobytes(), text) == text
            assert not game.perfect_information or text == game.text(row)
        assert len(set(known.values())) == len(known)

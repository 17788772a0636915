"""AlphaZero as a learner: what it stores, what it learns from, where it goes on, and where it may be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlgym.agents.alphazero import AlphaZero, turned
from rlgym.agents.configs.alphazero import AlphaZeroConfig
from rlgym.agents.selfplay.board_networks import BoardNetwork
from rlgym.agents.selfplay.game_replay import SEGMENTS, GameReplay
from rlgym.agents.selfplay.mcts import Found, Settings
from rlgym.agents.selfplay.search import search
from rlgym.agents.selfplay.search_player import Evaluator
from rlgym.cli.main import main
from rlgym.config.schema import EnvConfig, EvaluateConfig, TrainConfig
from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.game import DONE, TURN, random_moves, rewards
from rlgym.learner import REPLAY, Shared
from rlgym.run_folder import checkpoint
from rlgym.run_folder.loading import load
from tests.agents.selfplay.test_mcts import hashed, played, positions, seeded
from tests.agents.worlds import copied, same

SMALL: dict[str, Any] = {
    **{"games": 8, "n_steps": 3, "simulations": 8, "fast_simulations": 4, "width": 16, "blocks": 1},
    **{"buffer_size": 320, "learning_starts": 40, "batch_size": 32, "evaluate_simulations": 4, "past_selves": 2},
    **{"held_out": 0.2},
}


def learner(env: str = "tic_tac_toe", seed: int = 1, **knobs: Any) -> AlphaZero:
    config = TrainConfig(
        steps=2_000,
        seed=seed,
        device="cpu",
        env=EnvConfig(env),
        evaluate=EvaluateConfig(episodes=4),
        agent=AlphaZeroConfig(**{**SMALL, **knobs}),
    )
    return AlphaZero(config)


def run(agent: AlphaZero, updates: int) -> list[dict[str, float]]:
    """Metrics but times."""
    return [{tag: float(x) for tag, x in agent.update().items() if not tag.startswith("time/")} for _ in range(updates)]


# ---- resume


@pytest.mark.parametrize("knobs", [{}, {"search": "puct", "symmetries": False}], ids=["gumbel", "puct"])
def test_resume_is_bit_exact(knobs: dict[str, Any], tmp_path: Path) -> None:
    straight = learner(**knobs)
    run(straight, 15)
    straight.evaluate()
    checkpoint.save(tmp_path, 1, straight.state_dict(), {}, {})
    expected = run(straight, 10)
    evaluated = straight.evaluate()
    resumed = learner(seed=7, **knobs)
    resumed.config.seed = 1
    state, _ = checkpoint.load(tmp_path / "checkpoints" / "step_1")
    resumed.load_state_dict(state)
    assert run(resumed, 10) == expected and any("train/loss" in row for row in expected)
    again = resumed.evaluate()
    assert again.metrics == evaluated.metrics and again.records == evaluated.records
    assert same(resumed.state_dict(), straight.state_dict())
    assert straight.replay.oldest > 0, "the ring went round"


def test_evaluation_leaves_no_trace_in_training() -> None:
    evaluated, plain = learner(), learner()
    for agent in (evaluated, plain):
        run(agent, 10)
    evaluated.evaluate()
    assert run(evaluated, 10) == run(plain, 10)


def test_without_its_replay_a_resume_gathers_anew(tmp_path: Path) -> None:
    agent = learner(save_replay=False)
    run(agent, 20)
    state = copied(agent.state_dict())
    assert REPLAY not in state
    resumed = learner(save_replay=False)
    resumed.load_state_dict(state)
    assert "learns nothing until it has gathered 40 positions anew" in resumed.notices[0]
    rows = run(resumed, 10)
    assert "train/loss" not in rows[0] and "train/loss" in rows[-1]


def test_full_segments_are_shared_between_checkpoints(tmp_path: Path) -> None:
    agent = learner()
    run(agent, 30)
    one = {key for key, part in agent.state_dict()[REPLAY].items() if isinstance(part, Shared)}
    checkpoint.save(tmp_path, 1, agent.state_dict(), {}, {})
    files = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "checkpoints/shared").iterdir()}
    run(agent, 3)
    section = agent.state_dict()[REPLAY]
    checkpoint.save(tmp_path, 2, agent.state_dict(), {}, {})
    kept = [part for key, part in section.items() if key in one and isinstance(part, Shared)]
    assert kept and all(part.file is not None for part in kept)
    assert all(
        file.stat().st_mtime_ns == files.get(file.name, file.stat().st_mtime_ns)
        for file in (tmp_path / "checkpoints/shared").iterdir()
    )


def test_the_ring_keeps_the_latest_and_drops_whole_segments() -> None:
    game = make_game("tic_tac_toe")
    replay = GameReplay(game, 160, torch.device("cpu"))
    for number in range(100):
        numbers = torch.arange(7 * number, 7 * number + 7).float()
        parts = {name: part[:7].clone() for name, part in replay.parts.items()}
        replay.add({**parts, "outcome": numbers})
    assert replay.capacity == 160 and replay.segment == 160 // SEGMENTS
    assert 150 < len(replay) <= 160 and replay.oldest % 10 == 0
    drawn = replay.draw(5_000, seeded())["outcome"]
    assert set(drawn.tolist()) == set(range(replay.oldest, 700))


# ---- what it stores


def test_outcomes_are_of_whoever_was_to_move() -> None:
    """Every stored position belongs to a game whose end is known: replayed here from its moves."""
    agent = learner(held_out=0.0, buffer_size=6_400)
    run(agent, 20)
    stored = agent.replay.at(torch.arange(agent.replay.written))
    starts = (stored["position"][:, 3:].sum(1) == 0).nonzero().squeeze(1).tolist()
    assert len(starts) == agent.finished
    game, outcomes = agent.game, set()
    for begin, end in zip(starts, [*starts[1:], agent.replay.written], strict=True):
        position, outcome = stored["position"][begin:end], stored["outcome"][begin:end]
        assert position[:, TURN].tolist() == [ply % 2 for ply in range(end - begin)]
        assert (outcome[1:] == -outcome[:-1]).all()
        # The last stored position is one move before the end.
        legal = game.legal(position[-1:])[0].nonzero().squeeze(1)
        after = game.play(position[-1:].expand(len(legal), -1), legal)
        possible = rewards(after, position[-1:, TURN])[after[:, DONE] > 0].tolist()
        assert int(outcome[-1]) in possible
        outcomes.add(int(outcome[0]))
    assert outcomes == {-1, 0, 1}
    assert torch.allclose(stored["policy"].sum(1), torch.ones(agent.replay.written), atol=1e-5)
    assert (stored["policy"] * ~game.legal(stored["position"]) == 0).all()


def test_held_out_games_are_whole_and_never_learned_from() -> None:
    agent = learner(held_out=0.25, buffer_size=6_400)
    run(agent, 20)
    learned, held = agent.replay, agent.held_out
    counts = []
    for ring in (learned, held):
        stored = ring.at(torch.arange(ring.written))["position"]
        first = stored[:, 3:].sum(1) == 0
        assert bool(first[0])
        lengths = first.nonzero().squeeze(1).tolist()
        for begin, end in zip(lengths, [*lengths[1:], len(stored)], strict=True):
            assert stored[begin:end, TURN].tolist() == [ply % 2 for ply in range(end - begin)] and end - begin >= 5
        counts.append(len(lengths))
    assert sum(counts) == agent.finished and abs(counts[1] - agent.finished / 4) <= 1
    losses = agent.held_out_losses()
    assert set(losses) == {"eval/policy_loss", "eval/value_loss", "eval/kl"} and losses["eval/kl"] >= 0


def found(agent: AlphaZero, temperature: float) -> tuple[Found, torch.Tensor]:
    settings = Settings(16, noise=False)
    answer = search(agent.game, agent.position, hashed(agent.game), settings, seeded())
    agent.knobs.temperature = temperature
    agent.player_rng.manual_seed(3)
    return answer, agent.choose(answer)


def test_temperature_draws_exactly_the_first_plies() -> None:
    agent = learner("connect_four", games=512, temperature_plies=4)
    for ply in (0, 3, 4, 9):
        agent.length[:] = ply
        answer, move = found(agent, 1.0)
        share = torch.bincount(move, minlength=7) / 512
        if ply < 4:
            assert torch.allclose(share, answer.policy[0], atol=0.06) and len(set(move.tolist())) > 1
        else:
            assert torch.equal(move, answer.move)
    agent.length[:] = 0
    answer, move = found(agent, 0.05)
    assert (move == answer.policy.argmax(1)).float().mean() > 0.95
    assert torch.equal(found(agent, 0.0)[1], answer.move)


def test_temperature_does_not_change_targets() -> None:
    """The same positions are searched and stored, whatever is drawn from them."""
    targets = []
    for temperature in (0.1, 1.0):
        agent = learner(temperature=temperature)
        agent.move()
        targets.append(agent.running["policy"][0].clone())
    assert torch.equal(*targets)


def test_playout_cap() -> None:
    """Fast searches are as short as asked, never teach a policy, and their share is what it should be."""
    agent = learner(full_share=0.25, held_out=0.0, simulations=3, fast_simulations=1)
    spent = [agent.move() for _ in range(150)]
    full = sum(s == 3 * 8 for s in spent)
    assert set(spent) == {8, 3 * 8} and abs(full / 150 - 0.25) < 0.1
    planes, batch = agent.sample(agent.replay.draw(64, seeded()))
    *_, value_loss, kl, _ = (
        float(x) for x in agent.losses(planes, {**batch, "full": torch.zeros(64, dtype=torch.bool)})
    )
    assert kl == 0 and value_loss > 0
    some = batch["full"]
    assert 0 < int(some.sum()) < 64
    _, policy_loss, _, _, _ = agent.losses(planes, batch)
    alone = agent.losses(planes[some], {name: part[some] for name, part in batch.items()})[1]
    assert float(policy_loss) == pytest.approx(float(alone), abs=1e-5)


# ---- what it learns from


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello_6x6"])
def test_symmetries_pair_boards_with_moves(name: str) -> None:
    """A game and its mirror image, move by move: what is seen and what is legal stay images of each other."""
    game = make_game(name)
    cells, actions = game.symmetries()
    generator = seeded()
    for cell, action in zip(cells, actions, strict=True):
        plain = image = game.init(20)
        if not torch.equal(game.observe(image), turned(game.observe(plain), cell.expand(20, -1))):
            continue  # Othello's opening is its own image by half of them
        for _ in range(12):
            assert torch.equal(game.observe(image), turned(game.observe(plain), cell.expand(20, -1)))
            assert torch.equal(game.legal(image), game.legal(plain)[:, action])
            move = random_moves(game.legal(plain), generator)
            plain, image = game.step(plain, move), game.step(image, action.argsort()[move])


def test_augmentation_turns_policies_with_boards() -> None:
    agent = learner("tic_tac_toe")
    position = played(agent.game, "a3 b2").repeat(64, 1)
    policy = torch.zeros(64, 9)
    policy[:, 3] = 1.0  # beside the corner that X has
    drawn = {"position": position, "policy": policy, "full": torch.ones(64, dtype=torch.bool)}
    planes, batch = agent.sample(drawn)
    corners = planes[:, 0].flatten(1).argmax(1)
    assert set(corners.tolist()) == {0, 2, 6, 8}
    beside = batch["policy"].argmax(1)
    distance = (corners // 3 - beside // 3).abs() + (corners % 3 - beside % 3).abs()
    assert (distance == 1).all() and len({*zip(corners.tolist(), beside.tolist(), strict=True)}) == 8
    assert batch["legal"][torch.arange(64), beside].all() and not batch["legal"][torch.arange(64), corners].any()


@pytest.mark.parametrize(("kind", "width"), [("mlp", 32), ("conv", 8)])
def test_networks_learn_what_they_are_shown(kind: str, width: int) -> None:
    game = make_game("connect_four")
    torch.manual_seed(0)
    network = BoardNetwork(game, kind, width, 2)
    at = positions(game, 64, 8)
    logits, value = hashed(game)(at)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    planes = game.observe(at)
    first_logits, first_value = network(planes)
    assert first_logits.shape == (64, 7) and first_value.shape == (64,) and first_value.abs().max() < 0.2
    for _ in range(120):
        said, evaluated = network(planes)
        loss = (said - logits).square().mean() + (evaluated - value).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.35
    low = Evaluator(game, network, low=True)
    assert torch.allclose(low(at)[1], network(planes)[1], atol=0.05)


def test_the_root_value_is_mixed_into_the_target() -> None:
    plain, mixed = learner(vf_coef=1.0), learner(root_value=1.0)
    run(plain, 10)
    drawn = plain.replay.draw(32, seeded())
    planes, batch = plain.sample(drawn)
    _, value = plain.network(planes)
    assert float(plain.losses(planes, batch)[2]) == pytest.approx(float((value - batch["outcome"]).square().mean()))
    mixed.network.load_state_dict(plain.network.state_dict())
    assert float(mixed.losses(planes, batch)[2]) == pytest.approx(float((value - batch["value"]).square().mean()))


def test_ratings_are_among_past_selves() -> None:
    agent = learner()
    names = []
    for _ in range(4):
        run(agent, 4)
        found = agent.evaluate()
        names.append(f"step_{agent.progress.step}")
        assert found.metrics["eval/rating_low"] <= found.metrics["eval/rating"] <= found.metrics["eval/rating_high"]
        assert "eval/random/win_rate_first" in found.metrics and "eval/network_one_ply/win_rate" in found.metrics
    assert list(agent.past)[-1] == names[-1] and len(agent.past) == 2
    assert set(agent.ladder.ratings()) >= {"random", "one_ply", *names}
    weights = agent.past[names[-1]]
    assert torch.equal(weights, agent.optimizer.parameters) and weights is not agent.optimizer.parameters
    assert agent.histograms()["rollout/first_move"].max() < 9


# ---- where it may be used


@pytest.mark.parametrize(
    ("env", "words"),
    [("CartPole-v1", "env=CartPole-v1 is none"), ("kuhn_poker", "env=kuhn_poker hides cards; agent=nfsp")],
)
def test_what_it_cannot_play_is_refused(env: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        learner(env)


def test_keys_without_effect_are_refused() -> None:
    config = TrainConfig(env=EnvConfig("tic_tac_toe", num_envs=3), evaluate=EvaluateConfig(), agent=AlphaZeroConfig())
    with pytest.raises(RequestError, match=r"env\.num_envs has no effect on agent=alphazero.*agent\.games"):
        AlphaZero(config)
    with pytest.raises(ValueError, match="fast_simulations=80 is more than simulations=64"):
        AlphaZeroConfig(fast_simulations=80)


def test_other_running_games_are_refused() -> None:
    state = copied(learner().state_dict())
    with pytest.raises(RequestError, match=r"agent\.games=9: the checkpoint holds 8 running games"):
        learner(games=9).load_state_dict(state)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = [f"agent.{key}={value}" for key, value in SMALL.items()]
    common = ["evaluate.episodes=4", "display=quiet", "device=cpu", "log.every=100", f"run.dir={folder}", "tuned=off"]
    assert main(["train", "agent=alphazero", "env=tic_tac_toe", "steps=400", *common, *words]) == 0
    player = load(folder)
    game = make_game("tic_tac_toe")
    assert game.legal(game.init(3)).gather(1, player.choose(game.init(3), seeded())[:, None]).all()
    thought = player.think(played(game, "a3 a1 b3 b1")[0])
    assert float(thought.visits.sum()) == 4 and thought.line and -1 <= thought.value <= 1
    assert float(thought.prior.sum()) == pytest.approx(1.0, abs=1e-5)
    tags = (folder / "metrics.jsonl").read_text()
    for tag in ("eval/rating", "train/kl", "train/entropy", "rollout/game_length", "time/simulations_per_second"):
        assert f'"{tag}"' in tags
    assert main(["train", "agent=alphazero", "env=CartPole-v1", "steps=600"]) == 2
    assert "agent=ppo would do" in capsys.readouterr().err

"""The flat optimisers against torch's own, their refusal of non-finite steps, and what resumes rest on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from rlgym.learner import Section
from rlgym.optim.adamw import AdamW
from rlgym.optim.ema import Ema
from rlgym.optim.flat_params import Flat
from rlgym.optim.muon import Muon, _by_gram, _newton_schulz, orthogonal
from rlgym.ssl.config import AdamWOptimizer, MuonOptimizer
from tests.ssl.toy_model import ToyModel, toy_ids

ADAMW = AdamWOptimizer(learning_rate=1e-2, weight_decay=0.3, max_grad_norm=0.5)
MUON = MuonOptimizer(learning_rate=1e-2, weight_decay=0.3, max_grad_norm=0.5)
Make = Callable[[ToyModel], AdamW | Muon]
BOTH: list[Make] = [lambda model: AdamW(model, ADAMW), lambda model: Muon(model, MUON)]
both = pytest.mark.parametrize("make", BOTH, ids=["adamw", "muon"])


def loss_of(model: ToyModel, step: int) -> Tensor:
    tokens = torch.from_numpy(toy_ids(2, 6, seed=step, low=0))
    loss: Tensor = model.logits(model(tokens)).square().sum() * 0.1
    return loss


def train(model: ToyModel, optimizer: AdamW | Muon, steps: range, scale: float = 1.0) -> None:
    for step in steps:
        optimizer.zero()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step(scale, loss)


def copied(section: Section) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in section.items()}


def test_adamw_equals_torch_with_clipping_and_decay_of_matrices_only() -> None:
    ours, theirs = ToyModel(), ToyModel()
    flat = AdamW(ours, ADAMW)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    clipped = 0
    for step in range(20):
        scale = (step + 1) / 20
        flat.zero()
        loss = loss_of(ours, step)
        loss.backward()
        norm, skipped = flat.step(scale, loss)
        adamw.zero_grad()
        loss_of(theirs, step).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        for group in adamw.param_groups:
            group["lr"] = 1e-2 * scale
        adamw.step()
        torch.testing.assert_close(norm, expected)
        assert skipped == 0
        clipped += bool(norm > 0.5)
    assert clipped > 0
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_muon_equals_torch_muon_beside_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's iterates in bfloat16, whose rounding the weak directions magnify: here it is held to float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    ours, theirs = ToyModel(), ToyModel()
    muon = Muon(ours, MUON)
    fused = theirs.qkv.weight
    pieces = [nn.Parameter(piece.clone()) for piece in fused.detach().chunk(3)]
    whole = [theirs.up.weight, theirs.down.weight]
    reference = torch.optim.Muon([*pieces, *whole], lr=0.02, weight_decay=0.3, momentum=0.95)
    rest = [p for p in theirs.parameters() if p is not fused and all(p is not w for w in whole)]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.3},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for step in range(6):
        scale = (6 - step) / 6
        train(ours, muon, range(step, step + 1), scale)
        theirs.zero_grad()
        loss_of(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert fused.grad is not None
        for piece, grad in zip(pieces, fused.grad.chunk(3), strict=True):
            piece.grad = grad
        for group in (*reference.param_groups, *adamw.param_groups):
            group["lr"] = scale * (0.02 if group in reference.param_groups else 1e-2)
        reference.step()
        adamw.step()
        with torch.no_grad():
            fused.copy_(torch.cat([piece.detach() for piece in pieces]))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 128, 32), (2, 32, 128), (2, 20, 24)])
def test_orthogonal_keeps_singular_vectors_and_levels_singular_values(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(shape, generator=generator)
    left, values, right = torch.linalg.svd(batch, full_matrices=False)
    assert (values[:, -1] < 0.3 * values[:, 0]).all() or shape[1] != shape[2]
    found = orthogonal(batch, 5)
    inner = left.mT @ found @ right.mT  # diagonal where the singular vectors stayed
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), rtol=0, atol=2e-3)
    strong = values / values.norm(dim=1, keepdim=True) > 0.01
    assert ((diagonal > 0.6) & (diagonal < 1.25))[strong].all()
    torch.testing.assert_close(orthogonal(batch * 1e-6, 5), found, rtol=1e-3, atol=1e-3)  # of no length, only direction


@pytest.mark.parametrize("steps", [1, 5, 7])
@pytest.mark.parametrize("rank", [1, 5, 32])
def test_the_gram_matrix_gives_the_same_iterations(steps: int, rank: int) -> None:
    """Also of the low rank that gradients of small batches have, where rounding could grow."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(3, 32, rank, generator=generator) @ torch.randn(3, rank, 128, generator=generator)
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    exact = _newton_schulz(x.double(), steps)
    assert (_by_gram(x, steps) - exact).norm() < 2e-3 * exact.norm()


def test_a_zero_gradient_moves_no_matrix_but_by_decay() -> None:
    model = ToyModel()
    muon = Muon(model, MUON)
    before = model.up.weight.detach().clone()
    muon.zero()
    _, skipped = muon.step(1.0, torch.zeros(()))
    assert skipped == 0
    torch.testing.assert_close(model.up.weight.detach(), before * (1 - 0.02 * 0.3))


@both
def test_a_non_finite_step_changes_nothing(make: Make) -> None:
    model = ToyModel()
    optimizer = make(model)
    ema = Ema(optimizer.flat, 0.9)
    train(model, optimizer, range(3))
    ema.update(torch.zeros(()))
    before = [copied(section) for section in (model.state_dict(), optimizer.state_dict(), ema.state_dict())]
    for poison, where in ((float("nan"), "gradient"), (float("inf"), "gradient"), (float("nan"), "loss")):
        optimizer.zero()
        loss = loss_of(model, 3)
        loss.backward()
        if where == "gradient":
            assert model.up.weight.grad is not None
            model.up.weight.grad[1, 2] = poison
        else:
            loss = loss * poison
        _, skipped = optimizer.step(1.0, loss)
        ema.update(skipped)
        assert skipped == 1
        after = (model.state_dict(), optimizer.state_dict(), ema.state_dict())
        for old, new in zip(before, after, strict=True):
            for name, tensor in old.items():
                assert torch.equal(tensor, new[name]), (where, name)
    train(model, optimizer, range(3, 4))
    assert not torch.equal(model.up.weight, before[0]["up.weight"])


@both
def test_state_round_trip_continues_bit_for_bit(make: Make) -> None:
    first, second = ToyModel(seed=0), ToyModel(seed=1)
    a, b = make(first), make(second)
    one, two = Ema(a.flat, 0.9), Ema(b.flat, 0.9)
    for step in range(3):
        train(first, a, range(step, step + 1))
        one.update(torch.zeros(()))
    second.load_state_dict(copied(first.state_dict()))
    b.load_state_dict(copied(a.state_dict()))
    two.load_state_dict(copied(one.state_dict()))
    for step in range(3, 6):
        for model, optimizer, ema in ((first, a, one), (second, b, two)):
            train(model, optimizer, range(step, step + 1))
            ema.update(torch.zeros(()))
    assert torch.equal(a.flat.parameters, b.flat.parameters) and torch.equal(one.average, two.average)
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


@both
def test_state_names_every_parameter_once_and_is_plain_tensors(make: Make) -> None:
    model = ToyModel()
    state = make(model).state_dict()
    matrices = set(model.matrices()) if any(name.endswith(".momentum") for name in state) else set()
    for name, parameter in model.named_parameters():
        kinds = ["momentum"] if name in matrices else ["exp_avg", "exp_avg_sq"]
        for kind in kinds:
            assert state[f"{name}.{kind}"].shape == parameter.shape
    assert len(state) == 1 + len(matrices) + 2 * (len(list(model.parameters())) - len(matrices))


@both
def test_accumulated_gradients_are_those_of_the_sum(make: Make) -> None:
    one, two = ToyModel(), ToyModel()
    a, b = make(one), make(two)
    for optimizer in (a, b):
        optimizer.zero()
    (loss_of(one, 0) + loss_of(one, 1)).backward()
    loss_of(two, 0).backward()
    loss_of(two, 1).backward()
    torch.testing.assert_close(a.flat.gradients, b.flat.gradients)
    assert a.flat.gradients.norm() > 0
    b.zero()
    assert not b.flat.gradients.any() and all(p.grad is not None and not p.grad.any() for p in two.parameters())


def test_flat_takes_a_module_over_as_it_is() -> None:
    model = ToyModel()
    before = copied(model.state_dict())
    named = dict(model.named_parameters())
    flat = Flat([{"up.bias": named.pop("up.bias")}, named])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model.head.weight is model.wte.weight  # tied weights stay one
    for parameter in model.parameters():
        assert parameter.data_ptr() % 64 == flat.parameters.data_ptr() % 64
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape
    views = flat.views(flat.parameters)
    assert {name: view.data_ptr() for name, view in views.items()} == {
        name: parameter.data_ptr() for name, parameter in model.named_parameters()
    }
    spans = sorted((view.data_ptr(), view.data_ptr() + 4 * view.numel()) for view in views.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_ema_is_the_average_and_swaps_without_a_trace() -> None:
    model = ToyModel()
    optimizer = AdamW(model, ADAMW)
    ema = Ema(optimizer.flat, 0.7)
    expected = model.up.weight.detach().clone()
    for step in range(12):
        train(model, optimizer, range(step, step + 1))
        ema.update(torch.zeros(()))
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.up.weight.detach()
    own = copied(model.state_dict())
    pointers = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyError), ema.swapped():
        torch.testing.assert_close(model.up.weight.detach(), expected)
        assert torch.equal(ema.state_dict()["up.weight"], model.up.weight)
        raise KeyError  # an evaluation that fails gives the weights back too
    assert pointers == [p.data_ptr() for p in model.parameters()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name])


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_bfloat16_levels_singular_values_too(device: str) -> None:
    """What a GPU iterates in; written back into float32 views in one call."""
    x = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0)).to(device)
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    found = _newton_schulz(x.bfloat16(), 5)
    pieces = list(torch.zeros_like(x).unbind())
    torch._foreach_copy_(pieces, list(found.unbind()))
    values = torch.linalg.svdvals(torch.stack(pieces))
    assert (values > 0.6).all() and (values < 1.25).all()


@pytest.mark.parametrize("make", BOTH, ids=["adamw", "muon"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_steps_on_a_gpu_are_those_of_a_cpu(make: Make) -> None:
    """Muon's to bfloat16, whose rounding weak directions magnify."""
    here, there = ToyModel(), ToyModel().cuda()
    a, b = make(here), make(there)
    for model, optimizer in ((here, a), (there, b)):
        optimizer.zero()
        for group in optimizer.flat.groups:
            torch.manual_seed(0)
            group.gradients.copy_(torch.randn(group.numbers))
        optimizer.step(1.0, torch.zeros((), device=optimizer.flat.parameters.device))
        assert all(parameter.is_cuda == (model is there) for parameter in model.parameters())
    assert (a.flat.parameters - b.flat.parameters.cpu()).norm() < 0.02 * a.flat.parameters.norm()
    b.flat.gradients[0] = float("nan")
    before = b.flat.parameters.clone()
    _, skipped = b.step(1.0, torch.zeros((), device="cuda"))
    assert skipped == 1 and torch.equal(before, b.flat.parameters)

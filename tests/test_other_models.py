"""VGG-11, recurrent networks, and their initial weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tfc_fast.models import RowNetwork, draw_weights, vgg11
from tfc_fast.trainer import TrainConfig, Trainer

IMAGES = {"dataset": "digits", "steps": 3, "batch_size": 20, "threads": 1}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg11_has_eight_convolutions_and_scales_small_images(batch_norm: bool) -> None:
    model = vgg11(2, shape=(1, 8, 8), batch_norm=batch_norm, bias=False, num_classes=3)
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [len(kernel) for kernel in kernels] == [2, 4, 8, 8, 16, 16, 16, 16]
    assert [name for name, _ in model.named_parameters() if name.endswith("bias")] == (
        [f"{name}.bias" for name, module in model.named_modules() if "Norm" in str(type(module))]
    )
    flat = torch.randn(4, 64, generator=seeded())
    model.eval()
    torch.testing.assert_close(model(flat), model(flat.reshape(4, 1, 8, 8)))
    large = nn.functional.interpolate(flat.reshape(4, 1, 8, 8), (32, 32), mode="bilinear")
    torch.testing.assert_close(model(flat), model[3:](large))


def test_vgg11_takes_images_of_its_own_size_as_they_are() -> None:
    model = vgg11(2, num_classes=3).eval()
    flat = torch.randn(4, 3 * 32 * 32, generator=seeded())
    images = flat.reshape(4, 3, 32, 32)
    torch.testing.assert_close(model(flat), model(images))
    torch.testing.assert_close(model(images), model[2:](images))
    assert not any(isinstance(module, nn.Upsample) for module in model)


def test_rows_are_read_from_top_to_bottom() -> None:
    model = RowNetwork((2, 3, 4), 5, depth=2, width=6, bias=False).double()
    x = torch.randn(7, 24, generator=seeded(), dtype=torch.float64)
    weights = dict(model.named_parameters())
    state = torch.zeros(7, 6, dtype=torch.float64)
    for row in x.reshape(7, 6, 4).unbind(1):
        state = row @ weights["recurrent.0.weight_ih_l0"].T + (
            state @ weights["recurrent.0.weight_hh_l0"].T
        )
        state = state.clamp(min=0)
    torch.testing.assert_close(model(x), state @ weights["output.weight"].T)


def test_depth_counts_the_output() -> None:
    model = RowNetwork((1, 4, 4), 2, depth=4, width=3, kind="lstm")
    assert [type(layer) for layer in model.recurrent] == [nn.LSTM] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vgg11(shape=(64,)), r"shape: \(64,\) given, \(channels, height, width\)"),
        (lambda: RowNetwork((8, 8), 10, 3, 4), r"shape: \(8, 8\) given"),
        (lambda: RowNetwork((1, 8, 8), 10, 1, 4), "depth: 1 given, at least 2"),
        (lambda: RowNetwork((1, 8, 8), 10, 3, 4, kind="gru"), "kind: 'gru' given"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_initial_weights_are_hes_times_the_gain() -> None:
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.LSTM(100, 100))
    draw_weights(model, 0.5, seeded())
    for weight, fan_in in ((model[0].weight, 72), (model[2].weight_hh_l0, 100)):
        assert weight.std().item() == pytest.approx(0.5 * math.sqrt(2 / fan_in), rel=0.05)
    assert not model[0].bias.any()
    assert not model[2].bias_ih_l0.any()
    assert bool((model[1].weight == 1).all())


class _Scaled(nn.Module):
    """A module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
        self.scale = nn.Parameter(torch.full((3,), 0.1))
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.in_bias = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(16),
        nn.GroupNorm(4, 16),
        nn.BatchNorm1d(16),
        nn.BatchNorm1d(16, affine=False),
        nn.InstanceNorm1d(16, affine=True),
        nn.PReLU(16),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_a_matrix_start_as_torch_starts_them(layer: nn.Module) -> None:
    expected = {name: value.clone() for name, value in layer.state_dict().items()}
    with torch.no_grad():
        for value in [*layer.parameters(), *layer.buffers()]:
            value.fill_(7)
    draw_weights(layer, 1.0, seeded())
    for name, value in layer.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_network_with_a_layer_norm_has_an_output() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))
    draw_weights(model, 1.0, seeded())
    assert bool(model(torch.randn(5, 8, generator=seeded())).any())


def test_of_a_module_of_ones_own_only_matrices_and_biases_are_set() -> None:
    model = _Scaled()
    draw_weights(model, 1.0, seeded())
    assert bool((model.weight != 1).all())
    assert model.scale.tolist() == pytest.approx([0.1] * 3)
    assert model.temperature.item() == 2
    assert not model.in_bias.any()


def test_one_seed_gives_the_same_directions_for_every_gain() -> None:
    small, large = nn.Linear(4, 3), nn.Linear(4, 3)
    draw_weights(small, 1.0, seeded())
    draw_weights(large, 2.0, seeded())
    torch.testing.assert_close(2 * small.weight, large.weight)


@pytest.mark.parametrize(
    ("settings", "sites"),
    [
        ({"model": "vgg11", "width": 1}, 8),
        ({"model": "vgg11", "width": 1, "batch_norm": True, "inplace": True}, 8),
        ({"model": "rnn", "depth": 3, "width": 5, "sites": "recurrent.*"}, 2),
        ({"model": "lstm", "depth": 3, "width": 5, "sites": "recurrent.*", "bias": True}, 2),
    ],
)
def test_they_are_trained_by_name_and_go_on(
    tmp_path: Path, settings: dict[str, Any], sites: int
) -> None:
    def config(name: str, steps: int) -> TrainConfig:
        return TrainConfig(**{**IMAGES, **settings, "steps": steps}, out=str(tmp_path / name))

    state = torch.get_rng_state()
    Trainer(config("whole", 4), progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    whole = Trainer(config("whole", 4), progress=False).fit()
    Trainer(config("part", 2), progress=False).fit()
    part = Trainer.resume(tmp_path / "part", progress=False, steps=4).fit()
    for a, b in zip(whole.model.parameters(), part.model.parameters(), strict=True):
        assert torch.equal(a, b)
    records = whole.run_directory.read_metrics()
    assert len(set(records["site"].tolist())) == sites
    assert np.isfinite(records["feature_cos_between"]).all()


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 20, 32)])
def test_images_as_large_as_those_of_cifar_10_are_trained_on(
    tmp_path: Path, rng: np.random.Generator, shape: tuple[int, ...], given: bool
) -> None:
    """Data sets hold their samples flat; those of the user are as they are given."""
    images = rng.standard_normal((40, *shape)).astype(np.float32)
    labels = np.arange(40) % 4
    settings: dict[str, Any] = {"model": "vgg11", "width": 1, "steps": 2, "batch_size": 10}
    if given:
        config = TrainConfig(**settings, out=tmp_path / "run")
        data = torch.from_numpy(images), torch.from_numpy(labels)
        trainer = Trainer(config, dataset=data, progress=False)
    else:
        np.savez(tmp_path / "images.npz", inputs=images, labels=labels)
        settings |= {"dataset": "npz", "data_dir": tmp_path / "images.npz"}
        trainer = Trainer(TrainConfig(**settings, out=tmp_path / "run"), progress=False)
    assert trainer.fit().steps == 2


def test_samples_that_are_no_images_are_refused(tmp_path: Path) -> None:
    config = TrainConfig(dataset="gaussian", model="vgg11", out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"model: vgg11 wants images, .* gaussian have shape"):
        Trainer(config)
    assert not (tmp_path / "run").exists()

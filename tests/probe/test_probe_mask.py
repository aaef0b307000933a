"""Positions that a mask leaves out, against brute force on those that it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from by_hand import assert_record, row
from checks import DTYPES, assert_same_bits, dtype_name, random_labels
from torch import Tensor, nn

from tfc_fast import Probe, tap

NUM_CLASSES = 4

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
labelled_or_not = pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no-labels"])


class Tap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return tap(x * 1, "0", reduction="tokens")


SITES: dict[str, tuple[Any, Any]] = {
    "relu": (nn.ReLU, "0"),
    "inplace": (lambda: nn.ReLU(inplace=True), "0"),
    "module": (nn.Tanh, "0"),
    "tap": (Tap, []),
}


def watched(kind: str) -> tuple[nn.Module, Any]:
    make, sites = SITES[kind]
    return nn.Sequential(make()), sites


def random_batch(
    rng: np.random.Generator, positions: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features before their site, gradients, labels and a mask."""
    n = int(rng.integers(2, 20))
    x, grad = (
        torch.from_numpy(0.5 + rng.standard_normal((n, *positions, 6))).to(dtype) for _ in range(2)
    )
    mask = torch.from_numpy(rng.random((n, *positions)) < rng.uniform(0.1, 0.9))
    mask[0] = False  # nothing is left of it
    return x.requires_grad_(), grad, random_labels(rng, n, NUM_CLASSES), mask


@labelled_or_not
@each_dtype
@pytest.mark.parametrize("positions", [(7,), (3, 4)], ids=str)
@pytest.mark.parametrize("kind", SITES)
def test_records_agree_with_brute_force(
    rng: np.random.Generator,
    kind: str,
    positions: tuple[int, ...],
    dtype: torch.dtype,
    labelled: bool,
) -> None:
    model, sites = watched(kind)
    features, grads, labels = [], [], []
    choice = {"num_classes": NUM_CLASSES} if labelled else {}
    with Probe(model, sites, reduction="tokens", **choice) as probe:
        for _ in range(2):
            x, grad, y, mask = random_batch(rng, positions, dtype)
            probe.batch(labels=y if labelled else None, mask=mask)
            out = model(x * 1)
            out.backward(grad)
            features.append(out.detach().double()[mask])
            grads.append(grad.double()[mask])
            labels.append(y.repeat_interleave(mask.flatten(1).sum(1)))
        probe.step()
    expected = reference.site_record(features, grads, labels if labelled else None)
    precision = dtype_name(grad) if dtype.itemsize < 4 else "float32"
    assert_record(row(probe.history(), 0), expected, precision)
    assert probe.history()["n_rows"].item() == sum(map(len, features))


@pytest.mark.parametrize("kind", SITES)
def test_training_is_untouched(rng: np.random.Generator, kind: str) -> None:
    x, grad, y, mask = random_batch(rng, (7,), torch.float32)
    model, sites = watched(kind)
    model(x * 1).backward(grad)
    plain, x.grad = x.grad, None
    with Probe(model, sites, num_classes=NUM_CLASSES, reduction="tokens") as probe:
        probe.batch(labels=y, mask=mask)
        model(x * 1).backward(grad)
    assert plain is not None
    assert x.grad is not None
    assert_same_bits(x.grad, plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda mask: mask.long(),  # as tokenizers give it
        lambda mask: mask.to(torch.uint8) * 3,
        lambda mask: mask.numpy(),
        lambda mask: mask.t().contiguous().t(),
    ],
    ids=["int64", "uint8", "numpy", "strided"],
)
def test_every_kind_of_mask(rng: np.random.Generator, make: Any) -> None:
    x, grad, y, mask = random_batch(rng, (7,), torch.float32)
    model, _ = watched("relu")
    with Probe(model, num_classes=NUM_CLASSES, reduction="tokens") as probe:
        for given in (mask, make(mask)):
            probe.batch(labels=y, mask=given)
            if given is not mask:
                given[:] = 1  # what `batch` was given counts
            model(x).backward(grad)
            probe.step()
    history = probe.history()
    for column in set(history) - {"step", "site", "loss"}:
        np.testing.assert_array_equal(history[column][0], history[column][1], column)


def test_a_mask_is_of_one_batch(rng: np.random.Generator) -> None:
    x, grad, y, mask = random_batch(rng, (7,), torch.float32)
    model, _ = watched("relu")
    with Probe(model, num_classes=NUM_CLASSES, reduction="tokens") as probe:
        for given in (mask, None):
            probe.batch(labels=y, mask=given)
            model(x).backward(grad)
            probe.step()
    assert probe.history()["n_rows"].tolist() == [int(mask.sum()), mask.numel()]


@pytest.mark.parametrize("how", ["step", "detach", "load_state_dict"])
def test_it_is_forgotten_without_another_batch(how: str) -> None:
    model, _ = watched("relu")
    with Probe(model, reduction="tokens") as probe:
        probe.batch(mask=torch.zeros(4, 3, dtype=torch.bool))
        if how == "step":
            model(torch.ones(4, 3, 5, requires_grad=True)).sum().backward()
            probe.step()
        elif how == "detach":
            probe.detach()
            probe.attach()
        else:
            probe.load_state_dict(probe.state_dict())
        model(torch.ones(4, 7, 5, requires_grad=True)).sum().backward()
        probe.step()
    assert probe.history()["n_rows"][-1] == 28


def test_two_dimensions_of_positions_may_be_given_as_one(rng: np.random.Generator) -> None:
    x, grad, y, mask = random_batch(rng, (3, 4), torch.float32)
    model, _ = watched("relu")
    with Probe(model, num_classes=NUM_CLASSES, reduction="tokens") as probe:
        for given in (mask, mask.flatten(1)):
            probe.batch(labels=y, mask=given)
            model(x).backward(grad)
            probe.step()
        probe.batch(labels=y, mask=mask.transpose(1, 2))
        with pytest.raises(ValueError, match="mask: of shape"):
            model(x).backward(grad)
    history = probe.history()
    assert history["grad_cos_all"][0] == history["grad_cos_all"][1]


def test_nothing_may_be_left() -> None:
    model, _ = watched("relu")
    with Probe(model, num_classes=2, reduction="tokens") as probe:
        probe.batch(labels=torch.arange(4) % 2, mask=torch.zeros(4, 3, dtype=torch.bool))
        model(torch.ones(4, 3, 5, requires_grad=True)).sum().backward()
        probe.step()
    record = row(probe.history(), 0)
    assert record["n_rows"] == 0
    assert np.isnan(record["feature_cos_all"])


def test_other_sites_do_not_look_at_it(rng: np.random.Generator) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.ReLU(), nn.Linear(30, 4), nn.ReLU())
    with Probe(model, num_classes=2, reduction={"0": "tokens", "4": "tokens"}) as probe:
        probe.batch(labels=torch.arange(4) % 2, mask=torch.tensor([[1, 0, 0, 0, 1]] * 4))
        model(torch.ones(4, 5, 6, requires_grad=True)).sum().backward()
        probe.step()
    assert probe.history()["n_rows"].tolist() == [8, 4, 4]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(rng: np.random.Generator, backend: str) -> None:
    batches = [random_batch(rng, (7,), torch.float32) for _ in range(4)]
    records = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-0.4, 0.5, p.numel()).view_as(p))
        with Probe(model, num_classes=NUM_CLASSES, reduction="tokens") as probe:
            run = torch.compile(model, fullgraph=True, backend=backend) if compiled else model
            for x, grad, y, mask in batches:
                probe.batch(labels=y, mask=mask)
                run(x.detach()).backward(grad)
                probe.step()
        records.append(probe.history())
    assert records[0]["n_rows"].tolist() == [int(b[3].sum()) for b in batches for _ in range(2)]
    for column in (
        "n_rows",
        "feature_cos_between",
        "grad_cos_within",
        "dead_frac",
        "grad_norm_mean",
    ):
        np.testing.assert_allclose(
            records[1][column], records[0][column], atol=1e-5, err_msg=column
        )


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_evaluations_leave_the_same_out(rng: np.random.Generator, without_gradients: Any) -> None:
    x, grad, y, mask = random_batch(rng, (7,), torch.float32)
    model, _ = watched("relu")
    with Probe(model, num_classes=NUM_CLASSES, reduction="tokens") as probe:
        probe.batch(labels=y, mask=mask)
        model(x).backward(grad)
        probe.step()
        with without_gradients():
            probe.batch(labels=y, mask=mask)
            model(x)
        probe.step(split="eval")
    trained, evaluated = row(probe.history(), 0), row(probe.history(split="eval"), 0)
    for column in (
        "n_rows",
        "feature_cos_all",
        "feature_cos_within",
        "gate_agreement_all",
        "dead_frac",
    ):
        # of one row left, no mean is known
        np.testing.assert_array_equal(evaluated[column], trained[column], err_msg=column)


# ---- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(4, 3), TypeError, "mask: wanted bool, or whole numbers .*Float"),
        (torch.ones(4, dtype=torch.bool), ValueError, r"mask: wanted \[n, ...\].*\[4\]"),
        (torch.ones(5, 3, dtype=torch.bool), ValueError, "mask: of 5 samples, .* 4 labels"),
        ([[1, 0]] * 4, TypeError, "mask: wanted a tensor or array, got list"),
    ],
    ids=["float", "no-positions", "samples", "list"],
)
def test_a_wrong_mask_is_refused_and_loses_nothing(
    mask: Any, error: type[Exception], message: str
) -> None:
    model, _ = watched("relu")
    x, y = torch.ones(4, 3, 5, requires_grad=True), torch.arange(4) % 2
    with Probe(model, num_classes=2, reduction="tokens") as probe:
        probe.batch(labels=y)
        model(x).sum().backward()
        with pytest.raises(error, match=message):
            probe.batch(labels=y, mask=mask)
        probe.step()
    assert probe.history()["n_rows"].tolist() == [12]


@pytest.mark.parametrize("shape", [(4, 5), (2, 6), (4, 3, 2)], ids=str)
def test_a_mask_of_other_positions_is_noticed_in_backward(shape: tuple[int, ...]) -> None:
    model, _ = watched("relu")
    with Probe(model, reduction="tokens") as probe:
        probe.batch(mask=torch.ones(shape, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"mask: of shape .* positions \[4, 3\]"):
            model(torch.ones(4, 3, 5, requires_grad=True)).sum().backward()


def test_a_mask_that_nobody_looks_at_is_told_once() -> None:
    model, _ = watched("relu")
    mask = torch.ones(4, 3, dtype=torch.bool)
    with Probe(model) as probe:

        def train() -> None:
            probe.batch(mask=mask)
            model(torch.ones(4, 3, 5, requires_grad=True)).sum().backward()
            probe.step()

        with pytest.warns(RuntimeWarning, match="mask: has no effect") as seen:
            train()
        assert seen[0].filename == __file__
        train()  # a warning would be an error
    assert probe.history()["step"].tolist() == [1, 2]

"""Rows that are means over positions, or positions, against brute force on the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from by_hand import assert_record, row, watch_by_hand
from checks import DTYPES, assert_same_bits, dtype_name, random_labels
from recording import (
    GRAD_LAYOUTS,
    LAYOUTS,
    end_step,
    make_recorder,
    relu_backward,
    tap_backward,
    without_times,
)
from torch import Tensor, nn

from tfc_fast import Probe, tap
from tfc_fast.records import COLUMNS

OPS = torch.ops.tfc_fast
REDUCTIONS = ("pool", "tokens")
NUM_CLASSES = 4

each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
labelled_or_not = pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no-labels"])


def rows_of(x: Tensor, reduction: str) -> Tensor:
    """The rows in float64, by the definition."""
    x = x.detach().double()
    if x.dim() <= 2 or reduction == "flatten":
        return x.flatten(1)
    return x.flatten(2).mean(2) if reduction == "pool" else x.flatten(0, -2)


def labels_of(labels: Tensor, x: Tensor, reduction: str) -> Tensor:
    """The label of each row."""
    return labels.repeat_interleave(len(rows_of(x, reduction)) // max(1, len(x)))


def record_by_hand(
    features: list[Tensor], grads: list[Tensor], labels: list[Tensor] | None, reduction: str
) -> dict[str, float]:
    return reference.site_record(
        [rows_of(x, reduction) for x in features],
        [rows_of(x, reduction) for x in grads],
        labels and [labels_of(y, x, reduction) for y, x in zip(labels, features, strict=True)],
    )


def random_tensor(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Samples with something in common, some units never open."""
    common = rng.standard_normal((1, *shape[1:]))
    common -= rng.choice([0.0, 50.0], common.shape, p=[0.9, 0.1])
    return torch.from_numpy(common + rng.standard_normal(shape)).to(dtype)


class Tap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return tap(x * 1, "site")


class Site(nn.Module):
    """One watched place, of which the feature is known."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.site = {
            "relu": nn.ReLU,
            "inplace": lambda: nn.ReLU(inplace=True),
            "module": nn.Tanh,
            "tap": Tap,
        }[kind]()
        self.sites: Any = [] if kind == "tap" else "site"

    def forward(self, x: Tensor) -> Tensor:
        return self.site(x * 1) * 1


KINDS = ("relu", "inplace", "module", "tap")


# ---- against brute force -----------------------------------------------------------------------


@labelled_or_not
@each_dtype
@pytest.mark.parametrize("kind", KINDS)
@each_reduction
def test_records_agree_with_brute_force(
    rng: np.random.Generator, reduction: Any, kind: str, dtype: torch.dtype, labelled: bool
) -> None:
    model = Site(kind)
    features, grads, labels = [], [], []
    probe = Probe(
        model,
        model.sites,
        num_classes=NUM_CLASSES if labelled else None,
        reduction=reduction,
    )
    with probe:
        for _ in range(2):
            shape = (int(rng.integers(2, 20)), 5, 4, 6)
            x = random_tensor(rng, shape, dtype).requires_grad_()
            y, grad = random_labels(rng, len(x), NUM_CLASSES), random_tensor(rng, shape, dtype)
            probe.batch(labels=y if labelled else None)
            out = model(x)
            out.backward(grad)
            features.append(out.detach())
            grads.append(grad)
            labels.append(y)
        probe.step()
    history = probe.history()
    assert history["site"].tolist() == ["site"]
    expected = record_by_hand(features, grads, labels if labelled else None, reduction)
    assert_record(row(history, 0), expected, dtype_name(grad) if dtype.itemsize < 4 else "float32")


@each_reduction
def test_of_a_model_seen_by_hooks(rng: np.random.Generator, reduction: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)
    )
    seen = watch_by_hand(model)
    y = random_labels(rng, 12, NUM_CLASSES)
    with Probe(model, num_classes=NUM_CLASSES, reduction=reduction) as probe:
        probe.batch(labels=y)
        out = model(torch.from_numpy(rng.standard_normal((12, 3, 8, 8))).float())
        nn.functional.cross_entropy(out, y).backward()
        probe.step()
    history = probe.history()
    assert history["site"].tolist() == ["1", "3"]
    for index, site in enumerate(history["site"]):
        features, grads = (list(tensors) for tensors in zip(*seen[site], strict=True))
        assert_record(row(history, index), record_by_hand(features, grads, [y], reduction))


@each_dtype
@pytest.mark.parametrize("grad_layout", GRAD_LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@each_reduction
def test_every_layout(
    rng: np.random.Generator, reduction: str, layout: str, grad_layout: str, dtype: torch.dtype
) -> None:
    shape = (7, 3, 4, 5)
    feature = LAYOUTS[layout](random_tensor(rng, shape, dtype).relu())
    grad = GRAD_LAYOUTS[grad_layout](random_tensor(rng, shape, dtype))
    y = random_labels(rng, 7, NUM_CLASSES)
    recorder = make_recorder(num_classes=NUM_CLASSES)
    recorder.begin_batch(y)
    grad_in = relu_backward(recorder, grad, feature, reduction=reduction)
    expected = torch.ops.aten.threshold_backward(grad, feature, 0)
    assert_same_bits(grad_in, expected)
    assert grad_in.stride() == expected.stride()
    record = record_by_hand([feature], [grad], [y], reduction)
    assert_record(end_step(recorder), record, dtype_name(grad) if dtype.itemsize < 4 else "float32")


SHAPES = [(0, 3, 4), (1, 3, 4), (3, 0, 4), (5, 1, 4), (4, 3, 1), (200, 50, 3), (2, 2, 3, 2, 5)]


@labelled_or_not
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tokens_are_rows_like_any_other(
    rng: np.random.Generator, shape: tuple[int, ...], labelled: bool
) -> None:
    # To the last bit, also where one kernel records and writes the gradient.
    feature, grad = (random_tensor(rng, shape, torch.float32) for _ in range(2))
    y = random_labels(rng, len(feature), NUM_CLASSES)
    records = []
    for reduction, rows, labels in (
        ("tokens", lambda x: x, y),
        ("flatten", lambda x: x.flatten(0, -2), labels_of(y, feature, "tokens")),
    ):
        recorder = make_recorder(num_classes=NUM_CLASSES if labelled else 0)
        recorder.begin_batch(labels)
        relu_backward(recorder, rows(grad), rows(feature.relu()), reduction=reduction)
        recorder.end_step(0.0)
        records.append(recorder.drain()[0][0, 0])
    assert records[0][COLUMNS.index("n_rows") - 3] == feature[..., 0].numel()
    assert_same_bits(*records)


@pytest.mark.parametrize("shape", [(9,), (9, 4)])
@each_reduction
def test_rows_stay_as_they_are(
    rng: np.random.Generator, reduction: str, shape: tuple[int, ...]
) -> None:
    feature, grad = (random_tensor(rng, shape, torch.float32) for _ in range(2))
    records = []
    for name in (reduction, "flatten"):
        recorder = make_recorder(num_classes=NUM_CLASSES)
        recorder.begin_batch(torch.arange(9) % NUM_CLASSES)
        assert_same_bits(
            relu_backward(recorder, grad, feature.relu(), reduction=name),
            torch.ops.aten.threshold_backward(grad, feature.relu(), 0),
        )
        recorder.end_step(0.0)
        records.append(recorder.drain()[0][0, 0])
    assert_same_bits(*records)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_means_of_small_gradients_do_not_vanish_in_half_precision(
    rng: np.random.Generator, dtype: torch.dtype
) -> None:
    # The least number of the dtype at one of 64 positions: the dtype cannot hold the mean.
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    grad = torch.zeros(6, 5, 64, dtype=dtype)
    grad[..., 0] = torch.from_numpy(rng.choice([-least, least], (6, 5))).to(dtype)
    recorder = make_recorder()
    tap_backward(recorder, grad, torch.ones_like(grad), reduction="pool")
    record = end_step(recorder)
    assert record["n_zero_grads"] == 0
    wanted = reference.mean_cosine(rows_of(grad, "pool")).all
    np.testing.assert_allclose(record["grad_cos_all"], wanted, atol=1e-5)


@each_reduction
def test_a_nan_is_counted_where_it_is(reduction: str) -> None:
    grad = torch.ones(4, 3, 5)
    grad[1, 2, 3] = torch.nan
    recorder = make_recorder()
    relu_backward(recorder, grad, torch.ones(4, 3, 5), reduction=reduction)
    record = end_step(recorder)
    assert record["n_nonfinite"] == 1
    assert record["n_rows"] == {"pool": 4, "tokens": 12}[reduction]


# ---- choosing ----------------------------------------------------------------------------------


class Choices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.second(self.second(self.first(x))))
        x = tap(x, "seen")
        x = tap(x, "second tap", reduction="flatten")
        return tap(x, "third", reduction="pool")


@pytest.mark.filterwarnings("ignore:reduction.*decide for none:RuntimeWarning")
def test_a_mapping_chooses_by_site_and_a_tap_for_itself(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.uniform(1, 2, (4, 3, 5))).requires_grad_()
    model = Choices()
    choice: Any = {"first": "pool", "se*": "tokens", "second": "pool", "third": "tokens"}
    with Probe(model, num_classes=2, reduction=choice) as probe:
        for _ in range(2):
            probe.batch(labels=torch.arange(4) % 2)
            model(x).sum().backward()
            probe.step()
    history = probe.history()
    chosen = {
        "first": "pool",
        "second": "tokens",
        "other": "flatten",
        "second#1": "tokens",
        "seen": "tokens",
        "second tap": "flatten",
        "third": "pool",
    }
    assert history["site"].tolist() == 2 * list(chosen)
    for index, reduction in enumerate(chosen.values()):
        rows = rows_of(x, reduction)
        assert history["n_rows"][index] == len(rows)
        np.testing.assert_allclose(history["feature_norm_mean"][index], rows.norm(dim=1).mean())


class OneNameTwice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return tap(tap(x * 1, "a", reduction="tokens") * 1, "a")


def test_a_tap_that_asks_for_nothing_gets_what_the_probe_says() -> None:
    model = OneNameTwice()
    with Probe(model, sites=[]) as probe:
        for _ in range(2):
            model(torch.ones(6, 5, 3, requires_grad=True)).sum().backward()
            probe.step()
    assert probe.history()["n_rows"].tolist() == [30, 6, 30, 6]


@pytest.mark.filterwarnings("ignore:reduction.*decide for none:RuntimeWarning")
def test_flatten_is_what_there_was(rng: np.random.Generator) -> None:
    records = []
    x = random_tensor(rng, (6, 3, 4), torch.float32).requires_grad_()
    for choice in (
        {},
        {"reduction": "flatten"},
        {"reduction": {}},
        {"reduction": {"other": "pool"}},
    ):
        model = Site("relu")
        with Probe(model, num_classes=NUM_CLASSES, **choice) as probe:
            probe.batch(labels=torch.arange(6) % NUM_CLASSES)
            model(x).square().sum().backward()
            probe.step()
        records.append(torch.tensor([probe.history()[name].item() for name in COLUMNS[3:]]))
    for record in records[1:]:
        assert_same_bits(record, records[0])


# ---- when nothing is recorded, and what is wrong ------------------------------------------------


@each_reduction
def test_steps_that_are_not_recorded(rng: np.random.Generator, reduction: str) -> None:
    recorder = make_recorder(every=2)
    recorder.end_step(0.0)
    before = without_times(recorder.sites)
    grad, result = (random_tensor(rng, (6, 5, 4), torch.float32) for _ in range(2))
    actual = relu_backward(recorder, grad, result, reduction=reduction)
    assert_same_bits(actual, torch.ops.aten.threshold_backward(grad, result, 0))
    assert_same_bits(without_times(recorder.sites), before)


@pytest.mark.parametrize(
    ("reduction", "error", "message"),
    [
        ("mean", ValueError, "reduction: wanted 'flatten' or 'pool' or 'tokens', got 'mean'"),
        ({"0": "flat"}, ValueError, "reduction: .*'flat'"),
        ({"0": None}, TypeError, "reduction: .*NoneType"),
        ({0: "pool"}, TypeError, "reduction: wanted globs.*0"),
        (None, TypeError, "reduction: .*mapping from globs.*NoneType"),
        (1, TypeError, "reduction: .*int"),
        (["pool"], TypeError, "reduction: .*list"),
    ],
)
def test_wrong_reductions_are_refused(reduction: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Probe(nn.Sequential(nn.ReLU()), reduction=reduction)


def test_a_tap_refuses_a_wrong_reduction() -> None:
    x = torch.ones(2, 3)
    wrong: list[Any] = ["mean", 1]
    with Probe(nn.ReLU()) as probe:
        with pytest.raises(ValueError, match=r"reduction: .*'mean'"):
            tap(x, "tap", wrong[0])
        with pytest.raises(TypeError, match=r"reduction: .*int"):
            tap(x, "tap", reduction=wrong[1])
        assert probe.sites == ("",)


@pytest.mark.parametrize("op", ["relu_probe_backward", "tap_backward"])
@pytest.mark.parametrize("number", [-1, 3])
def test_ops_refuse_a_number_that_is_no_reduction(op: str, number: int) -> None:
    r, x = make_recorder(), torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match=rf"{op}: reduction must be 0 ... 2, got {number}"):
        getattr(OPS, op)(x, x, r.order, r.class_ptr, r.sites, r.units, 0, number)


@each_reduction
def test_another_number_of_labels_than_samples_is_noticed_in_backward(reduction: Any) -> None:
    model = nn.Sequential(nn.ReLU())
    x = torch.ones(4, 3, 5, requires_grad=True)
    with Probe(model, num_classes=2, reduction=reduction) as probe:
        for labels in (3, 12):  # one for each row is wrong, too
            probe.batch(labels=torch.zeros(labels, dtype=torch.int64))
            with pytest.raises(ValueError, match=rf"{labels} labels, .* 4 samples .*\[4, 3, 5\]"):
                model(x).sum().backward()


def test_the_number_of_positions_may_change_and_the_width_may_not() -> None:
    model = nn.Sequential(nn.ReLU())
    with Probe(model, num_classes=2, reduction="tokens") as probe:
        for positions in (3, 7):
            probe.batch(labels=torch.arange(4) % 2)
            model(torch.ones(4, positions, 5, requires_grad=True)).sum().backward()
        probe.step()
    assert probe.history()["n_rows"].tolist() == [40]

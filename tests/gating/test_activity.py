from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, random_features
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import laid_out_tensors
from torch import Tensor, nn
from torch.library import opcheck

from tfc_fast import Probe
from tfc_fast.gating import UnitActivity

RESULTS = ("active_rate", "last_active", "revived", "dead_window")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def now_and_then(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> Tensor:
    """Units of which most are shut in most updates."""
    lives = torch.from_numpy(rng.random(d) < rng.choice([0, 0.1, 0.5, 1], d))
    return (random_features(rng, n, d, torch.float64) * lives).to(dtype)


def compare(activity: UnitActivity, twin: reference.UnitActivity) -> None:
    for name in RESULTS:
        actual, wanted = getattr(activity, name), getattr(twin, name)
        assert actual.shape == (len(wanted),)
        np.testing.assert_array_equal(actual, np.array(wanted), err_msg=name)
    dead = twin.dead_window
    expected = sum(dead) / len(dead) if twin.n_rows else math.nan
    np.testing.assert_equal(activity.dead_window_frac, expected)
    assert activity.n_rows == twin.n_rows


@each_dtype
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("d", [1, 7, 63, 64, 65, 1000, 4096])
def test_every_width(rng: np.random.Generator, d: int, window: int, dtype: torch.dtype) -> None:
    activity, twin = UnitActivity(d, window), reference.UnitActivity(d, window)
    compare(activity, twin)
    for update in range(1, 9):
        features = now_and_then(rng, int(rng.choice([0, 1, 2, 3, 127])), d, dtype)
        activity.update(features)
        twin.update(features)
        assert activity.n_updates == update
        compare(activity, twin)


def test_revival_of_a_dead_unit() -> None:
    activity = UnitActivity(1, window=3)
    found = []
    for is_open in (0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1):
        activity.update(torch.tensor([[float(is_open)]]))
        found.append((bool(activity.dead_window), int(activity.revived)))
    assert [dead for dead, _ in found] == [bool(c == "d") for c in "ddd......dd.."]
    assert [times for _, times in found] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]


@settings(max_examples=60, deadline=None)
@given(
    first=laid_out_tensors().filter(lambda x: math.prod(x.shape[1:]) > 0),
    window=st.integers(1, 3),
    data=st.data(),
)
def test_any_shape_strides_and_dtype(first: Tensor, window: int, data: st.DataObject) -> None:
    d = math.prod(first.shape[1:])
    activity, twin = UnitActivity(d, window), reference.UnitActivity(d, window)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda x: x,
        lambda x: -x,
        lambda x: x * 0,
        lambda x: x[:0],
        lambda x: x.reshape(len(x), d),
    ]
    for change in data.draw(st.lists(st.sampled_from(changes), max_size=8)):
        activity.update(change(first))
        twin.update(change(first))
    compare(activity, twin)


@pytest.mark.parametrize("window", [1, 3, 50])
def test_dead_units_are_those_of_the_probe(rng: np.random.Generator, window: int) -> None:
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU())
    activity = UnitActivity(40, window)
    with Probe(model, window=window) as probe:
        for _ in range(12):
            bias = torch.from_numpy(rng.choice([-100.0, 0.0, 1.0], 40, p=[0.8, 0.1, 0.1]))
            model[0].bias.data.copy_(bias)  # type: ignore[union-attr]
            features = model(torch.from_numpy(rng.standard_normal((9, 6))).float())
            features.sum().backward()
            probe.step()
            activity.update(features)
            history = probe.history()
            assert history["dead_window_frac"][-1] == activity.dead_window_frac


def test_numpy_and_tensors_mix(rng: np.random.Generator) -> None:
    activity, twin = UnitActivity(20, 2), reference.UnitActivity(20, 2)
    for _ in range(5):
        x = rng.standard_normal((30, 4, 10)).astype(np.float16)[::-1, :, ::2] - 2
        for features in (x, torch.from_numpy(x.copy()).requires_grad_()):
            activity.update(features)
            twin.update(features)
    compare(activity, twin)


def test_results_are_copies() -> None:
    activity = UnitActivity(3)
    activity.update(torch.ones(2, 3))
    for name in RESULTS:
        before = getattr(activity, name).clone()
        getattr(activity, name).zero_()
        assert torch.equal(getattr(activity, name), before)
    state = activity.state_dict()
    state["open_rows"].zero_()
    assert activity.active_rate.tolist() == [1, 1, 1]


def test_goes_on_from_a_state_on_disk(rng: np.random.Generator) -> None:
    twin, activity = reference.UnitActivity(70, 2), UnitActivity(70, 2)
    for _ in range(9):
        features = now_and_then(rng, 5, 70, torch.float32)
        file = io.BytesIO()
        torch.save(activity.state_dict(), file)
        file.seek(0)
        activity = UnitActivity(70, 2)
        activity.load_state_dict(torch.load(file))
        activity.update(features)
        twin.update(features)
        compare(activity, twin)


def test_reset(rng: np.random.Generator) -> None:
    activity = UnitActivity(9, 4)
    activity.update(random_features(rng, 3, 9, torch.float32))
    activity.reset()
    assert (activity.n_updates, activity.num_units, activity.window) == (0, 9, 4)
    compare(activity, reference.UnitActivity(9, 4))


@each_dtype
def test_same_numbers_everywhere(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
    dtype: torch.dtype,
) -> None:
    features = [now_and_then(rng, 400, 203, dtype) for _ in range(4)]
    twin = reference.UnitActivity(203, 2)
    for x in features:
        twin.update(x)
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        for threads in (1, 2, 3):
            set_threads(threads)
            activity = UnitActivity(203, 2)
            for x in features:
                activity.update(x)
            compare(activity, twin)


def test_wrong_input_is_refused_by_name() -> None:
    activity = UnitActivity(4)
    activity.update(torch.ones(2, 4))
    before = activity.state_dict()
    changed: Callable[..., dict[str, Any]] = lambda **changes: before | changes  # noqa: E731
    load = activity.load_state_dict
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, "num_units: wanted at least 1, got 0", lambda: UnitActivity(0)),
        (ValueError, "window: wanted at least 1", lambda: UnitActivity(4, window=0)),
        (TypeError, "window: wanted an int", lambda: UnitActivity(4, window=2.5)),  # type: ignore[arg-type]
        (TypeError, "features: wanted float16", lambda: activity.update(torch.ones(2, 4).int())),
        (ValueError, "num_units=4 values, got 5", lambda: activity.update(torch.ones(2, 5))),
        (ValueError, "num_units=4 values, got 6", lambda: activity.update(torch.ones(0, 3, 2))),
        (ValueError, "at least one dimension", lambda: activity.update(torch.tensor(1.0))),
        (ValueError, "state: wanted the entries", lambda: load({"num_units": 4})),
        (ValueError, "made with num_units=5", lambda: load(changed(num_units=5))),
        (ValueError, "made with window=7", lambda: load(changed(window=7))),
        (TypeError, "state: n_rows: wanted an int", lambda: load(changed(n_rows=0.5, n_updates=9))),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
    after = activity.state_dict()
    assert str(after) == str(before)


def test_a_state_that_none_can_have_is_refused_and_changes_nothing() -> None:
    activity = UnitActivity(2, window=1)
    for rows in ([[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]):
        activity.update(torch.tensor(rows))
    before = activity.state_dict()
    wrong: list[tuple[type[Exception], str, Any, str]] = [
        (TypeError, "window", torch.tensor([1, 2]), "wanted an int"),
        (TypeError, "num_units", np.array([2, 2]), "wanted an int"),
        (TypeError, "n_updates", torch.tensor(2.5), "wanted an int"),
        (ValueError, "n_rows", -1, "wanted at least 0"),
        (ValueError, "n_updates", 2, "last_active: wanted 0 ... 2, got 3"),
        (ValueError, "n_rows", 1, "open_rows: wanted 0 ... 1, got 2"),
        (ValueError, "revived", [0, 1], "must be a tensor, got list"),
        (ValueError, "revived", torch.ones(2), "must be a tensor of torch.int64"),
        (ValueError, "revived", before["revived"][:1], r"shape \[2\], got .*\[1\]"),
        (ValueError, "open_rows", -before["open_rows"], "wanted 0 ... 3, got -2"),
        (ValueError, "revived", before["revived"] + 3, "wanted 0 ... 3, got 4"),
        (ValueError, "last_active", before["last_active"] + 1, "wanted 0 ... 3, got 4"),
    ]
    for error, name, value, message in wrong:
        with pytest.raises(error, match=rf"^state: .*{message}"):
            activity.load_state_dict({**before, name: value})
    assert str(activity.state_dict()) == str(before)
    activity.load_state_dict({**before, "window": torch.tensor(1), "n_rows": np.int64(3)})
    assert (activity.window, activity.n_rows) == (1, 3)


def test_units_lie_where_the_first_features_are() -> None:
    # Where there is no GPU, meta stands for it.
    activity = UnitActivity(3)
    activity._place(torch.device("meta"))
    for name in RESULTS:
        assert getattr(activity, name).device.type == "meta"
    with pytest.raises(ValueError, match=r"^features: on cpu, .* before were on meta; move them"):
        activity.update(torch.ones(2, 3))
    before = UnitActivity(3)
    before.update(torch.ones(2, 3))
    activity.load_state_dict(before.state_dict())
    assert activity.last_active.device.type == "meta"
    assert activity.n_updates == 1
    activity.reset()
    activity.update(torch.ones(2, 3))
    assert activity.last_active.tolist() == [1, 1, 1]


def test_is_a_sound_op(rng: np.random.Generator) -> None:
    units = [torch.zeros(70, dtype=torch.int64) for _ in range(3)]
    for features in (random_features(rng, 6, 70, torch.float32), torch.ones(3, 7, 10)):
        results = opcheck(torch.ops.tfc_fast.update_units.default, (features, *units, 3, 2))
        assert set(results.values()) == {"SUCCESS"}

"""Learning rate curves: the model zoo's own, bit for bit, and the correct ones."""

from __future__ import annotations

import numpy as np
import pytest

from src.lr_generator import LR_DECAY_MODES, get_lr

MODES = ("steps", "poly", "linear", "cosine")
DECAYING = ("poly", "linear", "cosine")

# Arguments of get_lr but the mode, by their names in reference_curves.npz.
CASES = {
    "cifar": (0, 0, 0.01, 30, 5, 0, 1562),
    "short": (0.001, 0.0005, 0.1, 7, 2, 0, 13),
    "nowarm": (0, 0.001, 0.05, 4, 0, 0, 11),
    "pretrained": (0, 0, 0.01, 10, 2, 4, 9),
}


def curve(mode, lr_init=0.0, lr_end=0.0, lr_max=1.0, epochs=20, warmup=0, pretrain=0, steps=10):
    return get_lr(lr_init, lr_end, lr_max, epochs, warmup, pretrain, steps, mode)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_reference_curves_are_the_zoos_bit_for_bit(shared, mode, case):
    expected = np.load(shared / "data" / "lr_golden" / "reference_curves.npz")[f"{mode}.{case}"]
    np.testing.assert_array_equal(get_lr(*CASES[case], f"reference_{mode}"), expected)


# From the same file: the values at the first two steps, in the middle, and at the last step.
@pytest.mark.parametrize(
    "mode, case, values",
    [
        ("steps", "cifar", (0.01, 0.01, 0.001, 1e-05)),
        ("steps", "short", (0.1, 0.1, 0.01, 0.0001)),
        ("steps", "nowarm", (0.05, 0.05, 0.005, 5e-05)),
        ("steps", "pretrained", (0.001, 0.001, 0.0001, 1e-05)),
        ("poly", "cifar", (0.0, 1.2804097e-06, 0.0036, 6.5577964e-12)),
        ("poly", "short", (0.001, 0.0048076925, 0.05008284, 2.366864e-05)),
        ("poly", "nowarm", (0.05, 0.0477531, 0.0125, 2.5826446e-05)),
        ("poly", "pretrained", (0.005625, 0.005418596, 0.00140625, 1.9290123e-06)),
        ("linear", "cifar", (0.0, 1.2804097e-06, 0.006, 2.5608193e-07)),
        ("linear", "short", (0.001, 0.0048076925, 0.070915386, 0.0020307691)),
        ("linear", "nowarm", (0.05, 0.048886362, 0.0255, 0.0021136364)),
        ("linear", "pretrained", (0.0075, 0.007361111, 0.00375, 0.00013888889)),
        ("cosine", "cifar", (0.0, 1.2804097e-06, 0.0041394373, 1.0226977e-07)),
        ("cosine", "short", (0.001, 0.0048076925, 0.058385585, 2.1951206e-05)),
        ("cosine", "nowarm", (0.0500005, 0.04880913, 0.013676854, 1.8960856e-05)),
        ("cosine", "pretrained", (0.0065237167, 0.0062990505, 0.0013661492, 1.9209856e-06)),
    ],
)
def test_reference_curves_hold_the_zoos_values(mode, case, values):
    rates = get_lr(*CASES[case], f"reference_{mode}")
    assert rates[[0, 1, len(rates) // 2, -1]].tolist() == np.array(values, np.float32).tolist()


@pytest.mark.parametrize("mode", LR_DECAY_MODES)
def test_one_float32_for_every_step_left(mode):
    rates = curve(mode, epochs=6, warmup=2, pretrain=1, steps=7)
    assert rates.dtype == np.float32
    assert rates.shape == (35,)


@pytest.mark.parametrize("mode", LR_DECAY_MODES)
def test_pretrain_epochs_cut_off_the_start(mode):
    whole = curve(mode, epochs=6, warmup=2, steps=7)
    for pretrain in range(7):
        np.testing.assert_array_equal(
            curve(mode, epochs=6, warmup=2, pretrain=pretrain, steps=7), whole[7 * pretrain :]
        )


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("mode", MODES)
def test_no_step_is_lost_to_a_rate_of_zero(mode, warmup):
    assert curve(mode, warmup=warmup).min() > 0


@pytest.mark.parametrize("mode", LR_DECAY_MODES)
def test_without_warm_up_the_first_rate_is_lr_max(mode):
    # The zoo's cosine has a hundred-thousandth more.
    assert curve(mode, lr_max=0.5)[0] == pytest.approx(0.5, rel=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_warm_up_rises_evenly_and_ends_at_lr_max(mode):
    rates = curve(mode, lr_init=0.2, lr_max=0.7, warmup=2, steps=5)
    # A tenth of the way from 0.2 to 0.7 with each of the 10 steps.
    np.testing.assert_allclose(rates[:10], np.linspace(0.25, 0.7, 10), rtol=1e-6)
    assert rates[9] == rates[10] == np.float32(0.7)


@pytest.mark.parametrize("mode", LR_DECAY_MODES)
def test_warm_up_may_fill_the_whole_run(mode):
    rates = curve(mode, epochs=3, warmup=3, steps=4)
    assert rates.shape == (12,)
    assert np.isfinite(rates).all()


@pytest.mark.parametrize("lr_end", [0.0, 0.25])
@pytest.mark.parametrize("mode", DECAYING)
def test_decay_ends_one_step_before_lr_end(mode, lr_end):
    rates = curve(mode, lr_end=lr_end, epochs=100)
    # 1,000 steps: on a line the last is a thousandth of the way short of the end; the others are closer.
    assert lr_end < rates[-1] <= lr_end + (1 - lr_end) * 1.001e-3


# At half time: poly (1/2)**2, linear 1/2, cosine (1 + cos 90 degrees) / 2; at a quarter: 9/16, 3/4, (1 + cos 45) / 2.
@pytest.mark.parametrize(
    "mode, quarter, half", [("poly", 0.5625, 0.25), ("linear", 0.75, 0.5), ("cosine", 0.853553, 0.5)]
)
def test_decay_takes_its_course_between_lr_max_and_lr_end(mode, quarter, half):
    rates = curve(mode, lr_end=0.2, lr_max=1.2, epochs=24, warmup=4)
    decay = rates[40:]
    assert decay[50] == pytest.approx(0.2 + quarter, rel=1e-6)
    assert decay[100] == pytest.approx(0.2 + half, rel=1e-6)


def test_steps_fall_by_a_tenth_at_30_60_and_80_percent_of_the_decay():
    rates = curve("steps", epochs=12, warmup=2)
    expected = np.repeat([1.0, 0.1, 0.01, 0.001], [30, 30, 20, 20])
    np.testing.assert_allclose(rates[20:], expected, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_rates_rise_in_the_warm_up_and_never_after(mode):
    rates = curve(mode, lr_end=0.01, warmup=3, steps=17)
    assert (np.diff(rates[:51]) > 0).all()
    assert (np.diff(rates[51:]) <= 0).all()
    assert mode == "steps" or (np.diff(rates[52:]) < 0).all()


@pytest.mark.parametrize("mode", ["cosin", "", "reference", "Linear"])
def test_another_mode_is_refused_with_those_there_are(mode):
    with pytest.raises(ValueError, match="lr_decay_mode") as refusal:
        curve(mode)
    assert repr(mode) in str(refusal.value)
    assert all(name in str(refusal.value) for name in LR_DECAY_MODES)


@pytest.mark.parametrize(
    "values", [{"warmup": 21}, {"warmup": -1}, {"pretrain": 21}, {"pretrain": -1}, {"steps": 0}, {"epochs": -1}]
)
def test_epochs_that_do_not_fit_together_are_refused(values):
    with pytest.raises(ValueError, match="must lie between 0 and total_epochs"):
        curve("linear", **values)

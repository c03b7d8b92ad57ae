"""The scaling model's arithmetic, against limits that one can compute by hand."""

from __future__ import annotations

import pytest

from benchmarks import scaling_model as model
from benchmarks.scaling_model import Cluster, Link, Training, halving_doubling, ring
from src.cli.errors import UserError
from src.squeezenet import SqueezeNet

FREE = Link(0.0, 1e9)  # No latency, a gigabyte a second.
SLOW_START = Link(1e-3, float("inf"))  # A millisecond a message, whatever its size.
ALGORITHMS = ("halving-doubling between hosts", "ring between hosts", "one ring")


HCCS, ROCE = Link(1e-5, 24e9), Link(2e-5, 10e9)


def cluster(within=HCCS, between=ROCE, devices=8) -> Cluster:
    return Cluster(devices, within, between)


def test_one_rank_needs_no_allreduce():
    assert ring(1e6, 1, FREE) == halving_doubling(1e6, 1, FREE) == 0
    assert all(allreduce(1e6, 1) == 0 for allreduce in cluster().algorithms().values())


@pytest.mark.parametrize("allreduce", [ring, halving_doubling])
def test_two_ranks_exchange_the_gradient_once(allreduce):
    assert allreduce(1e9, 2, FREE) == pytest.approx(1.0)
    assert allreduce(1e9, 2, SLOW_START) == pytest.approx(2e-3)


@pytest.mark.parametrize("allreduce", [ring, halving_doubling])
def test_without_latency_the_time_is_near_two_gradients_on_any_number_of_ranks(allreduce):
    assert allreduce(1e9, 1024, FREE) == pytest.approx(2 * 1023 / 1024)


def test_with_latency_alone_a_ring_costs_its_ranks_and_halving_doubling_their_logarithm():
    assert ring(1e9, 1024, SLOW_START) == pytest.approx(2 * 1023 * 1e-3)
    assert halving_doubling(1e9, 1024, SLOW_START) == pytest.approx(2 * 10 * 1e-3)


def test_ranks_beyond_a_power_of_two_cost_two_more_messages_of_the_whole_gradient():
    extra = halving_doubling(1e9, 9, FREE) - halving_doubling(1e9, 8, FREE)
    assert extra == pytest.approx(2.0)


def test_within_one_host_all_algorithms_are_the_ring():
    for allreduce in cluster().algorithms().values():
        assert allreduce(5e6, 8) == pytest.approx(ring(5e6, 8, cluster().within))


def test_between_hosts_each_npu_sends_its_shard_alone():
    free_within = cluster(within=Link(0.0, float("inf")), between=FREE)
    # Two hosts of eight: an eighth of the gradient crosses, both ways at once.
    assert free_within.hierarchical(8e9, 16, ring) == pytest.approx(1.0)


def test_the_slowest_link_sets_the_pace_of_one_ring():
    assert cluster(between=SLOW_START).flat_ring(1e6, 16) == pytest.approx(2 * 15 * 1e-3)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_more_npus_and_more_bytes_never_make_the_allreduce_faster(name):
    allreduce = cluster().algorithms()[name]
    over_npus = [allreduce(5e6, 8 * 2**k) for k in range(10)]
    over_bytes = [allreduce(size, 64) for size in (1e3, 1e6, 5e6, 1e8)]
    assert over_npus == sorted(over_npus) and over_bytes == sorted(over_bytes)


def test_overlap_hides_the_allreduce_up_to_its_share_of_compute():
    training = Training(compute=0.010, overlap=0.5, gradient=5e6)
    assert training.step(0.004) == 0.010
    assert training.step(0.007) == pytest.approx(0.012)
    assert training.efficiency(0.007) == pytest.approx(10 / 12)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("allreduce", [0.0, 0.001, 0.015])
def test_compute_is_what_gives_the_measured_step_again(overlap, allreduce):
    compute = model.compute_seconds(0.020, allreduce, overlap)
    assert Training(compute, overlap, 5e6).step(allreduce) == pytest.approx(0.020)


def test_the_knee_is_where_a_ring_s_latency_has_eaten_the_share():
    # 14 ms of compute and 2 (n - 1) messages of 1 ms: on 8 NPUs exactly half is left, and on the next host's less.
    ringed = cluster(within=SLOW_START, between=SLOW_START, devices=4)
    training = Training(compute=0.014, overlap=0.0, gradient=5e6)
    assert training.efficiency(ringed.flat_ring(5e6, 8)) == pytest.approx(0.5)
    assert model.knee(training, ringed, ringed.flat_ring, least=0.499) == 12
    assert model.knee(training, ringed, lambda size, npus: 0.0, least=0.9) is None


def test_fewer_images_save_all_but_the_fixed_share():
    assert model.compute_at(0.020, images=8, of_images=32, fixed_share=0.0) == pytest.approx(0.005)
    assert model.compute_at(0.020, images=8, of_images=32, fixed_share=1.0) == pytest.approx(0.020)
    assert model.compute_at(0.020, images=32, of_images=32, fixed_share=0.3) == pytest.approx(0.020)


def test_parameters_come_from_the_network_itself():
    counted = {net.name: net.parameters for net in model.nets(image_size=64)}
    net = SqueezeNet(num_classes=10, bypass="complex")
    assert counted["v1.0, complex bypass, 10 classes"] == sum(p.size for p in net.trainable_params())
    assert counted["v1.0, 1000 classes"] == 1_248_424  # torchvision's squeezenet1_0.


def test_the_published_step_is_predicted_on_the_devices_it_was_measured_on():
    for workload in model.WORKLOADS:
        o = model.options(["--workload", workload])
        s = model.scenario(o, 1_000_000)
        step = s.training.step(s.allreduce(s.training.gradient, o.step_devices))
        assert 1000 * step == pytest.approx(o.step_ms)


def test_options_take_precedence_over_the_workload():
    o = model.options(["--workload", "zoo_cifar10", "--step_ms", "5"])
    assert (o.step_ms, o.step_devices, o.images) == (5.0, 1, 50_000)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--workload imagnet", "--workload"),
        ("--npus 12", "--npus"),
        ("--npus 0", "--npus"),
        ("--npus 80000", "--npus"),
        ("--overlap 1.5", "--overlap"),
        ("--overlap nan", "--overlap"),
        ("--hccs_us -1", "--hccs_us"),
        ("--roce_gbit 0", "--roce_gbit"),
        ("--roce_gbit inf", "--roce_gbit"),
        ("--step_devices 16", "--step_devices"),
        ("--links 3", "--links"),
    ],
)
def test_an_impossible_option_is_named(words, named):
    with pytest.raises(UserError, match=named):
        model.options(words.split())


def test_a_step_shorter_than_its_allreduce_is_refused():
    with pytest.raises(UserError, match="--step_ms"):
        model.scenario(model.options(["--step_ms", "0.1"]), 1_000_000)


def test_a_mistake_is_one_line_and_exit_code_2(script):
    done = script("benchmarks/scaling_model.py", "--npus", "12")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: --npus: 12")


def test_it_prints_a_row_for_each_number_of_npus_and_calls_itself_a_prediction(script):
    done = script("benchmarks/scaling_model.py", "--parameters", "1000000", "--npus", "8", "64")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| 8 |", "| 64 |"))]
    assert len(rows) >= 4 and "Prediction" in done.stdout


def test_half_the_bits_are_half_the_bytes():
    full, half = (model.scenario(model.options(["--gradient_bits", bits]), 1_000_000) for bits in ("32", "16"))
    assert (full.training.gradient, half.training.gradient) == (4e6, 2e6)

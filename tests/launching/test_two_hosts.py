"""Two hosts, simulated: two network namespaces with a cable between them, a launcher in each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.launching.jobs import ALLREDUCE, JOINED, SHORT, SLEEP, STATED_SECONDS, Launcher, note

ADDRESSES = ("10.231.7.1", "10.231.7.2")
POWER_LOSS_SECONDS = 30  # As launch.END_TIMES states.


@pytest.fixture
def hosts():
    """The names of two namespaces, whose addresses are ADDRESSES."""
    if shutil.which("ip") is None:
        pytest.skip("no ip: network namespaces need iproute2")
    names = [f"squeezenet{os.getpid()}{end}" for end in "ab"]
    cables = [f"sq{os.getpid()}{end}" for end in "ab"]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add {cables[0]} netns {names[0]} type veth peer name {cables[1]} netns {names[1]}",
    ]
    for name, cable, address in zip(names, cables, ADDRESSES):
        commands += [f"ip -n {name} addr add {address}/24 dev {cable}"]
        commands += [f"ip -n {name} link set {device} up" for device in ("lo", cable)]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"network namespaces are not allowed here: {command}: {done.stderr.strip()}")
        unplug = f"ip -n {names[0]} link set {cables[0]} down"
        yield SimpleNamespace(names=names, unplug=lambda: subprocess.run(unplug.split(), check=True))
    finally:
        for name in names:  # The cable goes with them.
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def start(hosts, tmp_path):
    """The function that starts the launcher of a node in its namespace, in a folder of its own."""
    started = []

    def on_node(node: int, environment: dict, program: str | None, *options) -> Launcher:
        folder = tmp_path / f"node{node}"
        folder.mkdir(exist_ok=True)
        where = ["--nnodes", 2, "--node_rank", node, "--master_addr", ADDRESSES[0]]
        under = ["ip", "netns", "exec", hosts.names[node]]
        started.append(Launcher(folder, environment, program, *where, *options, under=under))
        return started[-1]

    yield on_node
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.kill()
            launcher.process.communicate()


def both(start, environment, program, *options) -> list[Launcher]:
    return [start(node, environment, program, *options) for node in (0, 1)]


def test_a_worker_that_dies_on_one_host_ends_the_job_on_both(start, environment):
    program = SLEEP.replace(
        "time.sleep(300)", f"if rank == 3:\n    {note('died')}    os.kill(os.getpid(), 9)\ntime.sleep(300)"
    )
    jobs = both(start, environment, program)
    died = jobs[1].wait_for("died")
    for job in jobs:
        job.end()
        assert job.status == 1
        assert job.err.splitlines()[-1].startswith("error: rank 3 on node 1 was killed by SIGKILL")
        assert job.ended - died < STATED_SECONDS
        assert job.left() == []
    assert "worker_3.log" in jobs[1].out and "worker_3.log" not in jobs[0].out


def test_an_interruption_on_one_host_reaches_the_workers_of_both(start, environment):
    jobs = both(start, environment, SLEEP.replace("'1'", "str(time.time())"))
    jobs[0].wait_for("started_1")
    jobs[1].wait_for("started_3")
    for job in jobs:
        job.wait_until_said(JOINED)
    jobs[1].process.send_signal(signal.SIGINT)
    for job in jobs:
        job.end()
        assert job.status == 130, job.err
        assert job.err.splitlines()[-1].startswith("interrupted")
        assert job.left() == []


@pytest.mark.parametrize(
    "absent, said", [(0, "node 0 did not answer at 10.231.7.1:20119"), (1, "node 1 did not start")]
)
def test_a_missing_host_ends_the_job(absent, said, start, environment):
    job = start(1 - absent, environment, SLEEP, "--join_timeout", 3).end()
    assert job.status == 1
    assert f"error: {said}" in job.err
    assert job.left() == []


def test_a_launcher_that_is_killed_ends_the_job_on_the_other_host(start, environment):
    jobs = both(start, environment, SLEEP.replace("'1'", "str(time.time())"))
    jobs[0].wait_for("started_0")
    jobs[1].wait_for("started_2")
    for job in jobs:
        job.wait_until_said(JOINED)
    jobs[1].process.kill()
    killed = time.time()
    jobs[0].end()
    assert jobs[0].status == 1
    assert "error: the launcher of node 1 has gone" in jobs[0].err
    assert jobs[0].ended - killed < STATED_SECONDS


def test_a_host_whose_workers_have_finished_waits_for_how_the_others_end(start, environment):
    jobs = both(
        start, environment, SLEEP.replace("time.sleep(300)", "time.sleep(3 if rank == 0 else 0)\nsys.exit(rank == 0)")
    )
    for job in jobs:
        job.end()
        assert job.status == 1
        assert "error: rank 0 on node 0 ended with exit status 1" in job.err


@pytest.mark.parametrize("port", [20118, 20119])
def test_a_busy_port_of_host_0_is_refused(port, start, hosts, environment):
    serve = f"import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(60)"
    command = ["ip", "netns", "exec", hosts.names[0], sys.executable, "-c", serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        server.stdout.readline()
        job = start(0, environment, None).end()
        server.kill()
    assert job.status == 2
    assert job.err.startswith(f"error: --master_port: port {port} of 10.231.7.1 cannot be used: Address already in use")


def test_hosts_with_different_numbers_of_devices_do_not_train(start, environment):
    jobs = [start(node, environment, SLEEP, "--devices", node + 1) for node in (0, 1)]
    for job in jobs:
        job.end()
        assert job.status == 2
        assert "error: node 1 has 2 devices and node 0 has 1; give every node the same number" in job.err


@pytest.mark.slow
def test_a_host_that_is_cut_off_ends_the_job_on_both_sides(start, hosts, environment):
    jobs = both(start, environment, SLEEP.replace("'1'", "str(time.time())"))
    jobs[0].wait_for("started_0")
    jobs[1].wait_for("started_2")
    for job in jobs:
        job.wait_until_said(JOINED)
    hosts.unplug()
    cut = time.time()
    for job, other in zip(jobs, (1, 0)):
        job.end()
        assert job.status == 1
        assert f"error: the launcher of node {other} has gone, or its host" in job.err
        assert job.ended - cut < POWER_LOSS_SECONDS
        assert job.left() == []


@pytest.mark.slow
def test_real_workers_of_two_hosts_add_up(start, real):
    jobs = both(start, {**real, "STEPS": "6"}, ALLREDUCE, "--devices", "1")
    assert [job.end().status for job in jobs] == [0, 0]
    assert jobs[0].out.splitlines()[-3:] == ["step 0 3.0", "step 1 3.0", "step 2 3.0"]


@pytest.mark.slow
def test_a_real_worker_that_is_killed_ends_the_job_on_both_hosts(start, real):
    jobs = both(start, {**real, "KILLED": "1"}, ALLREDUCE, "--devices", "1")
    died = jobs[1].wait_for("died", 120)
    for job in jobs:
        job.end()
        assert job.status == 1
        assert job.err.splitlines()[-1].startswith("error: rank 1 on node 1 was killed by SIGKILL")
        assert job.ended - died < STATED_SECONDS
        assert job.left() == []


@pytest.mark.slow
def test_a_training_on_two_hosts_gives_the_weights_of_one_host(start, real, tmp_path):
    import mindspore as ms

    flags = [*SHORT, "--epochs", "2", "--output_path", "run"]
    jobs = both(start, real, None, *flags, "--devices", "1")
    assert [job.end(300).status for job in jobs] == [0, 0], jobs[0].err
    one = Launcher(tmp_path, real, None, *flags, "--devices", "2").end(300)
    assert one.status == 0, one.err
    assert not (tmp_path / "node1" / "run").exists()  # Rank 0 alone writes.
    results = [json.loads((folder / "run" / "result.json").read_text()) for folder in (tmp_path, tmp_path / "node0")]
    assert results[0]["test"] == results[1]["test"] and results[0]["devices"] == results[1]["devices"] == 2
    nets = [ms.load_checkpoint(str(folder / "run" / "squeezenet.ckpt")) for folder in (tmp_path, tmp_path / "node0")]
    assert nets[0].keys() == nets[1].keys()
    for name in nets[0]:
        np.testing.assert_allclose(nets[0][name].asnumpy(), nets[1][name].asnumpy(), atol=1e-6, err_msg=name)

"""What the launcher starts: workers with their ranks, devices, cores and arguments."""

from __future__ import annotations

import json
import os
import re

import pytest

from src.launching.cluster import Cluster
from src.launching.workers import SCHEDULER
from src.launching.workers import environment as variables_of
from tests.launching.jobs import Launcher, msrun


@pytest.mark.parametrize(
    "options, size, ranks",
    [
        (["--devices", "1"], 1, range(1)),
        ([], 8, range(8)),
        (["--nnodes", "2", "--node_rank", "1", "--master_addr", "192.0.2.1"], 16, range(8, 16)),
    ],
    ids=["1", "8", "2x8"],
)
def test_every_npu_has_a_worker_with_its_rank_and_device(options, size, ranks, address, environment, tmp_path):
    program = "import json, os, sys\njson.dump([sys.argv, os.getcwd(), dict(os.environ)], sys.stdout)\n"
    for name in ("RANK_TABLE_FILE", "MS_NODE_ID", "DEVICE_ID"):
        environment[name] = "of the user's shell"
    options = [*options, "--join_timeout", "2", "--master_port", str(address[1])]
    done = Launcher(tmp_path, environment, program, *options, "--lr_max", "0.1", "--overwrite", device="ascend").end()
    (folder,) = (tmp_path / "logs").iterdir()
    assert re.findall(r"^log of rank (\d+): (.*)$", done.out, re.MULTILINE) == [
        (str(rank), f"logs/{folder.name}/worker_{rank}.log") for rank in ranks
    ]
    several = ranks.start > 0
    assert done.status == (1 if several else 0), done.err
    flags = ["--device_target", "Ascend", "--strict_device", "--lr_max", "0.1", "--overwrite"]
    for role in [*([] if several else [SCHEDULER]), *ranks]:
        log = folder / ("scheduler.log" if role == SCHEDULER else f"worker_{role}.log")
        if several and not log.read_text():
            continue  # Host 0 is not there, and this worker was stopped before it had started.
        arguments, where, variables = json.loads(log.read_text())
        assert arguments == [str(tmp_path / "program.py"), *flags]
        assert where == str(tmp_path)
        expected = {
            "MS_ROLE": "MS_SCHED" if role == SCHEDULER else "MS_WORKER",
            "MS_WORKER_NUM": str(size),
            "MS_SCHED_HOST": "192.0.2.1" if several else "127.0.0.1",
            "MS_SCHED_PORT": str(address[1]),
            "MS_NODE_ID": None if role == SCHEDULER else str(role),
            "MS_TOPO_TIMEOUT": "62",
            "RANK_ID": "0" if role == SCHEDULER else str(role),
            "RANK_SIZE": str(size),
            "DEVICE_ID": None if role == SCHEDULER else str(role - ranks.start),
            "RANK_TABLE_FILE": None,
        }
        assert {name: variables.get(name) for name in expected} == expected
    assert done.left() == []


def test_workers_have_the_variables_that_msrun_gives_them(address, real, tmp_path):
    program = "import json, os, sys\njson.dump(dict(os.environ), sys.stdout)\n"
    (tmp_path / "program.py").write_text(program)
    done = msrun(tmp_path, real, address[1], "--cluster_time_out=180", tmp_path / "program.py")
    assert done.returncode == 0, done.stderr
    plan = Cluster(1, 0, 2, *address)
    for role, name in ((SCHEDULER, "scheduler"), (0, "worker_0"), (1, "worker_1")):
        by_msrun = json.loads((tmp_path / "logs" / f"{name}.log").read_text())
        ours = variables_of(plan, role, 120)
        names = [name for name in (*by_msrun, *ours) if re.match("MS_|RANK_|DEVICE_|OMP_", name)]
        assert len(names) > 10
        assert {name: ours.get(name) for name in names} == {name: by_msrun.get(name) for name in names}


def test_what_is_meant_for_train_py_goes_on_to_it_and_ckpt_path_as_pretrained(environment, tmp_path):
    flags = ["--config", "a b.yaml", "--ckpt_path", "c.ckpt", "--data_path=./d", "--log_dir", "here"]
    done = Launcher(tmp_path, environment, "import sys\nprint(sys.argv[1:])\n", *flags, "--epochs", "3").end()
    assert done.status == 0, done.err
    (log,) = tmp_path.glob("here/*/worker_1.log")
    expected = ["--config", "a b.yaml", "--data_path=./d", "--epochs", "3", "--pretrained", "c.ckpt"]
    assert log.read_text() == f"{['--device_target', 'CPU', '--strict_device', *expected]}\n"


CORES = sorted(os.sched_getaffinity(0))
HALF = len(CORES) // 2


@pytest.mark.skipif(HALF == 0, reason="a single core")
@pytest.mark.parametrize(
    "option, cores",
    [
        ([], [CORES, CORES]),
        (["--bind_core"], [CORES[:HALF], CORES[HALF : 2 * HALF]]),
        (
            ["--bind_core", f'{{"device0": ["{CORES[-1]}"], "device1": ["{CORES[0]}-{CORES[0]}"]}}'],
            [CORES[-1:], CORES[:1]],
        ),
    ],
    ids=["not bound", "equal parts", "as listed"],
)
def test_workers_are_bound_to_cores_on_request(option, cores, environment, tmp_path):
    program = "import os\nprint(sorted(os.sched_getaffinity(0)))\n"
    done = Launcher(tmp_path, environment, program, *option).end()
    assert done.status == 0, done.err
    logs = [next(tmp_path.glob(f"logs/*/worker_{rank}.log")) for rank in range(2)]
    assert [log.read_text() for log in logs] == [f"{part}\n" for part in cores]

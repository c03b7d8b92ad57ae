"""The launcher of distributed trainings: with small programs for workers, and with MindSpore's."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Callable

import psutil
import pytest

from src.cli.errors import UserError
from src.launching import cluster, launch
from src.launching.cluster import Cluster
from src.launching.nodes import Ending, Nodes
from src.launching.watch import Times, Watch
from src.launching.workers import SCHEDULER
from src.launching.workers import environment as variables_of
from tests.programs import ROOT

NPU_SMI = """\
	NPU ID                         Chip ID                        Chip Logic ID                  Chip Name
{rows}
"""
NPU_ROW = """\
	{0}                              0                              {0}                              Ascend 910B3
	{0}                              1                              -                              Mcu"""
# The head of every program that a test gives the launcher to run: `rank`, and the scheduler does nothing.
HEAD = """
import os, signal, socket, subprocess, sys, time
if os.environ["MS_ROLE"] == "MS_SCHED":
    server = socket.create_server((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
    time.sleep(600)
rank = int(os.environ["RANK_ID"])
def join():
    while True:
        try:
            return socket.create_connection((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
        except OSError:
            time.sleep(0.05)
"""
# The default run has the same case with small programs: MindSpore takes ten seconds to start, and to train a minute.
SLOW = pytest.mark.slow
STATED_SECONDS = 15  # From a worker's death to the launcher's end (launch.END_TIMES).


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """A folder for PATH with a stand-in for npu-smi that shows eight NPUs."""
    folder = tmp_path / "stand-ins"
    rows = "\n".join(NPU_ROW.format(i) for i in range(8))
    executable(
        folder / "npu-smi", f"#!/bin/sh\n[ \"$*\" = 'info -m' ] && cat <<'END'\n{NPU_SMI.format(rows=rows)}END\n"
    )
    return folder


@pytest.fixture
def real() -> dict:
    """The environment for workers that run MindSpore."""
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def environment(stand_ins) -> dict:
    """The environment in which the launcher finds the stand-ins, and workers the project."""
    hidden = {*cluster.VISIBLE.values(), "PYTHONUNBUFFERED"}
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture
def address() -> tuple[str, int]:
    """An address with a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


class Launcher:
    """A launcher at work, in a folder, on a program, that waits for nobody longer than a test needs."""

    def __init__(self, folder: Path, environment: dict, program: str | None, *options, device: str = "cpu", under=()):
        self.folder = folder
        if program is not None:
            (folder / "program.py").write_text(program)
            options = ("--program", folder / "program.py", "--settle_time", 0.5, "--stop_time", 0.5, *options)
        script = ROOT / "scripts" / f"run_distribute_train_{device}.sh"
        with open(folder / "launcher.out", "w") as out, open(folder / "launcher.err", "w") as err:
            self.process = subprocess.Popen(
                [*under, "bash", str(script), *map(str, options)],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return (self.folder / "launcher.out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "launcher.err").read_text()

    def end(self, seconds: float = 180) -> Launcher:
        """Wait for its end; sets status and the time of the end."""
        try:
            self.status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.ended = time.time()
        return self

    def wait_for(self, name: str, seconds: float = 120) -> float:
        """Wait for a file that a worker makes; return the time that is in it."""
        path = self.folder / name
        self._wait_until(lambda: path.exists() and path.read_text(), f"no {name}", seconds)
        return float(path.read_text())

    def wait_until_said(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed a text."""
        self._wait_until(lambda: text in self.out, f"{text!r} was not said", seconds)

    def _wait_until(self, happened: Callable[[], object], otherwise: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(f"{otherwise}: {self.out}\n{self.err}")
            time.sleep(0.05)

    def left(self) -> list[list[str]]:
        """Return the command lines of the program's processes that still live."""
        commands = map(self._command, psutil.process_iter())
        return [words for words in commands if any(str(self.folder / "program.py") in word for word in words)]

    @staticmethod
    def _command(process: psutil.Process) -> list[str]:
        """Return the command line of a process, or [] if it has ended, as it may at any moment."""
        try:
            return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
        except psutil.Error:
            return []


def note(name: str) -> str:
    """Return a line of Python that leaves a file with the time in it."""
    return f"open({name!r} + '.new', 'w').write(str(time.time())); os.rename({name!r} + '.new', {name!r})\n"


SLEEP = HEAD + "connection = join()\n" + "open(f'started_{rank}', 'w').write('1')\ntime.sleep(300)\n"


JOINED = "all workers have joined"


# What is started


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


def msrun(folder: Path, environment: dict, port: int, *arguments) -> subprocess.CompletedProcess:
    """Run MindSpore's msrun with two workers, as typed by hand."""
    options = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--log_dir=logs", "--join=True"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # It runs whatever PATH has as `python`.
    return subprocess.run(
        [sys.executable, "-m", "mindspore.parallel.cluster.run", *options, *map(str, arguments)],
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
    )


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


# What is checked before anything starts


@pytest.fixture
def mistake(monkeypatch, tmp_path, stand_ins):
    """The function that gives the launcher options, in this process, and returns what it says of them."""
    for name in cluster.VISIBLE.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(stand_ins), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    def said(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["launch", *options])
        with pytest.raises(UserError) as error:
            launch.main()
        assert not (tmp_path / "logs").exists()
        return str(error.value)

    return said


ASCEND = ["--device_target", "Ascend"]
TWO = ["--nnodes", "2"]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--devices", "0"], "--devices: 0 is not allowed"),
        (["--devices", "two"], "argument --devices: invalid int value: 'two'"),
        ([*ASCEND, "--devices", "9"], "--devices: 9 a host is more than the 8 that npu-smi info -m shows"),
        (["--total_devices", "9", *TWO], "--total_devices: 9 cannot be divided among 2 hosts"),
        (["--total_devices", "8", "--devices", "8"], "--total_devices: cannot be combined with --devices"),
        (["--nnodes", "0"], "--nnodes: 0 is not allowed"),
        ([*TWO, "--node_rank", "2"], "--node_rank: 2 is not allowed with --nnodes 2"),
        (["--node_rank", "-1"], "--node_rank: -1 is not allowed"),
        (TWO, "--master_addr: needed with --nnodes 2"),
        ([*TWO, "--master_addr", "localhost"], "--master_addr: localhost is 127.0.0.1, which other hosts cannot reach"),
        (["--master_addr", "192.0.2.1"], "--master_addr: 192.0.2.1 is not an address of this host"),
        (["--master_addr", "no.such.host.invalid"], "--master_addr: no.such.host.invalid: "),
        (["--master_port", "80"], "--master_port: 80 is not allowed; choose one of 1024 to 65535"),
        (["--join_timeout", "0"], "--join_timeout: 0 is not allowed"),
        (["--device_id", "3", *ASCEND], "--device_id: each worker takes the device of its own rank; choose devices"),
        (["--ckpt_path", "a", "--pretrained", "b"], "--ckpt_path: the same as --pretrained"),
        (["--lr_decay_mode", "cosin"], "lr_decay_mode: 'cosin' is not allowed"),
        (["--bind_core", "yes"], "--bind_core: yes is not allowed; give each of 2 workers some of the cores ["),
        (["--bind_core", '{"device0": ["0"]}'], '--bind_core: {"device0": ["0"]} is not allowed'),
        (["--bind_core", '{"device0": ["0"], "device1": ["99999"]}'], "--bind_core: {"),
        (["--bind_core", '{"device0": ["0"], "device1": [0]}'], "--bind_core: {"),
        (["--log_dir", "/dev/null/logs"], "--log_dir: /dev/null/logs/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_impossible_launch_is_refused_before_anything_starts(options, said, mistake):
    assert mistake(*options).startswith(said)


def test_a_busy_port_is_refused(mistake):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = mistake("--master_port", str(port))
    assert said == f"--master_port: port {port} of 127.0.0.1 cannot be used: Address already in use; choose another one"


@pytest.mark.parametrize("target, kind", [("Ascend", "NPU"), ("GPU", "GPU")])
def test_no_device_is_one_line(target, kind, mistake, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mistake("--device_target", target).startswith(f"no {kind} found: ")


def test_a_refusal_is_one_line_and_status_2_from_the_script_too(environment, tmp_path):
    done = Launcher(tmp_path, environment, None, "--devices", "0").end()
    assert (done.status, done.out) == (2, "")
    assert done.err == "error: --devices: 0 is not allowed; a host takes part with 1 device or more\n"


@pytest.mark.parametrize(
    "value, count", [("0,1,2", 3), ("4, 5", 2), ("0,-1,2", 1), ("GPU-8f3a,GPU-77b1", 2)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("target", ["Ascend", "GPU"])
def test_the_environment_says_how_many_devices_are_visible(target, value, count, monkeypatch):
    monkeypatch.setenv(cluster.VISIBLE[target], value)
    assert cluster.visible_devices(target) == (count, cluster.VISIBLE[target])


def test_hidden_devices_are_a_mistake(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="hides every device"):
        cluster.visible_devices("GPU")


@pytest.mark.parametrize(
    "target, tool, output, count",
    [
        ("GPU", "nvidia-smi", "GPU 0: NVIDIA A100 (UUID: GPU-1)\nGPU 1: NVIDIA A100 (UUID: GPU-2)\n", 2),
        # Two chips a card, with the newer column of physical ids; the second card is broken.
        (
            "Ascend",
            "npu-smi",
            "\tNPU ID    Chip ID    Chip Logic ID    Chip Phy-ID    Chip Name\n"
            "\t0    0    0    0    Ascend910\n\t0    1    1    1    Ascend910\n\t0    2    -    -    Mcu\n"
            "\t-1    0    2    2    Ascend910\n",
            2,
        ),
    ],
)
def test_the_vendors_tools_are_understood(target, tool, output, count, monkeypatch, tmp_path):
    executable(tmp_path / tool, f"#!/bin/sh\ncat <<'END'\n{output}END\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv(cluster.VISIBLE[target], raising=False)
    assert cluster.visible_devices(target)[0] == count


def test_every_launch_has_a_new_log_folder(tmp_path):
    folders = [launch.make_log_folder(tmp_path, Cluster(1, 0, 2, "127.0.0.1", 2000)) for _ in range(3)]
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)


# A job's course and its end, with small programs for workers


def test_progress_of_rank_0_is_seen_while_it_works_without_mindspores_noise(environment, tmp_path):
    noise = "[WARNING] DISTRIBUTED(2,7f,python):2026-1-1 [mindspore/ccsrc/cluster/x.cc:58] Initialize] Begin"
    program = HEAD + f"connection = join()\nprint({noise!r})\nprint('epoch 1 of rank', rank)\ntime.sleep(300)\n"
    job = Launcher(tmp_path, environment, program)
    job.wait_until_said("epoch 1 of rank 0\n")
    job.process.send_signal(signal.SIGTERM)
    job.end()
    assert noise not in job.out and "epoch 1 of rank 1" not in job.out


def test_a_worker_that_raises_ends_the_job_and_is_named(environment, tmp_path):
    # It has a child of its own, which outlives it.
    program = SLEEP.replace(
        "time.sleep(300)",
        "if rank == 1:\n"
        "    child = [sys.executable, '-c', 'import time; time.sleep(300)', __file__]\n"
        "    subprocess.Popen(child, start_new_session=True)\n"
        f"    {note('died').rstrip()}\n"
        "    raise ValueError('no such layer')\n"
        "time.sleep(300)",
    )
    job = Launcher(tmp_path, environment, program, "--devices", "3").end()
    assert job.status == 1
    assert job.err.splitlines()[-1] == "error: rank 1 ended with exit status 1; the other workers were stopped"
    assert "worker_1.log:\n" in job.err and "ValueError: no such layer" in job.err
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


def test_a_killed_worker_ends_the_job_and_is_named_even_when_the_others_do_not_listen(environment, tmp_path):
    program = SLEEP.replace("time.sleep(300)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(300)")
    program = program.replace(
        "= join()\n", f"= join()\nif rank == 0:\n    {note('died')}    os.kill(os.getpid(), 9)\n", 1
    )
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 1
    assert job.err.splitlines()[-1].startswith("error: rank 0 was killed by SIGKILL")
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


def test_a_mistake_of_the_users_is_said_once_and_is_no_crash(environment, tmp_path):
    program = (
        HEAD + "time.sleep(0.2 * rank)\nprint('error: image_size: 3 is too small', file=sys.stderr)\nsys.exit(2)\n"
    )
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 2
    assert job.err == "error: image_size: 3 is too small\n"
    assert "error" not in job.out
    (log,) = tmp_path.glob("logs/*/worker_1.log")
    assert "error: image_size" in log.read_text()  # It was left to end by itself.


class Ended:
    """Workers that have ended, each with a status."""

    def __init__(self, folder: Path, statuses: dict):
        self._folder = folder
        self.roles, self.ranks, self._statuses = (
            list(statuses),
            [role for role in statuses if role != SCHEDULER],
            statuses,
        )

    def status(self, role):
        return self._statuses[role]

    def running(self) -> list:
        return [rank for rank in self.ranks if self._statuses[rank] is None]

    def log(self, role) -> Path:
        path = self._folder / f"{role}.log"
        path.touch()
        return path


@pytest.mark.parametrize(
    "statuses, named",
    [
        ({0: 1, 1: -9}, "rank 1 was killed by SIGKILL"),
        ({SCHEDULER: -9, 0: 1, 1: None}, "rank 0 ended with exit status 1"),
        ({SCHEDULER: 1, 0: None, 1: None}, "the scheduler ended with exit status 1"),
        ({SCHEDULER: 1, 0: 0, 1: 0}, None),
    ],
)
def test_of_several_that_failed_at_once_the_cause_is_named(statuses, named, tmp_path):
    plan = Cluster(1, 0, 2, "127.0.0.1", 2000)
    ending = Watch(plan, Ended(tmp_path, statuses), Nodes(plan), Times(1, 1))._of_process()
    assert ending.message.startswith(named) if named else ending is None


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_lets_its_workers_finish(number, status, environment, tmp_path):
    program = HEAD + textwrap.dedent(
        f"""
        from src.cli.errors import run
        connection = join()
        def main():
            try:
                {note("started").rstrip()}
                time.sleep(300)
            finally:
                time.sleep(0.5)
                open(f"saved_{{rank}}", "w").close()
        run(main)
        """
    )
    job = Launcher(tmp_path, environment, program)
    job.wait_for("started")
    job.wait_until_said(JOINED)
    os.killpg(job.process.pid, number)  # As a terminal does.
    job.end()
    assert job.status == status, job.err
    (log,) = tmp_path.glob("logs/*/scheduler.log")
    assert "KeyboardInterrupt" not in log.read_text()  # The workers need it to the end.
    assert (tmp_path / "saved_0").exists() and (tmp_path / "saved_1").exists()
    assert job.err.splitlines()[-1] == "interrupted"
    assert job.left() == []


def test_a_second_signal_stops_the_workers_at_once(environment, tmp_path):
    program = SLEEP.replace("time.sleep(300)", "signal.signal(signal.SIGINT, lambda *_: None)\n" + "time.sleep(300)\n")
    program = program.replace("'1'", "str(time.time())")
    job = Launcher(tmp_path, environment, program)
    job.wait_for("started_0")
    job.wait_for("started_1")
    job.wait_until_said(JOINED)
    job.process.send_signal(signal.SIGINT)
    job._wait_until(lambda: "again to stop them at once" in job.err, "no word of the interruption", 60)
    interrupted = time.time()
    job.process.send_signal(signal.SIGINT)
    job.end()
    assert job.status == 130
    assert job.ended - interrupted < 15  # Of the grace time's 60.
    assert "rank 0 had not ended and was killed" in job.err
    assert job.left() == []


def test_a_second_signal_counts_as_soon_as_the_message_asks_for_it(tmp_path):
    plan, workers = Cluster(1, 0, 2, "127.0.0.1", 2000), Ended(tmp_path, {0: None, 1: None})
    watch, looks = Watch(plan, workers, Nodes(plan), Times(1, 1, stop=1)), []
    workers.signal = lambda number: watch._signals.append(signal.SIGINT)  # Between the message and the wait.
    workers.running = lambda: looks.append(0) or [0, 1]
    watch._signals.append(signal.SIGINT)
    assert "rank 0 had not ended and was killed" in watch._of_signal().message
    assert len(looks) == 2  # Before the wait, and for the message.


def test_workers_that_end_in_order_on_a_signal_of_their_own_are_no_crash(environment, tmp_path):
    program = SLEEP.replace("time.sleep(300)", "sys.exit(143) if rank else time.sleep(300)")
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 143
    assert job.err.splitlines()[-1].startswith("interrupted: rank 1 ended with exit status 143")


def test_a_worker_that_never_joins_ends_the_job(environment, tmp_path):
    program = SLEEP.replace("connection = join()\n", "if rank == 0: connection = join()\n")
    started = time.time()
    job = Launcher(tmp_path, environment, program, "--join_timeout", "3").end()
    assert job.status == 1
    assert re.search(r"^error: rank 1 did not reach the scheduler at 127.0.0.1:\d+ within 3 s", job.err, re.MULTILINE)
    assert job.ended - started < 3 + STATED_SECONDS
    assert job.left() == []


def test_a_dead_scheduler_ends_the_job(environment, tmp_path):
    job = Launcher(tmp_path, environment, SLEEP.replace("time.sleep(600)", "time.sleep(1)\n    sys.exit(7)")).end()
    assert job.status == 1
    assert "error: the scheduler ended with exit status 7" in job.err
    assert job.left() == []


def left_in_time(job: Launcher) -> list:
    """Return the job's processes that have not ended within a minute."""
    deadline = time.monotonic() + 60
    while job.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    return job.left()


def test_nothing_is_left_behind_a_launcher_that_is_killed_itself(environment, tmp_path):
    # Each worker has a child of its own, in a session of its own.
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', __file__], start_new_session=True)"
    job = Launcher(tmp_path, environment, SLEEP.replace("open(f'started", f"{child}\nopen(f'started"))
    job.wait_for("started_0")
    job.wait_for("started_1")
    assert len(job.left()) >= 5  # Of the launcher, the scheduler, two workers and their children.
    job.process.kill()
    job.end()
    assert left_in_time(job) == []


# The launchers of a cluster among themselves


def node(number: int, address: tuple[str, int], nodes: int = 2, devices: int = 8) -> Nodes:
    """Return the connections of a node, the launchers' port being the one above the scheduler's."""
    return Nodes(Cluster(nodes, number, devices, address[0], address[1] - 1))


@pytest.fixture
def pair(address):
    """The connections of two nodes with eight devices each."""
    master, member = node(0, address), node(1, address)
    assert (master.missing(), member.missing()) == ([1], [0])
    poll(member, master)
    assert (master.missing(), member.missing()) == ([], [])
    yield master, member
    master.close()
    member.close()


def poll(*ends: Nodes) -> list[list[Ending]]:
    """Let the ends hear each other; return what each has heard."""
    heard = [[] for _ in ends]
    for _ in range(20):
        for one, end in zip(heard, ends):
            one += end.poll()
        time.sleep(0.01)
    return heard


@pytest.mark.parametrize("ending", [Ending(1, "rank 9 on node 1 was killed by SIGKILL"), Ending(130)])
def test_a_node_hears_how_the_job_ends_on_another(ending, pair):
    master, member = pair
    member.tell(ending)
    assert poll(master, member) == [[ending], []]
    master.tell(ending)
    assert poll(master, member) == [[], [ending]]


def test_a_node_whose_job_ends_before_it_has_connected_is_heard(address):
    master, member = node(0, address), node(1, address)
    member.tell(Ending(1, "rank 9 on node 1"))
    member.close()
    assert poll(master)[0][0] == Ending(1, "rank 9 on node 1")
    master.close()


def test_all_nodes_hear_how_the_job_ends_on_one(address):
    nodes = [node(number, address, nodes=3) for number in range(3)]
    poll(*nodes)
    nodes[2].tell(Ending(1, "rank 20 on node 2"))
    assert poll(*nodes) == [[Ending(1, "rank 20 on node 2")], [Ending(1, "rank 20 on node 2")], []]
    for end in nodes:
        end.close()


@pytest.mark.parametrize("gone", [0, 1])
def test_a_launcher_that_has_gone_is_noticed(gone, pair):
    pair[gone].close()
    message = f"the launcher of node {gone} has gone, or its host; the job was stopped"
    assert poll(pair[1 - gone]) == [[Ending(1, message)]]


def test_no_node_ends_before_the_workers_of_all_have_finished(pair):
    master, member = pair
    assert not master.all_finished()
    poll(master, member)
    assert not master.all_finished() and not member.all_finished()
    assert poll(master, member) == [[], []]
    assert master.all_finished() and not member.all_finished()
    master.close()
    assert poll(member) == [[]] and member.all_finished()


@pytest.mark.parametrize(
    "newcomer, message",
    [
        ((2, 3, 8), "--nnodes is 3 on node 2 and 2 on node 0"),
        ((1, 2, 4), "node 1 has 4 devices and node 0 has 8; give every node the same number with --devices"),
        ((1, 2, 8), "two hosts were started with --node_rank 1"),
    ],
)
def test_nodes_that_contradict_each_other_do_not_start(newcomer, message, pair, address):
    master, member = pair
    other = node(newcomer[0], address, *newcomer[1:])
    assert [heard[:1] for heard in poll(master, other, member)] == [[Ending(2, message)]] * 3
    other.close()


def test_a_stranger_on_the_launchers_port_does_no_harm(pair, address):
    master, member = pair
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"1\n", b'{"node": 3}\n', b'{"status": 1}\n', b""):
        with socket.create_connection(address) as stranger:
            stranger.sendall(said)
            assert poll(master, member) == [[], []]


# With MindSpore's own collectives


ALLREDUCE = """
import os, signal, sys, time
import numpy as np
import mindspore as ms
from mindspore.communication import get_rank, init
ms.set_device("CPU")
init()
rank = get_rank()
total = ms.ops.AllReduce()
for step in range(int(os.environ.get("STEPS", 10**6))):
    value = total(ms.Tensor(np.full(4, rank + 1, np.float32))).asnumpy()
    if step == 3:
        open(f"working_{rank}", "w").write(str(time.time()))
    if step == 20 and str(rank) == os.environ.get("KILLED"):
        open("died", "w").write(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0 and step < 3:
        print("step", step, value[0])
    time.sleep(0.05)
"""


@pytest.mark.thorough
def test_real_workers_add_up_and_the_job_ends_in_order(real, tmp_path):
    job = Launcher(tmp_path, {**real, "STEPS": "6"}, ALLREDUCE, "--devices", "2").end()
    assert job.status == 0, job.err
    assert job.out.splitlines()[-3:] == ["step 0 3.0", "step 1 3.0", "step 2 3.0"]
    assert job.left() == []


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [pytest.param(0, marks=SLOW), 1])
def test_a_real_worker_that_is_killed_ends_the_job_in_the_stated_time(rank, real, tmp_path):
    job = Launcher(tmp_path, {**real, "KILLED": str(rank)}, ALLREDUCE).end()
    assert job.status == 1
    assert job.err.splitlines()[-1].startswith(f"error: rank {rank} was killed by SIGKILL")
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


@SLOW
def test_a_real_worker_that_never_joins_ends_the_job(real, tmp_path):
    program = "import os, time\n" + ALLREDUCE.replace(
        "init()\n",
        "if os.environ['MS_ROLE'] == 'MS_WORKER' and os.environ['RANK_ID'] == '1':\n    time.sleep(300)\ninit()\n",
    )
    started = time.time()
    job = Launcher(tmp_path, real, program, "--join_timeout", "25").end()
    assert job.status == 1
    assert "error: rank 1 did not reach the scheduler" in job.err
    assert job.ended - started < 25 + STATED_SECONDS
    assert job.left() == []


@SLOW
def test_real_workers_end_when_their_launcher_is_killed(real, tmp_path):
    job = Launcher(tmp_path, real, ALLREDUCE)
    job.wait_for("working_0")
    job.process.kill()
    job.end()
    assert left_in_time(job) == []


# With train.py


SHORT = [
    *("--config", str(ROOT / "config" / "squeezenet_digits.yaml"), "--train_images", "96", "--batch_size", "16"),
    *("--dropout", "0", "--base_e", "16", "--incr_e", "16", "--scalars", "none"),
]


@SLOW  # That msrun and the launcher set the same variables is tested above.
def test_train_py_runs_on_two_workers_when_typed_by_hand_with_msrun(address, real, tmp_path):
    flags = [*SHORT, "--epochs", "1", "--warmup_epochs", "0", "--output_path", "run"]
    done = msrun(tmp_path, real, address[1], ROOT / "train.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["devices"] == 2


@pytest.mark.slow  # Two trainings.
def test_two_workers_train_and_the_next_launch_does_not_replace_the_run(real, tmp_path):
    flags = [*SHORT, "--epochs", "2", "--output_path", "run"]
    job = Launcher(tmp_path, real, None, *flags).end(300)
    assert job.status == 0, job.err
    assert "test accuracy" in job.out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["devices"] == 2
    again = Launcher(tmp_path, real, None, *flags).end(300)
    assert again.status == 2
    assert again.err.splitlines() == [
        "error: run: already contains a run; choose another --output_path, or replace it with --overwrite"
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["interrupted", pytest.param("killed", marks=SLOW)])
def test_the_checkpoints_of_a_training_that_broke_off_are_valid(how, real, tmp_path):
    import mindspore as ms

    job = Launcher(tmp_path, real, None, *SHORT, "--epochs", "1000", "--output_path", "run")
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("run/checkpoints/*.ckpt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    if how == "interrupted":
        job.process.send_signal(signal.SIGINT)
        job.end()
        assert job.status == 130, job.err
    else:
        victim = next(
            process
            for process in psutil.Process(job.process.pid).children(recursive=True)
            if process.environ().get("RANK_ID") == "1" and process.environ().get("MS_ROLE") == "MS_WORKER"
        )
        victim.kill()
        killed = time.time()
        job.end()
        assert job.status == 1
        assert "error: rank 1 was killed by SIGKILL" in job.err
        assert job.ended - killed < STATED_SECONDS
    checkpoints = list(tmp_path.glob("run/**/*.ckpt"))
    assert len(checkpoints) >= 2
    for checkpoint in checkpoints:
        assert len(ms.load_checkpoint(str(checkpoint))) > 50

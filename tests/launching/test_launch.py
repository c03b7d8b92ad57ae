"""The launcher of distributed trainings: with a stand-in msrun that starts small programs, and with the real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from src.cli.errors import UserError
from src.launching import cluster, launch
from src.launching.cluster import Cluster
from src.launching.nodes import Alone, Master, Member
from src.launching.watch import Job, Watch
from tests.conftest import ROOT

# Starts what msrun starts, as msrun starts it, without the seconds that importing MindSpore takes.
MSRUN = """
import json, os, subprocess, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
program = next(i for i, word in enumerate(sys.argv) if word == "--join=False") + 1
with open(os.environ["RECORD"], "w") as stream:
    json.dump({"command": sys.argv[1:], "cwd": os.getcwd()}, stream)
local, node = int(options["local_worker_num"]), int(options["node_rank"])
ranks = range(node * local, (node + 1) * local)
kept = []  # As msrun does: what nobody refers to is reaped by the next Popen, or when Python ends.
for role, rank in [*([("MS_SCHED", 0)] if node == 0 else []), *(("MS_WORKER", rank) for rank in ranks)]:
    name = "scheduler" if role == "MS_SCHED" else f"worker_{rank}"
    scheduler = {"MS_SCHED_HOST": options["master_addr"], "MS_SCHED_PORT": options["master_port"]}
    process = subprocess.Popen(
        ["python", *sys.argv[program:]],
        env=dict(os.environ, MS_ROLE=role, RANK_ID=str(rank), **scheduler),
        stdout=open(f"{options['log_dir']}/{name}.log", "w"),
        stderr=subprocess.STDOUT,
        preexec_fn=os.setsid if role == "MS_WORKER" else None,
    )
    kept.append(process)
if "REAPED" in os.environ:
    kept[-1].wait()
os._exit(0)
"""
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
    time.sleep(60)
rank = int(os.environ["RANK_ID"])
def join():
    while True:
        try:
            return socket.create_connection((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
        except OSError:
            time.sleep(0.05)
"""
STATED_SECONDS = 15  # From a worker's death to the launcher's end (launch.END_TIMES).


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """A folder for PATH with stand-ins for msrun and npu-smi (eight NPUs), and a Python that has no msrun beside it."""
    folder = tmp_path / "stand-ins"
    executable(folder / "msrun", f"#!{sys.executable} -I\n{MSRUN}")
    rows = "\n".join(NPU_ROW.format(i) for i in range(8))
    executable(
        folder / "npu-smi", f"#!/bin/sh\n[ \"$*\" = 'info -m' ] && cat <<'END'\n{NPU_SMI.format(rows=rows)}END\n"
    )
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "python3").symlink_to(sys.executable)
    return folder


@pytest.fixture
def environment(stand_ins, tmp_path) -> dict:
    """The environment in which the launcher finds the stand-ins."""
    hidden = {*cluster.VISIBLE.values(), "PYTHONUNBUFFERED"}
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        "PYTHON": str(tmp_path / "python" / "python3"),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record.json"),
    }


@pytest.fixture
def real_msrun() -> dict:
    """The environment in which the launcher finds MindSpore's own msrun."""
    if not Path(sys.executable).with_name("msrun").exists():
        pytest.skip("no msrun beside this Python")
    return {**os.environ, "PYTHON": sys.executable}


class Launcher:
    """A launcher at work, in a folder, on a program."""

    def __init__(self, folder: Path, environment: dict, program: str | None, *options, device: str = "cpu", under=()):
        self.folder = folder
        if program is not None:
            path = folder / "program.py"
            path.write_text(program)
            options = ("--program", path, *options)
        script = ROOT / "scripts" / f"run_distribute_train_{device}.sh"
        self.process = subprocess.Popen(
            [*under, "bash", str(script), *map(str, options)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, seconds: float = 120) -> Launcher:
        """Wait for its end; sets status, out, err, the time of the end, and what it leaves behind."""
        try:
            self.out, self.err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.ended, self.status = time.time(), self.process.returncode
        return self

    def wait_for(self, name: str, seconds: float = 60) -> float:
        """Wait for a file that a worker makes; return the time that is in it."""
        path, deadline = self.folder / name, time.monotonic() + seconds
        while not (path.exists() and path.read_text()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(f"no {name}: {self.process.communicate()}")
            time.sleep(0.05)
        return float(path.read_text())

    def left(self) -> list[list[str]]:
        """Return the command lines of the program's processes that still live."""
        return [process.cmdline() for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and any(
                str(self.folder / "program.py") in word for word in process.cmdline()
            )
        except psutil.Error:
            return False


def note(name: str) -> str:
    """Return a line of Python that leaves a file with the time in it."""
    return f"open({name!r} + '.new', 'w').write(str(time.time())); os.rename({name!r} + '.new', {name!r})\n"


SLEEP = HEAD + "connection = join()\n" + "open(f'started_{rank}', 'w').write('1')\ntime.sleep(300)\n"


# Command lines


@pytest.mark.parametrize(
    "options, workers, local, node, ranks",
    [
        (["--devices", "1"], 1, 1, 0, range(1)),
        ([], 8, 8, 0, range(8)),
        (["--nnodes", "2", "--node_rank", "1", "--master_addr", "192.0.2.1"], 16, 8, 1, range(8, 16)),
    ],
    ids=["1", "8", "2x8"],
)
def test_the_command_line_of_msrun_on_ascend(options, workers, local, node, ranks, environment, tmp_path):
    program = "pass\n" if node == 0 else "import time\ntime.sleep(60)\n"
    options = [*options, "--join_timeout", "2", "--master_port", "23456"]
    done = Launcher(tmp_path, environment, program, *options, "--lr_max", "0.1", "--overwrite", device="ascend").end()
    record = json.loads((tmp_path / "record.json").read_text())
    (folder,) = (tmp_path / "logs").iterdir()
    assert record["command"] == [
        f"--worker_num={workers}",
        f"--local_worker_num={local}",
        f"--node_rank={node}",
        f"--master_addr={'192.0.2.1' if node else '127.0.0.1'}",
        "--master_port=23456",
        f"--log_dir=logs/{folder.name}",
        "--cluster_time_out=62",
        "--join=False",
        *(str(tmp_path / "program.py"), "--device_target", "Ascend", "--strict_device"),
        *("--lr_max", "0.1", "--overwrite"),
    ]
    assert record["cwd"] == str(tmp_path)
    assert re.findall(r"^log of rank (\d+): (.*)$", done.out, re.MULTILINE) == [
        (str(rank), f"logs/{folder.name}/worker_{rank}.log") for rank in ranks
    ]
    assert done.status == (1 if node else 0), done.err
    assert done.left() == []


def test_the_command_line_of_node_0(tmp_path):
    options, _ = launch.parser().parse_known_args(["--bind_core", "--nnodes", "2"])
    command = launch.msrun_command("msrun", Cluster(2, 0, 8, "192.0.2.1", 20118), options, Path("logs/now"))
    assert command == [
        *("msrun", "--worker_num=16", "--local_worker_num=8", "--node_rank=0", "--master_addr=192.0.2.1"),
        *("--master_port=20118", "--log_dir=logs/now", "--cluster_time_out=180", "--bind_core=True", "--join=False"),
    ]


def test_what_is_meant_for_train_py_goes_on_to_it_and_ckpt_path_as_pretrained(environment, tmp_path):
    flags = ["--config", "a b.yaml", "--ckpt_path", "c.ckpt", "--data_path=./d", "--bind_core", '{"device0":["0"]}']
    done = Launcher(tmp_path, environment, "pass\n", *flags, "--epochs", "3").end()
    assert done.status == 0, done.err
    command = json.loads((tmp_path / "record.json").read_text())["command"]
    assert command[command.index("--join=False") - 1] == '--bind_core={"device0":["0"]}'
    assert command[command.index("--strict_device") + 1 :] == [
        *("--config", "a b.yaml", "--data_path=./d", "--epochs", "3", "--pretrained", "c.ckpt"),
    ]


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
        assert not (tmp_path / "logs").exists() and not (tmp_path / "record.json").exists()
        return str(error.value)

    return said


ASCEND = ["--device_target", "Ascend"]
TWO = ["--nnodes", "2"]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--devices", "0"], "--devices: 0 is impossible"),
        (["--devices", "two"], "argument --devices: invalid int value: 'two'"),
        ([*ASCEND, "--devices", "9"], "--devices: 9 a host is more than the 8 that npu-smi info -m shows"),
        (["--total_devices", "9", *TWO], "--total_devices: 9 cannot be divided among 2 hosts"),
        (["--total_devices", "8", "--devices", "8"], "--total_devices: give either it or --devices"),
        (["--nnodes", "0"], "--nnodes: 0 is impossible"),
        ([*TWO, "--node_rank", "2"], "--node_rank: 2 is impossible with --nnodes 2"),
        (["--node_rank", "-1"], "--node_rank: -1 is impossible"),
        (TWO, "--master_addr: needed with --nnodes 2"),
        ([*TWO, "--master_addr", "localhost"], "--master_addr: localhost is 127.0.0.1, which other hosts cannot reach"),
        (["--master_addr", "192.0.2.1"], "--master_addr: 192.0.2.1 is no address of this host"),
        (["--master_addr", "no.such.host.invalid"], "--master_addr: no.such.host.invalid: "),
        (["--master_port", "80"], "--master_port: 80 is impossible; choose one of 1024 to 65535"),
        (["--join_timeout", "0"], "--join_timeout: 0 is impossible"),
        (["--device_id", "3", *ASCEND], "--device_id: each worker takes the device of its own rank; choose devices"),
        (["--ckpt_path", "a", "--pretrained", "b"], "--ckpt_path: the same as --pretrained"),
        (["--lr_decay_mode", "cosin"], "lr_decay_mode: 'cosin' is not allowed"),
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


def test_core_binding_without_taskset_is_refused(mistake, monkeypatch, stand_ins):
    monkeypatch.setenv("PATH", str(stand_ins))
    assert mistake("--bind_core").startswith("--bind_core: taskset is not on PATH")


def test_a_missing_msrun_says_what_to_install(mistake, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python3"))
    assert mistake().endswith("nor on PATH; it comes with MindSpore: pip install -r requirements.txt")


@pytest.mark.parametrize("target, kind", [("Ascend", "NPU"), ("GPU", "GPU")])
def test_no_device_is_one_line(target, kind, mistake, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mistake("--device_target", target).startswith(f"no {kind} found: ")


def test_a_refusal_is_one_line_and_status_2_from_the_script_too(environment, tmp_path):
    done = Launcher(tmp_path, environment, None, "--devices", "0").end()
    assert (done.status, done.out) == (2, "")
    assert done.err == "error: --devices: 0 is impossible; a host takes part with 1 device or more\n"


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


# A job's course and its end, with the stand-in msrun


def test_progress_of_rank_0_is_seen_while_it_works_without_mindspores_noise(environment, tmp_path):
    noise = "[WARNING] DISTRIBUTED(2,7f,python):2026-1-1 [mindspore/ccsrc/cluster/x.cc:58] Initialize] Begin"
    program = HEAD + f"connection = join()\nprint({noise!r})\nprint('epoch 1 of rank', rank)\ntime.sleep(60)\n"
    started = time.monotonic()
    job = Launcher(tmp_path, environment, program)
    lines = [job.process.stdout.readline() for _ in range(6)]
    job.process.send_signal(signal.SIGTERM)
    job.end()
    assert lines[-1] == "epoch 1 of rank 0\n"
    assert time.monotonic() - started < 60
    assert noise not in job.out


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


UNSEEN = """
import os, sys, time
from pathlib import Path
from src.launching.processes import Processes
processes = Processes([sys.executable, "msrun.py"], ["program.py", "--a"], dict(os.environ), Path("msrun.log"), [0])
while not Path("died").exists():
    time.sleep(0.05)
deadline = time.monotonic() + 10
while not processes.ended and time.monotonic() < deadline:
    processes.poll()
    time.sleep(0.05)
processes.close()
print(processes.ended)
"""


@pytest.mark.parametrize(
    "child",
    ["subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)", "os.fork()"],
    ids=["another program in a session of its own", "the same program in the worker's session"],
)
def test_the_child_of_a_worker_that_died_before_it_was_seen_is_not_taken_for_it(child, tmp_path):
    # The child has the worker's environment, and the worker's parent when that has died.
    program = f"import os, subprocess, sys, time\nif {child}:\n    os._exit(7)\ntime.sleep(60)\n"
    msrun = (
        "import os, subprocess, sys, time\n"
        "environment = dict(os.environ, MS_ROLE='MS_WORKER', RANK_ID='0')\n"
        "worker = subprocess.Popen([sys.executable, *sys.argv[1:]], env=environment, preexec_fn=os.setsid)\n"
        "os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)\n"
        f"{note('died').rstrip()}\n"
        "os._exit(0)\n"
    )
    for name, text in (("program.py", program), ("msrun.py", msrun)):
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", UNSEEN], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "{0: 7}\n", done.stderr


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
    program = HEAD + "time.sleep(rank)\nprint('error: image_size: 3 is too small', file=sys.stderr)\nsys.exit(2)\n"
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 2
    assert job.err == "error: image_size: 3 is too small\n"
    assert "error" not in job.out
    (log,) = tmp_path.glob("logs/*/worker_1.log")
    assert "error: image_size" in log.read_text()  # It was left to end by itself.


def test_of_two_that_failed_at_once_the_killed_one_is_named(tmp_path):
    job = Job(tmp_path, 0, 1, 2, ("127.0.0.1", 2000), 1, 1)
    watch = Watch(job, SimpleNamespace(ranks=[0, 1], ended={0: 1, 1: -9}), Alone())
    assert watch._of_worker().message.startswith("rank 1 was killed by SIGKILL")


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
    environment["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    job = Launcher(tmp_path, environment, program)
    job.wait_for("started")
    time.sleep(2)  # Until the launcher has seen them join.
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
    job.process.send_signal(signal.SIGINT)
    time.sleep(1)
    interrupted = time.time()
    job.process.send_signal(signal.SIGINT)
    job.end()
    assert job.status == 130
    assert job.ended - interrupted < 3
    assert "rank 0 had not ended and was killed" in job.err
    assert job.left() == []


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
    job = Launcher(tmp_path, environment, SLEEP.replace("time.sleep(60)", "time.sleep(1)\n    sys.exit(7)")).end()
    assert job.status == 1
    assert "error: the scheduler ended with exit status 7" in job.err
    assert job.left() == []


def test_a_mistake_that_the_scheduler_meets_first_is_no_crash_either(environment, tmp_path):
    said = "print('error: runs/a: holds a run already')\n    sys.exit(2)"
    job = Launcher(tmp_path, environment, SLEEP.replace("time.sleep(60)", f"time.sleep(1)\n    {said}")).end()
    assert (job.status, job.err) == (2, "error: runs/a: holds a run already\n")


def test_a_worker_that_msrun_has_reaped_has_failed(environment, tmp_path):
    job = Launcher(tmp_path, {**environment, "REAPED": "1"}, "import time\ntime.sleep(1)\n").end()
    assert job.status == 1 and "error: rank 1 ended with exit status 1" in job.err
    assert job.left() == []


def test_a_failing_msrun_is_shown(environment, stand_ins, tmp_path):
    executable(stand_ins / "msrun", "#!/bin/sh\necho no libhccl.so\nexit 3\n")
    job = Launcher(tmp_path, environment, HEAD).end()
    assert job.status == 1
    assert "no libhccl.so" in job.err and job.err.splitlines()[-1] == "error: msrun ended with exit status 3"


def test_nothing_is_left_behind_a_launcher_that_is_killed_itself(environment, tmp_path):
    job = Launcher(tmp_path, environment, SLEEP)
    job.wait_for("started_0")
    job.wait_for("started_1")
    job.process.kill()
    job.end()
    deadline = time.monotonic() + 10
    while job.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert job.left() == []


# The launchers of a cluster among themselves


@pytest.fixture
def pair():
    """The launchers' connection of two nodes with eight devices each."""
    master = Master("127.0.0.1", 0, 2, 8)
    member = Member(*master._socket.getsockname(), 1, 2, 8)
    assert (master.missing(), member.missing()) == ([1], [0])
    poll(member, master)
    assert (master.missing(), member.missing()) == ([], [])
    yield master, member
    master.close()
    member.close()


def poll(*ends) -> list[list[dict]]:
    """Let two ends hear each other; return what each has heard."""
    heard = [[] for _ in ends]
    for _ in range(20):
        for one, end in zip(heard, ends):
            one += end.poll()
        time.sleep(0.01)
    return heard


FAILED = {"failed": {"status": 1, "message": "rank 9 on node 1 was killed by SIGKILL"}}


@pytest.mark.parametrize("message", [FAILED, {"signal": 2}])
def test_a_node_hears_what_befell_another(message, pair):
    master, member = pair
    member.tell(message)
    assert poll(master, member) == [[message], []]
    master.tell(message)
    assert poll(master, member) == [[], [message]]


def test_a_launcher_that_has_gone_is_noticed(pair):
    master, member = pair
    member.close()
    assert poll(master) == [[{"lost": 1}]]


def test_node_0_having_gone_is_noticed(pair):
    master, member = pair
    master.close()
    assert poll(member) == [[{"lost": 0}]]


def test_no_node_is_released_before_all_are_done(pair):
    master, member = pair
    poll(master, member)
    assert not master.released() and not member.released()
    member.tell({"done": True})
    poll(master)
    assert master.released() and not member.released()
    master.tell({"end": True})
    master.close()
    assert poll(member) == [[]] and member.released()


def test_nodes_with_different_numbers_of_devices_do_not_start(pair):
    master, member = pair
    other = Member(*master._socket.getsockname(), 2, 2, 4)
    (at_master, at_other, at_member) = poll(master, other, member)
    message = "node 2 has 4 devices and node 0 has 8; give every node the same number with --devices"
    refusal = {"failed": {"status": 2, "message": message}}
    assert (at_master, at_other, at_member) == ([refusal], [refusal], [refusal])
    other.close()


def test_a_stranger_on_the_launchers_port_does_no_harm(pair):
    master, member = pair
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"hello": 3}\n', b'{"failed": {}}\n', b""):
        with socket.create_connection(master._socket.getsockname()) as stranger:
            stranger.sendall(said)
            assert poll(master, member) == [[], []]


# With MindSpore's own msrun


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


def test_the_real_msrun_starts_workers_whose_failure_is_seen(real_msrun, tmp_path):
    program = SLEEP.replace("time.sleep(300)", f"if rank == 1:\n    {note('died')}    sys.exit(5)\ntime.sleep(300)")
    job = Launcher(tmp_path, real_msrun, program).end()
    assert job.status == 1
    assert "error: rank 1 ended with exit status 5; the other workers were stopped" in job.err
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--bind_core",)], ids=["", "bound to cores"])
def test_real_workers_add_up_and_the_job_ends_in_order(options, real_msrun, tmp_path):
    if options and shutil.which("taskset") is None:
        pytest.skip("no taskset")
    job = Launcher(tmp_path, {**real_msrun, "STEPS": "6"}, ALLREDUCE, "--devices", "2", *options).end()
    assert job.status == 0, job.err
    assert job.out.splitlines()[-3:] == ["step 0 3.0", "step 1 3.0", "step 2 3.0"]
    assert job.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_real_worker_that_is_killed_ends_the_job_in_the_stated_time(rank, real_msrun, tmp_path):
    job = Launcher(tmp_path, {**real_msrun, "KILLED": str(rank)}, ALLREDUCE).end()
    assert job.status == 1
    assert job.err.splitlines()[-1].startswith(f"error: rank {rank} was killed by SIGKILL")
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


@pytest.mark.slow
def test_a_real_worker_that_never_joins_ends_the_job(real_msrun, tmp_path):
    program = "import os, time\n" + ALLREDUCE.replace(
        "init()\n",
        "if os.environ['MS_ROLE'] == 'MS_WORKER' and os.environ['RANK_ID'] == '1':\n    time.sleep(300)\ninit()\n",
    )
    started = time.time()
    job = Launcher(tmp_path, real_msrun, program, "--join_timeout", "25").end()
    assert job.status == 1
    assert "error: rank 1 did not reach the scheduler" in job.err
    assert job.ended - started < 25 + STATED_SECONDS
    assert job.left() == []


@pytest.mark.slow
def test_real_workers_end_when_their_launcher_is_killed(real_msrun, tmp_path):
    job = Launcher(tmp_path, real_msrun, ALLREDUCE)
    job.wait_for("working_0")
    job.process.kill()
    job.end()
    time.sleep(5)
    assert job.left() == []


# With train.py


SHORT = ["--config", str(ROOT / "config" / "squeezenet_digits.yaml"), "--train_images", "320", "--dropout", "0"]


@pytest.mark.slow
def test_two_workers_train_and_the_next_launch_does_not_replace_the_run(real_msrun, tmp_path):
    flags = [*SHORT, "--epochs", "2", "--output_path", "run"]
    job = Launcher(tmp_path, real_msrun, None, *flags).end(300)
    assert job.status == 0, job.err
    assert "test accuracy" in job.out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["devices"] == 2
    again = Launcher(tmp_path, real_msrun, None, *flags).end(300)
    assert again.status == 2
    assert again.err.splitlines() == [
        "error: run: holds a run already; choose another --output_path, or replace it with --overwrite"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_the_checkpoints_of_a_training_that_broke_off_are_valid(how, real_msrun, tmp_path):
    import mindspore as ms

    job = Launcher(tmp_path, real_msrun, None, *SHORT, "--epochs", "1000", "--output_path", "run")
    deadline = time.monotonic() + 120
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

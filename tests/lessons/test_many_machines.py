"""The files on the page *Many machines*: against the manuals they follow, and the one for Ray with the real Ray."""

import ast
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest
import sources
import torch
import yaml
from torch.distributed.run import get_args_parser

GUARD = Path(sources.__file__).parent / "guard"
MANUAL = {  # options of sbatch and the values that they take (slurm.schedmd.com/sbatch.html)
    "job-name": r"\S+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "time": r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}",
    "output": r"\S+",
}
TRAINER = {  # fields of a trainer in trainer.kubeflow.org/v1alpha1
    "image": str,
    "command": list,
    "args": list,
    "env": list,
    "numNodes": int,
    "numProcPerNode": int,
    "resourcesPerNode": dict,
}


@pytest.fixture(scope="module")
def page(root):
    """Return the texts and functions of the lesson by name, and its program for Ray."""
    blocks = sources.cells(root / "gallery/distributed/06_many_machines.py")
    texts = {}
    for block in blocks:
        if block.type == "text" and "import ray\n" in block.content:
            lines = block.content.partition(".. code-block:: python\n")[2].partition("\n# ")[0]
            texts["ray"] = textwrap.dedent(re.match(r"(\n| .*\n)+", lines)[0])
        elif block.type == "code":
            for node in ast.parse(block.content).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    texts[node.targets[0].id] = node.value.value
                elif isinstance(node, ast.FunctionDef):
                    texts[node.name] = ast.unparse(node)
    return texts


def test_slurm(page):
    """Each #SBATCH line stands above the first command and is an option of the manual with a value that it takes."""
    above = re.split(r"^(?!#|\s*$)", page["slurm"], maxsplit=1, flags=re.M)[0]
    options = re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", above, flags=re.M)
    assert len(options) == page["slurm"].count("#SBATCH") > 4
    assert [(name, value) for name, value in options if not re.fullmatch(MANUAL.get(name, "-"), value)] == []


def test_kubernetes(page):
    """The job has the fields of its version, each of its type, and sets no variable that belongs to the operator."""
    job = yaml.safe_load(page["description"])
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert job["kind"] == "TrainJob"
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(job["spec"]) == {"runtimeRef", "trainer"}
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert {name: type(value) for name, value in trainer.items()} == {name: TRAINER[name] for name in trainer}
    assert all(isinstance(word, str) for word in trainer["command"])
    for variable in trainer["env"]:
        assert {name: type(value) for name, value in variable.items()} == {"name": str, "value": str}
        assert not variable["name"].startswith("PET_")


def test_torchrun_reads_what_the_operator_sets(page):
    """The page sets what the operator sets in a pod, and torchrun takes each as an option."""
    names = {"trainer": yaml.safe_load(page["description"])["spec"]["trainer"]}
    exec(page["pod"], names)
    variables = names["pod"](1, "train-node-0-0.train", 29500)
    assert variables == {
        "PET_NNODES": "2",
        "PET_NODE_RANK": "1",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "train-node-0-0.train",
        "PET_MASTER_PORT": "29500",
    }
    known = vars(get_args_parser().parse_args(["train.py"]))
    assert {name.removeprefix("PET_").lower() for name in variables} <= set(known)


@contextlib.contextmanager
def ray_cluster(folder, environment):
    """Start Ray on the loopback interface with two CPUs, give its address, and end all its processes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.2"]
    command += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    command += [f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder}"]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"127.0.0.2:{port}"
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.kill()  # asked politely, it waits half a minute for its workers
        head.wait(30)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
        print((folder / "log").read_text())


def test_ray(page, tmp_path):
    """The page's program for Ray, with two workers of the real Ray, ends with the weights of torchrun, and goes on from its file."""
    (tmp_path / "train.py").write_text(page["head"] + page["body"])
    (tmp_path / "ray_train.py").write_text(page["ray"])
    environment = os.environ | {
        "PYTHONPATH": str(GUARD),
        "BOOK_GUARD": "network",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else it writes a token into the home folder
    }

    def run(*command):
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run([sys.executable, *command], timeout=400, check=False, **options)
        assert done.returncode == 0, done.stdout + done.stderr

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    run(*torchrun, "whole", "60")
    run(*torchrun, "ray", "30")
    with tempfile.TemporaryDirectory() as short, ray_cluster(Path(short), environment) as address:
        environment["RAY_ADDRESS"] = address
        run("ray_train.py", tmp_path / "ray", "60", tmp_path / "results")
    last, weights = torch.load(tmp_path / "ray")
    assert last == 60
    assert torch.equal(weights, torch.load(tmp_path / "whole")[1])

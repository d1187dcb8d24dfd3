"""Names lead to the pages that the official documentation really has."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from sphinx.errors import ExtensionError
from sphinx.util.inventory import InventoryFile

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"

TORCH = "https://docs.pytorch.org/docs/stable/"
VISION = "https://docs.pytorch.org/vision/stable/"
NUMPY = "https://numpy.org/doc/stable/"
SKLEARN = "https://scikit-learn.org/stable/"
MATPLOTLIB = "https://matplotlib.org/stable/"
METRICS = "https://lightning.ai/docs/torchmetrics/stable/"
PYTHON = "https://docs.python.org/3/"

# Pages that were seen in the published documentation: PyTorch 2.14, Torchvision 0.28, NumPy 2.4, scikit-learn 1.8,
# Matplotlib 3.11, TorchMetrics 1.8, and for Python every address and anchor in the inventory of 3.11. "=" stands for the name.
SEEN = {
    "torch.add": (TORCH, "generated/=.html#="),
    "torch.unique": (TORCH, "generated/=.html#="),
    "torch.softmax": (TORCH, "generated/=.html#="),
    "torch.matrix_exp": (TORCH, "generated/=.html#="),
    "torch.set_default_dtype": (TORCH, "generated/=.html#="),
    "torch.no_grad": (TORCH, "generated/=.html#="),
    "torch.inference_mode": (
        TORCH,
        "generated/torch.autograd.grad_mode.inference_mode.html#torch.autograd.grad_mode.inference_mode",
    ),
    "torch.compile": (TORCH, "generated/=.html#="),
    "torch.Stream": (TORCH, "generated/=.html#="),
    "torch.dtype": (TORCH, "tensor_attributes.html#torch.dtype"),
    "torch.float32": (TORCH, "tensor_attributes.html#torch.dtype"),
    "torch.iinfo": (TORCH, "type_info.html#torch.torch.iinfo"),
    "torch.finfo": (TORCH, "type_info.html#torch.torch.finfo"),
    "torch.Tensor.view": (TORCH, "generated/=.html#="),
    "torch.Tensor.shape": (TORCH, "generated/=.html#="),
    "torch.Tensor.log_": (TORCH, "generated/=.html#="),
    "torch.nn.Linear": (TORCH, "generated/=.html#="),
    "torch.nn.Module": (TORCH, "generated/=.html#="),
    "torch.nn.DataParallel": (TORCH, "generated/=.html#="),
    "torch.nn.Parameter": (TORCH, "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter"),
    "torch.nn.parallel.DistributedDataParallel": (TORCH, "generated/=.html#="),
    "torch.nn.functional.relu": (TORCH, "generated/=.html#="),
    "torch.nn.functional.conv2d": (TORCH, "generated/=.html#="),
    "torch.nn.functional.scaled_dot_product_attention": (TORCH, "generated/=.html#="),
    "torch.nn.attention.sdpa_kernel": (TORCH, "generated/=.html#="),
    "torch.nn.utils.clip_grad_norm_": (TORCH, "generated/=.html#="),
    "torch.nn.utils.prune.l1_unstructured": (TORCH, "generated/=.html#="),
    "torch.optim.Adam": (TORCH, "generated/=.html#="),
    "torch.optim.Muon": (TORCH, "generated/=.html#="),
    "torch.optim.lr_scheduler.OneCycleLR": (TORCH, "generated/=.html#="),
    "torch.optim.swa_utils.get_ema_avg_fn": (TORCH, "generated/=.html#="),
    "torch.autograd.grad": (TORCH, "generated/=.html#="),
    "torch.autograd.gradcheck": (
        TORCH,
        "generated/torch.autograd.gradcheck.gradcheck.html#torch.autograd.gradcheck.gradcheck",
    ),
    "torch.autograd.Function.forward": (TORCH, "generated/=.html#="),
    "torch.autograd.function.FunctionCtx.save_for_backward": (TORCH, "generated/=.html#="),
    "torch.profiler.record_function": (
        TORCH,
        "generated/torch.autograd.profiler.record_function.html#torch.autograd.profiler.record_function",
    ),
    "torch.func.vmap": (TORCH, "generated/=.html#="),
    "torch.linalg.svd": (TORCH, "generated/=.html#="),
    "torch.fft.rfftn": (TORCH, "generated/=.html#="),
    "torch.quasirandom.SobolEngine": (TORCH, "generated/=.html#="),
    "torch.compiler.disable": (TORCH, "generated/=.html#="),
    "torch.cuda.is_available": (TORCH, "generated/=.html#="),
    "torch.cuda.memory_allocated": (
        TORCH,
        "generated/torch.cuda.memory.memory_allocated.html#torch.cuda.memory.memory_allocated",
    ),
    "torch.accelerator.memory_allocated": (
        TORCH,
        "generated/torch.accelerator.memory.memory_allocated.html#torch.accelerator.memory.memory_allocated",
    ),
    "torchvision.ops.nms": (VISION, "generated/=.html#="),
    "torchvision.ops.box_iou": (VISION, "generated/=.html#="),
    "torchvision.datasets.MNIST": (VISION, "generated/=.html#="),
    "torchvision.utils.make_grid": (VISION, "generated/=.html#="),
    "torchvision.tv_tensors.Mask": (VISION, "generated/=.html#="),
    "torchvision.transforms.v2.Compose": (VISION, "generated/=.html#="),
    "torchvision.transforms.v2.functional.normalize": (VISION, "generated/=.html#="),
    "torchvision.models.resnet18": (VISION, "models/generated/=.html#="),
    "torchvision.models.detection.fasterrcnn_resnet50_fpn": (VISION, "models/generated/=.html#="),
    "torchvision.models.feature_extraction.create_feature_extractor": (VISION, "generated/=.html#="),
    "numpy.add": (NUMPY, "reference/generated/=.html#="),
    "numpy.mgrid": (NUMPY, "reference/generated/=.html#="),
    "numpy.ndarray": (NUMPY, "reference/generated/=.html#="),
    "numpy.ndarray.reshape": (NUMPY, "reference/generated/=.html#="),
    "numpy.ndarray.shape": (NUMPY, "reference/generated/=.html#="),
    "numpy.dtype.itemsize": (NUMPY, "reference/generated/=.html#="),
    "numpy.ufunc.reduce": (NUMPY, "reference/generated/=.html#="),
    "numpy.linalg.svd": (NUMPY, "reference/generated/=.html#="),
    "numpy.testing.assert_allclose": (NUMPY, "reference/generated/=.html#="),
    "numpy.exceptions.AxisError": (NUMPY, "reference/generated/=.html#="),
    "numpy.lib.stride_tricks.sliding_window_view": (NUMPY, "reference/generated/=.html#="),
    "numpy.random.rand": (NUMPY, "reference/random/generated/=.html#="),
    "numpy.random.Generator.normal": (NUMPY, "reference/random/generated/=.html#="),
    "numpy.random.SeedSequence": (NUMPY, "reference/random/bit_generators/generated/=.html#="),
    "sklearn.datasets.load_digits": (SKLEARN, "modules/generated/=.html#="),
    "sklearn.datasets.load_sample_image": (SKLEARN, "modules/generated/=.html#="),
    "sklearn.linear_model.LogisticRegression": (SKLEARN, "modules/generated/=.html#="),
    "sklearn.model_selection.train_test_split": (SKLEARN, "modules/generated/=.html#="),
    "sklearn.metrics.roc_curve": (SKLEARN, "modules/generated/=.html#="),
    "sklearn.feature_extraction.image.extract_patches_2d": (SKLEARN, "modules/generated/=.html#="),
    "sklearn.cluster.dbscan": (SKLEARN, "modules/generated/dbscan-function.html#="),
    "sklearn.clone": (SKLEARN, "modules/generated/sklearn.base.clone.html#sklearn.base.clone"),
    "matplotlib.pyplot.plot": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.pyplot.subplots": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.axes.Axes": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.axes.Axes.plot": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.axes.Axes.set_xlabel": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.axes.Axes.set": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.artist.Artist.set_visible": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.figure.Figure": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.figure.Figure.savefig": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.figure.Figure.colorbar": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.patches.Rectangle": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.colors.ListedColormap": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "matplotlib.animation.FuncAnimation": (MATPLOTLIB, "api/_as_gen/=.html#="),
    "torchmetrics.Accuracy": (METRICS, "classification/accuracy.html#="),
    "torchmetrics.classification.BinaryAccuracy": (METRICS, "classification/accuracy.html#="),
    "int": (PYTHON, "library/functions.html#="),
    "enumerate": (PYTHON, "library/functions.html#="),
    "list": (PYTHON, "library/stdtypes.html#="),
    "str.join": (PYTHON, "library/stdtypes.html#="),
    "None": (PYTHON, "library/constants.html#="),
    "ValueError": (PYTHON, "library/exceptions.html#="),
    "KeyboardInterrupt": (PYTHON, "library/exceptions.html#="),
    "pathlib.Path": (PYTHON, "library/pathlib.html#="),
    "pathlib.Path.exists": (PYTHON, "library/pathlib.html#="),
    "collections.abc.Iterator": (PYTHON, "library/collections.abc.html#="),
    "collections.abc.Callable": (PYTHON, "library/collections.abc.html#="),
    "typing.Any": (PYTHON, "library/typing.html#="),
    "typing.Literal": (PYTHON, "library/typing.html#="),
    "dataclasses.dataclass": (PYTHON, "library/dataclasses.html#="),
    "contextlib.contextmanager": (PYTHON, "library/contextlib.html#="),
    "concurrent.futures.ThreadPoolExecutor": (PYTHON, "library/concurrent.futures.html#="),
    "multiprocessing.Process.start": (PYTHON, "library/multiprocessing.html#="),
    "argparse.ArgumentParser.add_argument": (PYTHON, "library/argparse.html#="),
    "asyncio.run": (PYTHON, "library/asyncio-runner.html#="),
    "asyncio.gather": (PYTHON, "library/asyncio-task.html#="),
    "logging.StreamHandler": (PYTHON, "library/logging.handlers.html#="),
    "os.environ": (PYTHON, "library/os.html#="),
    "os.path.join": (PYTHON, "library/os.path.html#="),
    "time.perf_counter": (PYTHON, "library/time.html#="),
    "warnings.warn": (PYTHON, "library/warnings.html#="),
    "xml.etree.ElementTree.parse": (PYTHON, "library/xml.etree.elementtree.html#="),
}

# The page was seen; that the name stands on it follows from its neighbours or from the source of the page.
FOLLOWS = {
    "torch.Tensor": (TORCH, "tensors.html#="),
    "torch.Tensor.T": (TORCH, "tensors.html#="),
    "torch.Tensor.dtype": (TORCH, "tensor_attributes.html#torch.dtype"),
    "torch.nn.Module.state_dict": (TORCH, "generated/torch.nn.Module.html#="),
    "torch.optim.Optimizer.step": (TORCH, "generated/=.html#="),
    "torch.optim.SGD.zero_grad": (TORCH, "generated/torch.optim.SGD.html#="),
    "torch.relu": (TORCH, "generated/torch.nn.functional.relu.html#torch.nn.functional.relu"),
    "torch.conv2d": (TORCH, "generated/torch.nn.functional.conv2d.html#torch.nn.functional.conv2d"),
    "torch.autocast": (TORCH, "amp.html#="),
    "torch.amp.autocast": (TORCH, "amp.html#torch.autocast"),
    "torch.amp.GradScaler": (TORCH, "amp.html#gradient-scaling"),
    "torch.autograd.Function": (TORCH, "autograd.html#="),
    "torch.utils.data.DataLoader": (TORCH, "data.html#="),
    "torch.utils.data.DistributedSampler": (TORCH, "data.html#torch.utils.data.distributed.DistributedSampler"),
    "torch.utils.data.distributed.DistributedSampler": (TORCH, "data.html#="),
    "torch.utils.benchmark.Timer": (TORCH, "benchmark_utils.html#="),
    "torch.utils.tensorboard.SummaryWriter": (TORCH, "tensorboard.html#torch.utils.tensorboard.writer.SummaryWriter"),
    "torch.distributed.all_reduce": (TORCH, "distributed.html#="),
    "torch.distributed.device_mesh.init_device_mesh": (TORCH, "distributed.html#="),
    "torch.distributed.checkpoint.state_dict.get_state_dict": (TORCH, "distributed.checkpoint.html#="),
    "torch.distributed.fsdp.fully_shard": (TORCH, "distributed.fsdp.fully_shard.html#="),
    "torch.distributed.tensor.Shard": (
        TORCH,
        "distributed.tensor.html#torch.distributed.tensor.placement_types.Shard",
    ),
    "torch.distributions.Normal": (TORCH, "distributions.html#torch.distributions.normal.Normal"),
    "torch.special.expit": (TORCH, "special.html#="),
    "torch.nn.init.kaiming_normal_": (TORCH, "nn.init.html#="),
    "torch.testing.assert_close": (TORCH, "testing.html#="),
    "torch.export.export": (TORCH, "user_guide/torch_compiler/export/api_reference.html#="),
    "torch.export.Dim": (
        TORCH,
        "user_guide/torch_compiler/export/api_reference.html#torch.export.dynamic_shapes.Dim",
    ),
    "torch.onnx.export": (TORCH, "onnx_export.html#="),
    "torch.profiler.profile": (TORCH, "profiler.html#="),
    "torch.backends.cudnn.benchmark": (TORCH, "backends.html#="),
    "torchvision.models.ResNet18_Weights": (VISION, "models/generated/torchvision.models.resnet18.html#="),
    "torchvision.models.ResNet18_Weights.DEFAULT": (VISION, "models/generated/torchvision.models.resnet18.html#="),
    "numpy.float32": (NUMPY, "reference/arrays.scalars.html#="),
    "numpy.pi": (NUMPY, "reference/constants.html#="),
    "numpy.typing.NDArray": (NUMPY, "reference/typing.html#="),
    "numpy.random.Generator": (NUMPY, "reference/random/generator.html#="),
    "numpy.random.default_rng": (NUMPY, "reference/random/generator.html#="),
    "numpy.random.PCG64": (NUMPY, "reference/random/bit_generators/pcg64.html#="),
    "sklearn.linear_model.LogisticRegression.fit": (
        SKLEARN,
        "modules/generated/sklearn.linear_model.LogisticRegression.html#=",
    ),
    "sklearn.linear_model.LogisticRegression.score": (
        SKLEARN,
        "modules/generated/sklearn.linear_model.LogisticRegression.html#=",
    ),
    "matplotlib.rcParams": (MATPLOTLIB, "api/matplotlib_configuration_api.html#="),
    "matplotlib.style.use": (MATPLOTLIB, "api/style_api.html#="),
    "matplotlib.collections.LineCollection": (MATPLOTLIB, "api/collections_api.html#="),
    "matplotlib.text.Text": (MATPLOTLIB, "api/text_api.html#="),
    "torchmetrics.MeanMetric": (METRICS, "aggregation/mean.html#torchmetrics.aggregation.MeanMetric"),
}

MODULES = {
    "torch": TORCH + "torch.html",
    "torch.nn": TORCH + "nn.html",
    "torch.nn.functional": TORCH + "nn.functional.html",
    "torch.utils.data": TORCH + "data.html",
    "torch.distributed": TORCH + "distributed.html",
    "torch.export": TORCH + "user_guide/torch_compiler/export.html",
    "torchvision.transforms.v2": VISION + "transforms.html",
    "numpy": NUMPY + "reference/index.html",
    "numpy.linalg": NUMPY + "reference/routines.linalg.html",
    "sklearn.datasets": SKLEARN + "api/sklearn.datasets.html",
    "matplotlib.pyplot": MATPLOTLIB + "api/pyplot_summary.html",
    "pathlib": PYTHON + "library/pathlib.html",
    "collections.abc": PYTHON + "library/collections.abc.html",
}

KINDS = {
    "torch.Tensor": {"class"},
    "torch.add": {"function"},
    "torch.no_grad": {"class", "function"},
    "torch.float32": {"attribute", "data"},
    "torch.Tensor.shape": {"attribute"},
    "torch.Tensor.view": {"method"},
    "torch.utils.data": {"module"},
    "numpy.exceptions.AxisError": {"exception"},
    "numpy.typing.NDArray": {"attribute", "class", "data"},
    "os.environ": {"attribute", "data"},
    "typing.Optional": {"attribute", "class", "data"},
    "ValueError": {"exception"},
}

# Undocumented, private, of another library, or without a page of their own: a wrong link is worse than none.
LEFT_OUT = {
    "torch.add_",
    "torch.view_copy",
    "torch.typename",
    "torch.Any",
    "torch.np",
    "torch.jit.script",
    "torch.linalg.LinAlgError",
    "torch.nn.functional.boolean_dispatch",
    "torch.nn.init.xavier_uniform",
    "torch.nn.Linear.parameters",
    "torch.nn.Parameter.view",
    "torch.cuda.GreenContext",
    "torchvision.transforms.v2.functional.hflip",
    "numpy.generic.max",
    "numpy.float32.is_integer",
    "numpy.testing.tempdir",
    "sklearn.tree.BaseDecisionTree",
    "sklearn.calibration.LinearSVC",
    "matplotlib.pyplot.viridis",
    "matplotlib.pyplot.Figure",
    "matplotlib.axes.Axes.set_visible",
    "pathlib.PurePosixPath.os",
    "uuid.Enum",
}


def load(folder=EXTENSIONS):
    """Import the extension from a folder."""
    spec = importlib.util.spec_from_file_location("inventories", folder / "inventories.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(pytestconfig):
    """Where the inventories are: kept between runs, since their names tell the versions and the rules."""
    return pytestconfig.cache.mkdir("inventories")


@pytest.fixture(scope="session")
def known(folder):
    """Return kind, name and address of everything in the inventories of all libraries."""
    extension = load()
    rules = extension.load_rules()
    found = {}
    for library, path in extension.write_missing(rules, folder).items():
        data = InventoryFile.loads(path.read_bytes(), uri=rules[library]["base"]).data
        found[library] = {(kind, name): item.uri for kind, names in data.items() for name, item in names.items()}
    return found


@pytest.fixture(scope="session")
def places(known):
    """Return the addresses of each name, whatever its kind."""
    found = {}
    for entries in known.values():
        for (_, name), uri in entries.items():
            found.setdefault(name, set()).add(uri)
    return found


@pytest.mark.parametrize("pages", [SEEN, FOLLOWS], ids=["seen", "follows"])
def test_known_pages(places, pages):
    """Every known name has its real address, and one address only."""
    expected = {name: {base + place.replace("=", name)} for name, (base, place) in pages.items()}
    assert {name: places.get(name) for name in pages} == expected


def test_modules(places):
    """A module leads to its page."""
    assert {name: places.get(name) for name in MODULES} == {name: {uri} for name, uri in MODULES.items()}


@pytest.mark.parametrize(("name", "kinds"), KINDS.items())
def test_kinds(known, name, kinds):
    """A name answers to the roles under which readers look for it."""
    assert {kind.removeprefix("py:") for entries in known.values() for kind, found in entries if found == name} == kinds


def test_left_out(places):
    """What has no page of its own has no link."""
    assert {name for name in LEFT_OUT if name in places} == set()


def test_names_are_public(known):
    """No private name, and none of another library."""
    for library, entries in known.items():
        names = {name for _, name in entries}
        assert {name for name in names if re.search(r"(^|\.)_", name)} == set()
        if library != "python":
            assert {name for name in names if name.split(".")[0] != library} == set()


def test_addresses_are_well_formed(known):
    """An address is a page below the library's base, with at most one anchor that names something."""
    rules = load().load_rules()
    for library, entries in known.items():
        pattern = re.escape(rules[library]["base"]) + r"[\w./-]+\.html(#[\w.-]+)?"
        assert {uri for uri in entries.values() if not re.fullmatch(pattern, uri)} == set()
        assert len(entries) > (60 if library == "torchmetrics" else 500)


def test_generated_pages_are_named_after_what_they_show(known):
    """A page made for one name shows that name, or the class that it belongs to."""
    for entries in known.values():
        for (_, name), uri in entries.items():
            page = re.search(r"/(?:_as_gen|generated)/(.*)\.html#(.*)", uri)
            if page and not page[1].endswith("-function") and not name.split(".")[-2].endswith("_Weights"):
                same = page[2] == page[1] or page[2].startswith(f"{page[1]}.") or page[2].endswith("_Weights")
                assert same, (name, uri)


@pytest.fixture
def copied(tmp_path):
    """Copy the extension, so that a test may change its rules."""
    for name in ("inventories.py", "inventories.toml"):
        shutil.copy(EXTENSIONS / name, tmp_path / name)
    return tmp_path


def test_written_once(copied, monkeypatch):
    """A second build finds the inventory and looks at nothing."""
    extension = load(copied)
    rules = {"python": extension.load_rules()["python"]}
    first = extension.write_missing(rules, copied / "made")["python"]
    written = first.stat().st_mtime_ns

    def refuse(*_, **__):
        raise AssertionError("the library was looked at again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert extension.write_missing(rules, copied / "made")["python"] == first
    assert first.stat().st_mtime_ns == written


@pytest.mark.parametrize("changed", ["inventories.py", "inventories.toml"])
def test_written_again_when_the_rules_change(copied, changed):
    """New rules make a new inventory and remove the old one."""
    extension = load(copied)
    rules = {"python": extension.load_rules()["python"]}
    first = extension.write_missing(rules, copied / "made")["python"]
    with (copied / changed).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    second = extension.write_missing(rules, copied / "made")["python"]
    assert second != first
    assert list((copied / "made").iterdir()) == [second]


def test_written_again_for_another_version(copied, monkeypatch):
    """Another version of the library makes another inventory."""
    extension = load(copied)
    rules = {"python": extension.load_rules()["python"]}
    first = extension.write_missing(rules, copied / "made")["python"]
    monkeypatch.setattr(extension.platform, "python_version", lambda: "9.9")
    assert extension.write_missing(rules, copied / "made")["python"] != first


def test_a_library_that_cannot_be_looked_at(copied):
    """The error names the library and says why, and nothing half-made stays."""
    with (copied / "inventories.toml").open("a", encoding="utf-8") as file:
        file.write('\n[odd]\nbase = "https://example.org/"\ntitle = "Odd"\nmodules = {"no_such_module" = ["a", "b"]}\n')
    extension = load(copied)
    with pytest.raises(ExtensionError, match=r"(?s)could not be looked at.*no_such_module.*while looking at odd"):
        extension.write_missing({"odd": extension.load_rules()["odd"]}, copied / "made")
    assert list((copied / "made").iterdir()) == []


CONF = """
import socket, sys
sys.path.insert(0, {extensions!r})
extensions = ["inventories"]
inventories = {libraries!r}
inventories_path = {folder!r}
nitpicky = True
html_theme = "basic"
intersphinx_mapping = {{"own": ("https://example.org/", "own.inv")}}

def refuse(*_):
    raise RuntimeError("the build asked for something on the network")

socket.socket.connect = refuse

def setup(app):
    app.connect("build-finished", lambda *_: print("TORCH" if "torch" in sys.modules else "NO TORCH"))
"""

PAGE = """
Names
=====

:class:`torch.nn.Linear` :func:`torch.add` :meth:`torch.Tensor.view` :attr:`torch.Tensor.shape` :mod:`torch.nn`
:func:`torch.no_grad` :class:`torch.no_grad` :attr:`torch.float32` :obj:`torch.float32` :data:`numpy.pi`
:exc:`ValueError` :class:`ValueError` :class:`int` :class:`collections.abc.Iterator` :func:`time.perf_counter`
:class:`matplotlib.figure.Figure` :func:`sklearn.datasets.load_digits` :func:`torchvision.ops.nms` :func:`own.name`

.. py:function:: shown(a: int | None, b: numpy.typing.NDArray, *, c: collections.abc.Callable = ...) -> torch.Tensor
"""


def build(site, *options):
    """Build a site in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        *options,
        str(site),
        str(site / "out"),
    ]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory, folder):
    """Return a site with one page of names, and an inventory of its own beside ours."""
    site = tmp_path_factory.mktemp("site")
    conf = CONF.format(extensions=str(EXTENSIONS), libraries=[], folder=str(folder))
    (site / "conf.py").write_text(conf, encoding="utf-8")
    (site / "index.rst").write_text(dedent(PAGE), encoding="utf-8")
    extension = load()
    own = extension.HEADER.format(title="own", version="1").encode()
    (site / "own.inv").write_bytes(own + extension.zlib.compress(b"own.name py:function 1 page.html#$ -\n"))
    return site


@pytest.mark.usefixtures("known")
def test_a_build_links_every_role(site):
    """Roles and signatures resolve without a request, without torch in Sphinx's process, beside the site's own mapping.

    A second build finds its configuration as it was, and reads nothing again.
    """
    done = build(site)
    assert done.returncode == 0, done.stderr
    assert "NO TORCH" in done.stdout
    page = (site / "out" / "index.html").read_text(encoding="utf-8")
    wanted = {
        f"{TORCH}generated/torch.nn.Linear.html#torch.nn.Linear",
        f"{TORCH}tensor_attributes.html#torch.dtype",
        f"{TORCH}tensors.html#torch.Tensor",
        f"{NUMPY}reference/typing.html#numpy.typing.NDArray",
        f"{PYTHON}library/constants.html#None",
        f"{PYTHON}library/exceptions.html#ValueError",
        f"{SKLEARN}modules/generated/sklearn.datasets.load_digits.html#sklearn.datasets.load_digits",
        "https://example.org/page.html#own.name",
    }
    assert {uri for uri in wanted if f'href="{uri}"' not in page} == set()
    assert 'title="(in PyTorch v' in page
    assert "0 added, 0 changed, 0 removed" in build(site).stdout


def test_an_unknown_library(site):
    """A library without rules stops the build with the names of those that have some."""
    conf = (site / "conf.py").read_text(encoding="utf-8")
    (site / "conf.py").write_text(conf.replace("inventories = []", 'inventories = ["jax"]'), encoding="utf-8")
    done = build(site)
    assert done.returncode != 0
    assert "no rules for jax; there are torch, torchvision, numpy" in done.stderr

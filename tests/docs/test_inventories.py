"""Names lead to the pages that the official documentation really has."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import inventories
import pytest

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"

TORCH = "https://docs.pytorch.org/docs/stable/"
VISION = "https://docs.pytorch.org/vision/stable/"
NUMPY = "https://numpy.org/doc/stable/"
SKLEARN = "https://scikit-learn.org/stable/"
MATPLOTLIB = "https://matplotlib.org/stable/"
METRICS = "https://lightning.ai/docs/torchmetrics/stable/"
PYTHON = "https://docs.python.org/3/"

# Pages that were seen in the published documentation: PyTorch 2.14, Torchvision 0.28, NumPy 2.4, scikit-learn 1.8,
# Matplotlib 3.11, TorchMetrics 1.8. "=" stands for the name.
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
    "int": (PYTHON, "builtins/functions.html#="),
    "enumerate": (PYTHON, "builtins/functions.html#="),
    "list": (PYTHON, "builtins/stdtypes.html#="),
    "str.join": (PYTHON, "builtins/stdtypes.html#="),
    "None": (PYTHON, "builtins/constants.html#="),
    "ValueError": (PYTHON, "builtins/exceptions.html#="),
    "KeyboardInterrupt": (PYTHON, "builtins/exceptions.html#="),
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
    "numpy": NUMPY + "reference/index.html#module-numpy",
    "numpy.linalg": NUMPY + "reference/routines.linalg.html#module-numpy.linalg",
    "sklearn.datasets": SKLEARN + "api/sklearn.datasets.html#module-sklearn.datasets",
    "matplotlib.pyplot": MATPLOTLIB + "api/pyplot_summary.html#module-matplotlib.pyplot",
    "pathlib": PYTHON + "library/pathlib.html#module-pathlib",
    "collections.abc": PYTHON + "library/collections.abc.html#module-collections.abc",
}

# Undocumented, private, of another library, or without a page of their own: a wrong link is worse than none.
LEFT_OUT = {
    "torch.__version__.split",
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
    "numpy.generic.max",
    "numpy.float32.is_integer",
    "numpy.testing.tempdir",
    "sklearn.tree.BaseDecisionTree",
    "matplotlib.pyplot.viridis",
    "pathlib.PurePosixPath.os",
}


@pytest.mark.parametrize(("name", "place"), [*SEEN.items(), *FOLLOWS.items()])
def test_known_pages(name, place):
    """A known name has its real address."""
    base, where = place
    assert inventories.find(name).address == base + where.replace("=", name)


@pytest.mark.parametrize(("name", "address"), MODULES.items())
def test_modules(name, address):
    """A module leads to its page."""
    assert inventories.find(name).address == address


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_left_out(name):
    """What has no page of its own has no link."""
    assert inventories.find(name) is None


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("torch.nn.modules.linear.Linear", "torch.nn.Linear"),
        ("torchvision.transforms.v2.functional.hflip", "torchvision.transforms.v2.functional.horizontal_flip"),
        ("sklearn.calibration.LinearSVC", "sklearn.svm.LinearSVC"),
        ("matplotlib.pyplot.Figure", "matplotlib.figure.Figure"),
        ("matplotlib.axes.Axes.set_visible", "matplotlib.artist.Artist.set_visible"),
    ],
)
def test_other_names(alias, name):
    """What is lent a name elsewhere is found where it is described."""
    assert inventories.find(alias) == inventories.find(name)
    assert inventories.find(alias).name == name


def test_tensorboard():
    """The summary writer is described under the module that defines it."""
    pytest.importorskip("tensorboard")
    place = "tensorboard.html#torch.utils.tensorboard.writer.SummaryWriter"
    assert inventories.find("torch.utils.tensorboard.SummaryWriter").address == TORCH + place
    assert inventories.find("torch.utils.tensorboard.SummaryWriter.add_scalar").address == f"{TORCH}{place}.add_scalar"


def test_names_that_are_gone(monkeypatch):
    """What an older inventory describes and the installed library lacks has no page."""
    gone = {"matplotlib.pyplot.gone": ("function", "gone.html"), "numpy.gone": ("function", "gone.html")}
    monkeypatch.setattr(inventories, "official", lambda: gone)
    assert inventories.find("matplotlib.pyplot.gone") is None
    assert inventories.find("numpy.gone") is None


def test_generated_pages_are_named_after_what_they_show():
    """A page made for one name of torch shows that name, or the class that it belongs to."""
    names = [
        f"{owner}.{name}"
        for owner in (
            "torch",
            "torch.nn",
            "torch.nn.functional",
            "torch.optim",
            "torch.cuda",
            "torch.Tensor",
            "torch.nn.Module",
        )
        for name in dir(inventories.locate(owner))
        if not name.startswith("_")
    ]
    found = {name: entry.address for name in names if (entry := inventories.find(name))}
    assert len(found) > 1000
    found = {name: address for name, address in found.items() if "docs.python.org" not in address}  # torch.Any
    for name, address in found.items():
        assert re.fullmatch(re.escape(TORCH) + r"[\w./-]+\.html(#[\w.-]+)?", address), (name, address)
        page = re.search(r"/generated/(.*)\.html#(.*)", address)
        assert not page or page[2] == page[1] or page[2].startswith(f"{page[1]}."), (name, address)


CONF = """
import socket, sys
sys.path.insert(0, {extensions!r})
extensions = ["inventories"]
nitpicky = True
html_theme = "basic"

def refuse(*_):
    raise RuntimeError("the build asked for something on the network")

socket.socket.connect = refuse
"""

PAGE = """
Names
=====

:class:`torch.nn.Linear` :func:`torch.add` :meth:`torch.Tensor.view` :attr:`torch.Tensor.shape` :mod:`torch.nn`
:func:`torch.no_grad` :class:`torch.no_grad` :attr:`torch.float32` :obj:`torch.float32` :data:`numpy.pi`
:exc:`ValueError` :class:`ValueError` :class:`int` :class:`collections.abc.Iterator` :func:`time.perf_counter`
:class:`matplotlib.figure.Figure` :func:`sklearn.datasets.load_digits` :func:`torchvision.ops.nms`

.. py:function:: shown(a: int | None, b: numpy.typing.NDArray, *, c: collections.abc.Callable = ...) -> torch.Tensor
"""


def build(site):
    """Build a site in a process of its own."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", str(site), str(site / "out")]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300, check=False)


def test_a_build_links_every_role(tmp_path):
    """Roles and signatures resolve without a request; a second build reads nothing again; an unknown name is a warning."""
    (tmp_path / "conf.py").write_text(CONF.format(extensions=str(EXTENSIONS)), encoding="utf-8")
    (tmp_path / "index.rst").write_text(dedent(PAGE), encoding="utf-8")
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    wanted = {
        f"{TORCH}generated/torch.nn.Linear.html#torch.nn.Linear",
        f"{TORCH}tensor_attributes.html#torch.dtype",
        f"{TORCH}tensors.html#torch.Tensor",
        f"{NUMPY}reference/typing.html#numpy.typing.NDArray",
        f"{PYTHON}builtins/constants.html#None",
        f"{PYTHON}builtins/exceptions.html#ValueError",
        f"{SKLEARN}modules/generated/sklearn.datasets.load_digits.html#sklearn.datasets.load_digits",
    }
    assert {uri for uri in wanted if f'href="{uri}"' not in page} == set()
    assert 'title="(in PyTorch)' in page
    assert "0 added, 0 changed, 0 removed" in build(tmp_path).stdout
    (tmp_path / "index.rst").write_text("Names\n=====\n\n:func:`torch.no_such_name`\n", encoding="utf-8")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "torch.no_such_name" in done.stderr

r"""
ONNX and OpenVINO
=================

Run a trained network without PyTorch, check that it still gives the same answers, and
know what it costs in time and bytes.

.. lesson::
   :needs: deployment/01_export_a_graph networks/03_normalization_and_dropout
   :data: scikit-learn's handwritten digits
   :keywords: ONNX, onnxruntime, ONNX Runtime, OpenVINO, convert_model, ovc, mo, model
      optimizer, IR, intermediate representation, opset, dynamic_axes, dynamic_shapes,
      dynamic batch, input_names, Got invalid dimensions for input, Unexpected input
      data type, Required inputs are missing from input feed, training mode, inference,
      bf16, bfloat16, INFERENCE_PRECISION_HINT, preprocessing, normalize
   :thumbnail: 2
   :alone:
"""

# %%
# Will it run where there is no PyTorch?
# --------------------------------------
#
# A machine that sorts letters has a small computer and a scanner, and no PyTorch. Your network is to read its digits. Train it first,
# for a few seconds, on images that are standardised, as usual: minus the mean, divided by the standard deviation.

import logging

import torch
from torch import nn
from pytorch_course.datasets import digits

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no GPU: fine
images, labels = digits().tensors  # 0 is paper, 1 is ink
mean, std = images[:1408].mean(), images[:1408].std()
standard = (images - mean) / std

torch.manual_seed(0)
first, second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
body = [first, nn.BatchNorm2d(32), nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)]
head = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)]
network = nn.Sequential(*body, *head)

# %%

optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
for step in range(100):
    chosen = torch.randint(1408, (64,))
    nn.functional.cross_entropy(network(standard[chosen]), labels[chosen]).backward()
    optimizer.step()
    optimizer.zero_grad()
network.eval().requires_grad_(False)

# %%
# Now write it as **ONNX**, a file format for graphs that many programs read. :func:`torch.onnx.export` walks through the network
# as :func:`torch.export.export` does, so everything of the last lesson holds: example inputs, and the axes that may vary.
# ``external_data=False`` puts the weights into the same file (large models, over 2 GB, need a second one), and ``verbose=False``
# keeps it quiet.

import tempfile
from pathlib import Path

from torch.export import Dim

OPEN = ({0: Dim("batch")},)  # for the only input: axis 0 may vary
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def export(model, example, name, axes=OPEN):
    """Write a model as an ONNX file; return where."""
    path = folder / f"{name}.onnx"
    options = {"dynamic_shapes": axes, "external_data": False, "verbose": False}
    names = {"input_names": ["image"], "output_names": ["scores"]}
    torch.onnx.export(model, (example,), path, **names, **options)
    return path


path = export(network, standard[:2], "digits")

# %%
# **ONNX Runtime** is one of the programs that read it. It knows NumPy arrays, names of inputs, and nothing of PyTorch:

import onnxruntime

settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = 1  # as everywhere in this book
cpu = ["CPUExecutionProvider"]
session = onnxruntime.InferenceSession(path, settings, providers=cpu)
unseen, truth = standard[1408:], labels[1408:]
(scores,) = session.run(["scores"], {"image": unseen.numpy()})
accuracy = (torch.tensor(scores).argmax(1) == truth).float().mean().item()
print(type(scores).__name__, scores.shape, f"accuracy {accuracy:.2f}")
assert accuracy > 0.85

# %%

# fold: eight unseen digits and what ONNX Runtime reads
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 8, figsize=(7, 1.3))
for ax, image, answer in zip(axes, images[1408:], scores.argmax(1)):
    ax.imshow(image[0].numpy(), cmap="gray_r")
    ax.set_title(str(answer))
    ax.axis("off")

# %%
# .. caption:: Eight digits that the network was not trained with; above each the answer of ONNX Runtime.
#    :alt: Eight grey images of handwritten digits of 8 by 8 pixels with a number above each.
#
# Are the answers the same?
# -------------------------
#
# Not to the last bit: another program adds in another order. So say beforehand what difference you accept. Compare it with the scores:
# where the largest is about 20, a difference of 0.0001 changes no answer that was not nearly a tie. ``atol`` is that difference. ``rtol``
# would allow a share of each score on top, here none.

expected = network(unseen)
torch.testing.assert_close(torch.tensor(scores), expected, rtol=0, atol=1e-4)
largest = (torch.tensor(scores) - expected).abs().max().item()
print(f"measured largest score {expected.max():.0f}, largest difference {largest:.0e}")

# %%
# Make that comparison a habit, with real inputs and more than one batch size. That 389 images agree is no proof for every image, but it
# is good evidence that the file holds your network.
#
# What is in the file?
# --------------------
#
# A graph again, in a vocabulary of its own. The operators have versions: an **opset** is the edition of the dictionary. An engine
# that is older than the opset cannot read the file; then export with a smaller ``opset_version``, but not below 18:
# older ones need a conversion that may fail.

import onnx

content = onnx.load(path)
print("opset", content.opset_import[0].version)
print([node.op_type for node in content.graph.node])
for value in session.get_inputs() + session.get_outputs():
    print(value.name, value.shape, value.type)
kinds = {node.op_type for node in content.graph.node}
assert "Conv" in kinds and not kinds & {"Dropout", "BatchNormalization"}

# %%
# Two layers are missing. Dropout does nothing when a network is used. Batch normalisation multiplies by fixed numbers then, so the
# exporter has multiplied them into the weights of the convolution before it. The names are the ones that you gave; whoever calls needs
# them:

try:
    session.run(None, {"picture": unseen.numpy()})
except ValueError as error:
    print(error)

# %%
# How large may a batch be?
# -------------------------
#
# ``batch`` in the shape above is the open axis. Leave ``dynamic_shapes`` out, and the size of the example is built in:

fixed = export(network, standard[:2], "fixed", axes=None)
narrow = onnxruntime.InferenceSession(fixed, settings, providers=cpu)
try:
    narrow.run(None, {"image": unseen[:5].numpy()})
except Exception as error:
    print(*str(error).splitlines()[:2], sep="\n")
print("open axis:", session.run(None, {"image": unseen[:5].numpy()})[0].shape)

# %%
# What does OpenVINO make of it?
# ------------------------------
#
# **OpenVINO** is Intel's engine, made for ordinary processors. ``convert_model`` reads the ONNX file (or an exported program, directly
# from PyTorch), and ``compile_model`` prepares it for a device. Older texts say "run the Model Optimizer, ``mo``": it was removed in
# 2025, and ``convert_model`` or the command ``ovc`` has taken its place.
#
# By default OpenVINO reports to its makers that and how it is used; the command ``opt_in_out --opt_out`` ends that for good. A lesson
# should neither report nor change your settings. So for this one process the package that reports counts as not installed.

import sys

sys.modules["openvino_telemetry"] = None  # importing it fails, so OpenVINO goes without
import openvino

converted = openvino.convert_model(path)


def compile_with(precision, model=converted):
    """Prepare a network for one thread of this processor."""
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    return openvino.compile_model(model, "CPU", config)


by_default = openvino.compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": 1})
precision = by_default.get_property("INFERENCE_PRECISION_HINT").to_string()
print("measured default precision:", precision)

# %%
# The default is not the same everywhere. On processors that have instructions for :term:`bfloat16`, OpenVINO uses it without being asked.
# So ask for what you want, and compare both:

exact, rough = compile_with("f32"), compile_with("bf16")
for name, engine, tolerance in (("f32", exact, 1e-4), ("bf16", rough, 0.5)):
    answer = torch.tensor(engine(unseen.numpy())[0])
    torch.testing.assert_close(answer, expected, rtol=0, atol=tolerance)
    difference = (answer - expected).abs().max()
    changed = (answer.argmax(1) != expected.argmax(1)).sum()
    print(f"measured {name:4} largest difference {difference:.0e}, {changed} changed")

# %%
# There are three cases. If the default above is bf16, the processor has instructions for it. If the default is f32 and the second line
# differs far more than the first, OpenVINO imitates bfloat16 because you asked for it. If the two lines are equal, it has used float32
# for both. With bfloat16, real or imitated, the scores keep two or three digits. An answer changes only where two scores were nearly
# equal.
#
# Why bfloat16 and not float16, which has more digits? Three numbers show it: the square of 300, a tiny number, and one third.

for dtype in (torch.float16, torch.bfloat16):
    values = torch.tensor([300.0**2, 1e-8, 1 / 3]).to(dtype)
    print(f"{dtype!s:15}", [f"{value:.4g}" for value in values.tolist()])

# %%
# float16 ends at 65504: the square is infinite, and the tiny number is gone, in silence. bfloat16 has the range of float32 and
# pays with digits. An overflow makes an answer useless; missing digits move it a little, as the differences above show.
#
# Which one is fast, which one small?
# -----------------------------------
#
# OpenVINO has a file format, too, the IR: a description (``.xml``) and the weights (``.bin``). ``save_model`` stores the weights
# as float16, in half the bytes, unless you say no.

openvino.save_model(converted, folder / "half.xml")
openvino.save_model(converted, folder / "full.xml", compress_to_fp16=False)
torch.save(network.state_dict(), folder / "digits.pt")


def kilobytes(name):
    """Return the size of all files of that name."""
    return sum(file.stat().st_size for file in folder.glob(name)) / 1000


# %%
# Load both back, and time each engine on one image and on 256. Everything goes into one table: size, :term:`latency`, and the largest
# difference from PyTorch.

from torch.utils.benchmark import Timer

full, half = (folder / f"{name}.xml" for name in ("full", "half"))
from_file, smallest = compile_with("f32", full), compile_with("bf16", half)
again = torch.tensor(from_file(unseen.numpy())[0])
torch.testing.assert_close(again, expected, rtol=0, atol=1e-4)
rows = {
    "PyTorch": (network, "digits.pt"),
    "ONNX Runtime": (lambda x: session.run(None, {"image": x.numpy()})[0], path.name),
    "OpenVINO f32": (lambda x: from_file(x.numpy())[0], "full.*"),
    "OpenVINO bf16": (lambda x: smallest(x.numpy())[0], "half.*"),
}

# %%

table = {}
print("measured               KB  1 image ms   256 ms  difference")
for name, (run, files) in rows.items():
    times = []
    for size in (1, 256):
        timer = Timer("run(x)", globals={"run": run, "x": unseen[:size]})
        times.append(1000 * timer.blocked_autorange(min_run_time=0.1).median)
    apart = (torch.as_tensor(run(unseen)) - expected).abs().max()
    table[name] = times
    print(f"measured {name:13} {kilobytes(files):4.0f}"
          f"{times[0]:12.3f}{times[1]:9.2f}{apart:12.0e}")  # fmt: skip

# %%

# fold: time on one image and on 256
fig, panels = plt.subplots(1, 2, figsize=(7, 2.4), sharey=True)
for panel, number, size in zip(panels, (0, 1), ("1 image", "256 images")):
    values = [times[number] for times in table.values()]
    panel.barh(list(table), values, color=["C0", "C1", "C2", "C3"])
    panel.set(title=size, xlabel="time (ms)")
panels[0].invert_yaxis()

# %%
# .. caption:: The time of one call, as measured on the machine that built this page: on the left for a single image, on the right for 256.
#    :alt: Two charts with a horizontal bar for each of PyTorch, ONNX Runtime, OpenVINO in float32 and OpenVINO in bfloat16.
#
# With a single image, what each call costs besides the arithmetic counts most: PyTorch goes through Python for each of its layers, and an
# engine once for all of them. With a large batch the arithmetic counts. The last row has halved weights *and* bfloat16, and its difference
# comes from both. Which row is the fastest depends on the processor, on the batch, and on whether bfloat16 is real there, imitated, or not
# used. So measure on the machine that will do the work, with its batch size, and read the last column beside the times.
#
# .. admonition:: From practice
#
#    Look into a file before you give it away. The exporter notes where in your code each operation came from, with the paths of
#    your machine. Delete the notes, and write the file again with ``onnx.save``:

for node in content.graph.node:
    del node.metadata_props[:]
before = path.read_bytes().count(b".py")
onnx.save(content, path)
after = path.read_bytes().count(b".py")
print(f"measured Python files named in the file: {before}, then {after}")
assert before > 0
assert after == 0

# %%
# What if I forget eval()?
# ------------------------
#
# Then the exporter warns, and writes what you asked for: a dropout in training, which sets three in ten values to zero at random.

import warnings

network.train()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    training = export(network, standard[:2], "training")
network.eval()
print(str(caught[0].message).split(". ")[0])
print([node.op_type for node in onnx.load(training).graph.node])

# %%
# There is a ``Dropout`` in the file now. (Batch normalisation has gone into the convolution all the same.) You might expect that every
# engine does the same with the dropout. There are three different outcomes:

plain = onnxruntime.SessionOptions()
plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
wrong = []
for name, options in (("optimises", settings), ("does not optimise", plain)):
    engine = onnxruntime.InferenceSession(training, options, providers=cpu)
    (answer,) = engine.run(None, {"image": unseen.numpy()})
    wrong.append((torch.tensor(answer) - expected).abs().max().item())
    print(f"measured ONNX Runtime {name}: largest difference {wrong[-1]:.5f}")
try:
    openvino.convert_model(training)
except Exception as error:
    print("OpenVINO:", *(x for x in str(error).splitlines() if "supported" in x))
assert wrong[0] < 1e-4 and wrong[1] > 0.1

# %%
# ONNX Runtime removes the dropout while it optimises the graph. Without that step it obeys the file, drops values at random, and
# the scores are far off. OpenVINO refuses the file. So your test may pass and the other machine fail. Call ``eval()`` before each export,
# and take the warning seriously.
#
# Who scales the pixels?
# ----------------------
#
# The scanner delivers bytes: 255 is paper, 0 is ink. The network was trained on standardised ink. First the engine complains, about the
# type. Then somebody converts the type, and nobody complains any more:

scan = (255 * (1 - images[1408:])).round().to(torch.uint8)


def share_right(session, batch):
    """Return the share of the unseen digits that a session reads right."""
    (answer,) = session.run(None, {"image": batch.numpy()})
    return (torch.tensor(answer).argmax(1) == truth).float().mean().item()


try:
    share_right(session, scan)
except Exception as error:
    print(str(error).partition("INVALID_ARGUMENT : ")[2])

ink = 1 - scan / 255
steps = {"bytes as floats": scan.float(), "divided by 255": scan / 255}
steps |= {"ink, not paper": ink, "standardised": (ink - mean) / std}
shares = {name: share_right(session, batch) for name, batch in steps.items()}
for name, share in shares.items():
    print(f"{name:16} {share:.2f}")
assert max(shares["bytes as floats"], shares["divided by 255"]) < 0.3
assert shares["standardised"] == max(shares.values()) > 0.85

# %%
# Nothing fails but the answers. The first two ways are far below the tenth that guessing would get: to this network, dark ink on white
# paper is a digit turned inside out. The third one, without standardising, is the more dangerous one: it costs only some of the accuracy,
# and nobody looks for the reason. The file did not say what it expects. So **put the preprocessing into the model**, and let it take
# what the scanner delivers:


class Scanner(nn.Module):
    """Score the ten digits for bytes from the scanner."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels):
        ink = 1 - pixels.float() / 255
        return self.network((ink - self.mean) / self.std)


whole = export(Scanner(network, mean, std).eval(), scan[:2], "scanner")
scanner = onnxruntime.InferenceSession(whole, settings, providers=cpu)
print(scanner.get_inputs()[0].type, f"{share_right(scanner, scan):.2f}")
assert abs(share_right(scanner, scan) - shares["standardised"]) < 0.01

# %%
# Now the type of the input is ``uint8``. The type is checked, as you saw above, so a batch of floats would be an error here, not a wrong
# answer.
#
# Take this with you
# ------------------
#
# Export, load in the other engine, and compare at more than one batch size, on inputs as they really come. ``network`` is yours after
# ``eval()``, and ``unseen`` holds such inputs. You need ``torch``, ``onnxruntime`` and ``tempfile``, and ``onnx`` and ``onnxscript``
# installed. Each score may differ by ``atol`` plus the share ``rtol`` of its size, as your scores may be larger or smaller than these:

axes = ({0: torch.export.Dim("batch")},)
with tempfile.TemporaryDirectory() as place:
    file = f"{place}/model.onnx"
    options = {"input_names": ["image"], "external_data": False, "verbose": False}
    torch.onnx.export(network, (unseen[:2],), file, dynamic_shapes=axes, **options)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
for size in (1, 7):
    (there,) = session.run(None, {"image": unseen[:size].numpy()})
    here = network(unseen[:size])
    torch.testing.assert_close(torch.tensor(there), here, rtol=1e-4, atol=1e-4)
    print(f"batch of {size}: the same scores within the tolerance")

# %%
# Change something
# ----------------
#
# * Leave ``input_names`` out of ``export``. What is the input called now, and who complains?
# * Ask for a much older dictionary: add ``"opset_version": 13`` to ``options`` in ``export``. Does the exporter stop?
# * Add a row to the table: ``compile_with("f32", folder / "half.xml")``, with the files ``half.*``. How large is its difference?
#
# .. dropdown:: What happens
#
#    * ``input``: that is what the argument of ``forward`` of an ``nn.Sequential`` is called. The first ``session.run`` stops with
#      "Required inputs (['input']) are missing from input feed (['image'])".
#    * No, and the file has opset 18. The exporter writes the operators of opset 18 or newer and then tries to convert the file. Its log
#      says "Failed to convert the model to the target version 13", and the file is written all the same. So read the opset from the file.
#    * Some thousandths: the weights are rounded to about three digits, and the arithmetic is exact. That is hundreds of times the
#      difference of the whole float32 weights, and still far less than that of bfloat16 on a processor that has it.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a sum in bfloat16
#
#    bfloat16 keeps 8 binary digits of a number, so from 256 to 512 it can only count in twos. What is ``257`` as a bfloat16, if a number
#    half-way between two neighbours goes to the one with the even last digit? And what do you get when you start at 256 and add 1 a
#    hundred times? Write both.

### BEGIN SOLUTION
guess = [256.0, 256.0]
### END SOLUTION

total = torch.tensor(256.0, dtype=torch.bfloat16)
for _ in range(100):
    total += 1
expect(guess, [torch.tensor(257.0).bfloat16().item(), total.item()])

# %%
# .. exercise:: Fix the preprocessing of a camera
#
#    A camera delivers colour images as bytes, shape (N, 8, 8, 3), white paper, dark ink. A colleague prepares them with
#    ``pixels.reshape(-1, 1, 8, 8) / 255`` and gets three times as many images as there are, all wrong. Write ``prepare``: it returns the
#    ink from 0 to 1 as (N, 1, 8, 8), where the ink of a pixel is 1 minus the mean of its three colours, each divided by 255.


def prepare(pixels):
    ### BEGIN SOLUTION
    return 1 - pixels.float().mean(dim=3).unsqueeze(1) / 255
    ### END SOLUTION


paper = 255 - 51 * torch.arange(5).reshape(5, 1, 1, 1).expand(5, 8, 8, 3)
tint = torch.tensor([-9, 0, 9]) * (paper < 255)
camera = (paper + tint).to(torch.uint8)
expect(
    lambda: prepare(camera),
    torch.arange(5).div(5).reshape(5, 1, 1, 1).expand(5, 1, 8, 8),
)

# %%
# .. exercise:: Build a check
#
#    Write ``compare(run, model, inputs)``: ``run`` is an engine that takes and returns NumPy arrays, ``model`` a PyTorch network. Return
#    a pair: the largest difference of the scores as a float, and how many answers changed as an ``int``.


def compare(run, model, inputs):
    ### BEGIN SOLUTION
    here = model(inputs)
    there = torch.as_tensor(run(inputs.numpy()))
    changed = (here.argmax(1) != there.argmax(1)).sum().item()
    return (here - there).abs().max().item(), changed
    ### END SOLUTION


def broken_engine(batch):
    moved = batch.copy()
    moved[0, 2] += 2.5
    moved[3] -= 4.0
    return moved


rows = torch.tensor([[1.0, 0.0, 0.0]]).repeat(4, 1)
expect(lambda: compare(broken_engine, nn.Identity(), rows), (4.0, 1))

# %%

temporary.cleanup()

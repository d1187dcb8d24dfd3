r"""
Training in seconds
===================

Make a training many times faster on the same processor, one change at a time, and find
out which changes are worth it.

.. lesson::
   :needs: training/03_training_loop networks/05_convolution_arithmetic
      optimization/08_learning_rates
   :data: glyphs of ten digits; MNIST when it is on this machine
   :keywords: speed up training, slow training, PyTorch slow on CPU, profile, profiling,
      bottleneck, time to accuracy, Amdahl's law, channels_last, NHWC, memory format,
      bfloat16, bf16, autocast, mixed precision, torch.compile, OneCycleLR,
      super-convergence, label smoothing, whitening, ZCA, Muon, Newton-Schulz, fused
      optimizer, DataLoader bottleneck, speedrun, 99 % on MNIST
   :thumbnail: 3
   :alone:
"""

# %%
# Does it have to take that long?
# -------------------------------
#
# You train a network to read digits, as the official example of PyTorch does it, and you wait for minutes. Before you ask for a
# better machine, find out how much of the wait is necessary. We race to a fixed goal, 97 % right on 500 pictures that are not trained
# with, and change one thing after the other. The pictures are digits from the fonts of a computer, bent and made noisy, and as large as
# those of MNIST.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets import glyphs
from pytorch_course.plots import image_grid

plt.style.use("pytorch_course.book")

# %%

images, labels = glyphs(5760, seed=1).tensors
held_out, answers = glyphs(500, seed=2).tensors
fig = image_grid(images[:20], columns=10)

# %%
# .. caption:: Twenty of the pictures. Each is 28 pixels high and wide.
#    :alt: Two rows of ten small pictures: white digits in many fonts on black, slanted, turned and grainy.
#
# The recipe of the example: two convolutions, two layers of dropout and two linear layers, trained by the optimizer Adadelta in batches
# of 64.

from torch import nn


def example():
    """Return the network of PyTorch's MNIST example."""
    convolutions = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()]
    pool = [nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()]
    head = [nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
    return nn.Sequential(*convolutions, *pool, *head)


# %%
# Its data set converts one picture at a time, from whole numbers to floating-point numbers,
# with the mean and the standard deviation of MNIST:

from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

convert = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.13], [0.31])]
transform = v2.Compose(convert)


class Pictures(Dataset):
    """The training pictures, converted when they are asked for."""

    def __len__(self):
        return len(images)

    def __getitem__(self, index):
        return transform(images[index]), labels[index]


# %%
# And the race. Two stopwatches run: one while the loop waits for a batch, one while it learns from it. ``process_time`` counts the seconds
# in which the processor worked *for us*, so other programs disturb it less than they disturb a clock on the wall. After every
# five batches of 64 both watches stand still while we look at the accuracy.

from time import process_time

from torch.nn import functional as F


def accuracy(model, prepare):
    """Return the share of the held-out pictures that are right."""
    model.eval()
    with torch.no_grad():
        said = [model(prepare(part)).argmax(1) for part in held_out.split(100)]
    model.train()
    return (torch.cat(said) == answers).float().mean().item()


# %%


def race(model, optimizers, batches, prepare=transform, schedules=(), smoothing=0.0):
    """Train until 97 % are right; return pictures seen, seconds waited and learned."""
    seen, waited, learned, share = 0, 0.0, 0.0, 0.0
    begin = process_time()
    for x, y in batches:
        loaded = process_time()
        F.cross_entropy(model(x), y, label_smoothing=smoothing).backward()
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        waited += loaded - begin
        learned += process_time() - loaded
        seen += len(y)
        if seen % 320 == 0 and seen > 640:
            share = accuracy(model, prepare)
        if share >= GOAL:
            break
        begin = process_time()
    return seen, waited, learned, share


# %%

from statistics import median

GOAL, results = 0.97, {}


def report(name, run, repeats=3):
    """Run a race from several seeds; keep and print the medians."""
    rows = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        rows.append(run())
    seen, waited, learned, share = map(median, zip(*rows))
    results[name] = [waited, learned, share]
    print(f"measured {name:9} {seen:5.0f} pictures, ", end="")
    print(f"{waited:.2f} s waiting + {learned:.2f} s learning, {share:.1%} right")


def by_adadelta(model, batches):
    """Race as the example does."""
    adadelta = torch.optim.Adadelta(model.parameters(), lr=1.0)
    return race(model, [adadelta], batches)


loader = DataLoader(Pictures(), 64, shuffle=True)
report("textbook", lambda: by_adadelta(example(), loader), repeats=1)

# %%
# It reaches the goal in its first epoch, and nearly all of the time goes into learning. So faster loading, which is what people try
# first, cannot help here: a loader that takes *no* time at all would save only the small first number.

assert results["textbook"][1] > 3 * results["textbook"][0]

# %%
# What is it doing all the time?
# ------------------------------
#
# Multiplying. Torch can count: ``FlopCounterMode`` adds up the operations of all matrix products and convolutions. A multiplication and
# an addition count as two.

from torch.utils.flop_counter import FlopCounterMode


def operations(layer, x):
    """Return the operations of one forward pass, in millions."""
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops() / 1e6


network, x = example().eval(), transform(images[:1])
print(f"all layers         {operations(network, x):5.2f} million operations")
print(f"second convolution {operations(network[2], network[:2](x)):5.2f}")

# %%
# One layer does nearly all: the second convolution looks at 24 · 24 places, 32 channels deep, for 64 features. The formula of
# :doc:`/lessons/networks/05_convolution_arithmetic` says what to change: take fewer places. A stride of 2 in the first
# convolution leaves a quarter, and 32 features are enough for so few shapes.


def small_network():
    """Return a network with few places and few channels."""
    first = [nn.Conv2d(1, 16, 5, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    convolution = nn.Conv2d(16, 32, 3, padding=1, bias=False)
    second = [convolution, nn.BatchNorm2d(32), nn.ReLU()]
    hidden = [nn.Linear(1152, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    rest = [nn.MaxPool2d(2), nn.Flatten(), *hidden, nn.Linear(128, 10)]
    return nn.Sequential(*first, *second, *rest)


print(f"small network {operations(small_network().eval(), x):.2f} million operations")
report("small", lambda: by_adadelta(small_network(), loader), repeats=1)

# %%
# Now it pays to look at the loader
# ---------------------------------
#
# Per picture the wait is the same as before, but now it is a large share. The order of the changes matters: what did
# nothing for the large network is the next thing to do for the small one. All pictures fit into memory, so take a whole batch by its row
# numbers and convert it in one go. No data set object, no loader, no loop over pictures:


def batches(size, updates, prepare=transform):
    """Yield batches from pictures that stay in memory, in a new order."""
    for rows in torch.randperm(len(images)).split(size)[:updates]:
        yield prepare(images[rows]), labels[rows]


report("resident", lambda: by_adadelta(small_network(), batches(64, 90)), repeats=1)

# %%
# Fewer pictures
# --------------
#
# So far each picture became cheaper. The other factor is how many of them it takes:
#
# .. math:: \text{time to the goal} = \text{pictures until the goal} \times \text{time per picture}
#
# Adadelta at a constant rate suits a training of 14 epochs. We have half an epoch. Take AdamW with a large
# :term:`learning rate` that rises and falls once, and plan the length so short that it just reaches the goal. *Label smoothing* asks for a
# little less than certainty: 0.91 for the right digit and 0.01 for each other. So the network stops pulling on pictures that it
# already has right.

from torch.optim.lr_scheduler import OneCycleLR


def only_adamw(model):
    """Let AdamW steer all weights that learn, at a large rate."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [torch.optim.AdamW(weights, lr=0.02, betas=(0.9, 0.95), weight_decay=0)]


def planned(network, updates, prepare, steer=only_adamw):
    """Race with rates that rise once and fall to zero within so many updates."""
    model, plans = network(), []
    optimizers = steer(model)
    for optimizer in optimizers:
        peak = optimizer.defaults["lr"]
        plans.append(OneCycleLR(optimizer, peak, updates, cycle_momentum=False))
    feed = batches(64, updates, prepare)
    return race(model, optimizers, feed, prepare, plans, smoothing=0.1)


report("schedule", lambda: planned(small_network, 45, transform))

# %%
# Compare the number of pictures with that of "resident". On our machine this change alone won nothing: the normalisation already lets
# Adadelta take large steps. We keep it because a planned rate is what the next changes need: each of them makes the plan cheaper or
# shorter.
#
# Arranged for the processor
# --------------------------
#
# Three changes, none of which touches the idea of the network. The outermost two pixels on each side are background, so cut them off.
# Pool *before* the normalisation and ReLU, which then have a quarter of the numbers to do. And keep the channels of a pixel side by side
# in memory (``channels_last``; :doc:`/lessons/tensors/07_views_and_storage` has the strides), as the convolutions of many processors want
# them.


def compact(first):
    """Return the small network in another order, behind a first layer."""
    second = [nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.MaxPool2d(2)]
    hidden = [nn.Linear(800, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    rest = [nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), *hidden, nn.Linear(128, 10)]
    model = nn.Sequential(first, nn.ReLU(), *second, *rest)
    return model.to(memory_format=torch.channels_last)


# %%


def crop(pictures):
    """Cut off the edges, and make the numbers small."""
    cut = pictures[:, :, 2:26, 2:26].float().div_(78)
    return cut.contiguous(memory_format=torch.channels_last)


def arranged():
    """Return the rearranged network with a first layer that learns."""
    first = nn.Conv2d(1, 16, 5, stride=2, bias=False)
    return compact(nn.Sequential(first, nn.BatchNorm2d(16)))


report("arranged", lambda: planned(arranged, 45, crop))

# %%
# A first layer that is not learned
# ---------------------------------
#
# First layers all end up alike: edges, slopes and spots. They can be computed instead. Neighbouring pixels are nearly equal, so the
# patches of 5 by 5 pixels vary a lot in a few directions (the whole patch brighter, one side brighter) and little in the others.
# *Whitening* finds these directions, the eigenvectors of their covariance, and scales each to the same variance. We keep eight, and each
# with both signs, because the ReLU drops what is negative. Such a layer needs no gradient, so its backward pass falls away, too.


def whitening(pictures):
    """Return a fixed convolution: the main directions of the patches, both signs."""
    patches = pictures.unfold(2, 5, 1).unfold(3, 5, 1).reshape(-1, 25)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    scaled = (vectors / (values + 0.01).sqrt()).T.flip(0)
    filters = scaled[:8].view(8, 1, 5, 5)
    layer = nn.Conv2d(1, 16, 5, stride=2, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.cat([filters, -filters]))
    return layer


# %%


def whitened():
    """Return the rearranged network with a first layer that is computed."""
    return compact(whitening(crop(images[:200])))


report("whitened", lambda: planned(whitened, 45, crop))
fig = image_grid(whitened()[0].weight[:8] * 0.7 + 0.5, columns=8)

# %%
# .. caption:: The eight directions in which patches of 200 pictures vary most: overall brightness, two slopes, then finer patterns.
#    :alt: Eight small grey squares of five by five pixels: one even, then gradients across and down, then stripes and checks.
#
# Steps in all directions
# -----------------------
#
# A gradient of a matrix is often dominated by a few directions, and an update along it learns little else. *Muon* makes an update in
# which all directions have about the same size: it replaces the matrix by the nearest one with orthonormal rows. An exact answer would
# need a singular value decomposition; three rounds of a polynomial in :math:`\mathbf{X}\mathbf{X}^\top` come near enough. Torch has
# :class:`torch.optim.Muon`. It takes matrices only and computes in bfloat16, which is slow on many processors, so here it is by hand:


def orthogonal(x):
    """Bring the singular values of a wide matrix near 1 (Newton-Schulz)."""
    x = x / (x.norm() + 1e-7)
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, on weights of a fixed size."""

    def __init__(self, weights, lr):
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        for weight in group["params"]:
            mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
            mean.mul_(0.6).add_(weight.grad)
            update = orthogonal((weight.grad + 0.6 * mean).flatten(1))
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.sub_(group["lr"] * update.view_as(weight))


# %%
# It steers the two large matrices, and AdamW everything else:


def with_muon(model):
    """Let Muon steer the two large matrices."""
    matrices = [model[2].weight, model[7].weight]
    return [Muon(matrices, lr=0.15), *only_adamw(nn.ModuleList([model[4], model[8:]]))]


report("muon", lambda: planned(whitened, 25, crop, with_muon))

# %%
# It needs fewer pictures. But its own matrix products cost time in every update, so in batches as small as ours the gain in seconds is
# small. Compare both columns before you keep such a change.
#
# What did nothing?
# -----------------
#
# Such a list is not complete without the ideas that failed. Faster loading did nothing for the textbook. The next one depends on your
# processor: some multiply numbers of type :term:`bfloat16` several times faster than float32, and others have no such instructions and
# imitate them, slowly. ``torch.cpu.get_capabilities()`` tells what yours has, here whether AVX-512 can do it, but only a measurement
# tells what it brings.

print("measured AVX-512 for it:", torch.cpu.get_capabilities().get("avx512_bf16"))
with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
    report("bfloat16", lambda: planned(whitened, 25, crop, with_muon))

# %%
# (Usually :class:`torch.autocast` stands around the forward pass only. Around a whole race it would keep the first bfloat16 copy of
# each weight and never see an update: the accuracy would stay that of guessing. ``cache_enabled=False`` prevents it.)
#
# Two more ideas are not in the list. :func:`torch.compile` translates a model before its first step. For a training of an hour that
# can pay, but here the translation takes longer than the whole training. And *threads*: this page uses one, so that its measurements
# are steady. :doc:`/lessons/tensors/09_numpy_against_torch_speed` shows how to time more.
#
# How far did we come?
# --------------------

# fold: the seconds of all races on a logarithmic axis
names = list(results)
seconds = [waited + learned for waited, learned, share in results.values()]
fig, ax = plt.subplots(figsize=(6.4, 3.2))
bars = ax.barh(names, seconds)
ax.bar_label(bars, [f"{value:.2f} s" for value in seconds], padding=4)
ax.set(xscale="log", xlim=(0.05, 40), xlabel="CPU seconds (measured)")
ax.invert_yaxis()
gain = seconds[0] / seconds[names.index("muon")]
print(f"measured {gain:.0f} times faster than the textbook")
assert gain > 8
assert min(share for *_, share in results.values()) > 0.94

# %%
# .. caption:: CPU seconds until 97 % are right, on a logarithmic axis. Each bar keeps the changes of the bars above it. Measured on the
#    machine that built this page; whether the last bar is shorter or longer than the one above it depends on the processor.
#    :alt: Eight horizontal bars, by far the longest for the textbook at the top, a quite short one for muon.
#
# And on real handwriting?
# ------------------------
#
# The same recipe on MNIST, if it is on this machine: until 98 % of every tenth test picture are right.

from pytorch_course.datasets import DatasetError, public

try:
    images, labels = public("MNIST").tensors
    held_out, answers = public("MNIST", train=False)[::10]
except DatasetError:
    print('MNIST is not here. Online, public("MNIST", download=True) fetches it.')
else:
    GOAL = 0.98
    report("on MNIST", lambda: planned(whitened, 450, crop, with_muon), repeats=1)

# %%
# The file ``benchmarks/mnist_99.py`` of the book's repository runs the textbook's recipe and ours side by side on MNIST to 99 %, several
# seeds each. It chooses nothing by the test pictures: all settings come from a part of the training set.
#
# Take this with you
# ------------------
#
# Data in memory, channels last, one cycle of a planned length. The rest depends on your network: count operations, measure, change one
# thing.

model = small_network().to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0)
order = torch.randperm(len(images)).split(64)[:20]  # the planned length
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, len(order))
for rows in order:
    x = images[rows].float().div_(255).contiguous(memory_format=torch.channels_last)
    loss = F.cross_entropy(model(x), labels[rows], label_smoothing=0.1)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()

# %%
# Change something
# ----------------
#
# * In ``small``, leave out ``nn.BatchNorm1d(128)``. How many pictures does the race "small" need now?
# * Plan the race "muon" with 75 updates instead of 25. Is it at the goal sooner?
# * In ``small_network``, take a first stride of 1, and 4,608 inputs for the linear layer. How many operations is that?
#
# .. dropdown:: What happens
#
#    * 4,800 instead of 3,200 when we tried, and so about half as much time again. The normalisation keeps the numbers that enter
#      the last layer at one scale, so larger steps do no harm.
#    * Later, after 2,560 pictures. The rate is still high when the short plan has already come down, and a network comes to rest only
#      while the rate falls. A plan that is too short never gets there, so try several lengths.
#    * About four times as many, because the convolutions look at four times as many places, and the linear layer at four times as
#      many numbers.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the gain of a faster loader
#
#    A training waits for data for 1 s and learns for 9 s. You make the loading ten times faster. How many times faster is the whole? And
#    how many times, if it waits for 1 s and learns for 1 s? Write two numbers, rounded to two digits after the point.

### BEGIN SOLUTION
guess = [1.10, 1.82]
### END SOLUTION

before, after = torch.tensor([10.0, 2.0]), torch.tensor([9.1, 1.1])
expect(guess, (before / after).round(decimals=2).tolist())

# %%
# .. exercise:: Fix a shuffle
#
#    A colleague keeps all data in memory and writes ``images[torch.randperm(n)]`` and ``labels[torch.randperm(n)]`` at the start of each
#    epoch. The loss never falls below that of guessing. Write ``shuffled``: it returns both in a random order in which each picture keeps
#    its label.


def shuffled(images, labels):
    ### BEGIN SOLUTION
    order = torch.randperm(len(images))
    return images[order], labels[order]
    ### END SOLUTION


def pairs(function):
    """Return the sorted pairs of picture and label of a shuffle of 40."""
    numbers = torch.arange(40)
    first, second = function(numbers.view(40, 1) * 3, numbers)
    return sorted(zip(first.flatten().tolist(), second.tolist()))


expect(lambda: pairs(shuffled), [(3 * number, number) for number in range(40)])

# %%
# .. exercise:: Build a cost estimate
#
#    Write ``estimate``: the operations of one convolution on a picture of ``height`` by ``width``, in its forward pass, from
#    ``in_channels``, ``out_channels``, ``kernel_size``, ``stride``, ``padding`` (pairs, all but the channels) and ``groups`` of the
#    layer. A multiplication and an addition count as two.


def estimate(layer, height, width):
    ### BEGIN SOLUTION
    places = 1
    for axis, size in enumerate((height, width)):
        free = size + 2 * layer.padding[axis] - layer.kernel_size[axis]
        places *= free // layer.stride[axis] + 1
    rows, columns = layer.kernel_size
    depth = layer.in_channels // layer.groups
    return 2 * places * rows * columns * depth * layer.out_channels
    ### END SOLUTION


layers = [
    nn.Conv2d(3, 8, 5, stride=2),
    nn.Conv2d(6, 4, (3, 1), padding=(2, 0), groups=2),
]
right = [
    round(1e6 * operations(c, torch.zeros(1, c.in_channels, 19, 24))) for c in layers
]
expect(lambda: [estimate(c, 19, 24) for c in layers], right)

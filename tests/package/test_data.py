"""Tests of `pytorch_course.data`."""

import random
from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from pytorch_course.data import Keyed, Order, loader, split, to_device
from pytorch_course.datasets.samples import Samples, TextSamples
from pytorch_course.distributed import World
from pytorch_course.rng import rng_state, set_rng_state

fast = settings(deadline=None, derandomize=True, max_examples=150)


@pytest.fixture(autouse=True)
def _leave_no_trace():
    before = rng_state()
    yield
    set_rng_state(before)


class Numbers(Dataset):
    """Samples that show where they come from, with randomness of their own."""

    def __init__(self, n=11):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        return torch.tensor([index, torch.rand(()).item()]), index % 3


def jitter(x, label):
    return x + torch.tensor([0.0, torch.randn(()).item() + random.random()]), label


def broken(x, label):
    if label == 2:
        raise ValueError("no twos please")
    return x, label


def flatten(batches):
    return [part.tolist() for batch in batches for part in batch]


def chained(lists):
    return [item for items in lists for item in items]


def same_generators(before):
    now = rng_state()
    return torch.equal(now["torch"], before["torch"]) and now["python"] == before["python"]


# Order


@fast
@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 3))
def test_ranks_share_every_epoch_out(n, batch_size, size, shuffle, drop_last, epoch):
    everyone = batch_size * size
    assume(n >= (everyone if shuffle or drop_last else size))
    make = {"shuffle": shuffle, "drop_last": drop_last, "seed": 5}
    orders = [Order(n, batch_size, rank=rank, size=size, **make) for rank in range(size)]
    for order in orders:
        order.set_epoch(epoch)
    ranks = [list(order) for order in orders]
    assert {len(batches) for batches in ranks} == {len(orders[0])}
    assert all(isinstance(index, int) for batches in ranks for batch in batches for index in batch)
    seen = Counter(index for batches in ranks for batch in batches for index in batch)
    assert set(seen.values()) == {1}
    assert len(seen) == (n - n % everyone if drop_last else n)
    for number, parts in enumerate(zip(*ranks, strict=True)):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        assert sum(lengths) == orders[0].samples(number)
        assert max(lengths) <= batch_size + (number == len(orders[0]) - 1)
    assert [orders[0].of_rank(epoch, rank) for rank in range(size)] == [chained(batches) for batches in ranks]
    if n >= everyone and (drop_last or n % everyone == 0 or n % everyone >= size):
        alone = Order(n, everyone, **make)
        alone.set_epoch(epoch)
        assert [set(batch) for batch in alone] == [set(chained(parts)) for parts in zip(*ranks, strict=True)]


def test_one_process_takes_consecutive_samples_of_the_order():
    order = Order(10, 4, seed=1)
    assert list(order) == [list(part) for part in order.order(0).split(4)]
    assert sorted(order.order(7).tolist()) == list(range(10))
    assert list(Order(10, 4, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_rest_smaller_than_the_group_joins_the_batch_before():
    ranks = [list(Order(65, 16, size=4, rank=rank, shuffle=False)) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [1, 1, 1, 1]
    assert [len(batches[0]) for batches in ranks] == [17, 16, 16, 16]
    # With one sample per rank left over, there is a batch for them.
    assert [len(batch) for batch in Order(68, 16, size=4)] == [16, 1]


def test_order_follows_from_seed_and_epoch_alone():
    first = [Order(50, 8, seed=3).order(epoch).tolist() for epoch in range(4)]
    torch.manual_seed(99)
    assert [Order(50, 13, seed=3, rank=1, size=2).order(epoch).tolist() for epoch in range(4)] == first
    assert len({tuple(order) for order in first}) == 4
    assert Order(50, 8, seed=4).order(0).tolist() != first[0]


def test_every_pass_is_the_next_epoch():
    order = Order(20, 6)
    passes = [chained(order) for _ in range(3)]
    assert passes == [order.order(epoch).tolist() for epoch in range(3)]
    order.set_epoch(1)
    assert chained(order) == passes[1]


def test_a_position_is_an_epoch_and_a_batch():
    order = Order(20, 6)
    order.set_epoch(4)
    whole = list(order)
    order.set_epoch(4, 2)
    assert len(order) == 4
    assert list(order) == whole[2:]
    assert chained(order) == order.order(5).tolist()
    order.set_epoch(4, 4)
    assert list(order) == []


def test_another_pass_does_not_disturb_one_that_is_under_way():
    order = Order(20, 6)
    under_way = iter(order)
    first = next(under_way)
    order.set_epoch(9)
    next(iter(order))
    assert chained([first, *under_way]) == order.order(0).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "the dataset is empty"),
        ({"n": 7}, "7 samples are too few for one global batch: 1 process.* of batch_size 8 take 8"),
        ({"n": 15, "size": 2}, "15 samples .* 2 process.* of batch_size 8 take 16"),
        ({"n": 15, "size": 2, "shuffle": False, "drop_last": True}, "15 samples .* take 16"),
        ({"n": 1, "size": 2, "shuffle": False}, "1 samples .* 2 process"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "size": 2}, "rank is 2 and size is 2"),
        ({"rank": -1}, "rank is -1"),
    ],
)
def test_orders_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(**{"n": 100, "batch_size": 8, **arguments})


def test_data_in_order_may_be_shorter_than_a_batch():
    assert list(Order(3, 8, shuffle=False)) == [[0, 1, 2]]


# Keyed


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    data = Keyed(Numbers(), jitter, seed=1)
    x, label = data[3, 4]
    torch.manual_seed(0)
    random.seed(0)
    again, label_again = Keyed(Numbers(), jitter, seed=1)[3, 4]
    assert torch.equal(x, again)
    assert label == label_again == 1
    others = [Keyed(Numbers(), jitter, seed=2)[3, 4], data[2, 4], data[3, 5], data[4]]
    assert len({sample[0][1].item() for sample in [(x, label), *others]}) == 5


def test_the_dataset_itself_may_draw():
    data = Keyed(Numbers())
    assert data[1, 2][0][1] == data[1, 2][0][1] != data[0, 2][0][1]


def test_reading_leaves_the_generators_alone():
    before = rng_state()
    Keyed(Numbers(), jitter)[0]
    with pytest.raises(ValueError, match="no twos"):
        Keyed(Numbers(), broken)[2]
    assert same_generators(before)


def test_keyed_is_a_sequence():
    data = Keyed(Numbers(4), jitter)
    assert len(data) == 4
    assert torch.equal(data[-1][0], data[3][0])
    assert [label for _, label in data] == [0, 1, 2, 0]
    with pytest.raises(IndexError):
        data[4]
    with pytest.raises(IndexError):
        data[-5]


def test_samples_that_are_no_tuples():
    assert Keyed([1, 2, 3], lambda x: x * 10)[1] == 20
    assert Keyed(["a"])[0] == "a"


def test_an_error_says_which_sample():
    with pytest.raises(ValueError, match="no twos please") as caught:
        Keyed(Numbers(), broken)[6, 5]
    assert caught.value.__notes__ == ["This was sample 5 in epoch 6."]


def test_data_without_a_length_is_refused():
    class Endless(IterableDataset):
        def __iter__(self):
            yield from ()

    with pytest.raises(TypeError, match="Endless has no length"):
        loader(Endless(), 2)


# loader


def test_a_loader_draws_nothing_from_the_global_generators():
    before = rng_state()
    for batches in (loader(Numbers(), 4, transform=jitter), loader(TensorDataset(torch.zeros(8)), 4)):
        assert len(list(batches)) == len(batches)
    assert same_generators(before)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_give_the_same_batches(persistent):
    alone = loader(Numbers(), 4, transform=jitter, seed=2)
    helped = loader(Numbers(), 4, transform=jitter, seed=2, num_workers=2, persistent_workers=persistent)
    before = rng_state()
    epochs = [[flatten(batches) for _ in range(3)] for batches in (alone, helped)]
    assert epochs[0] == epochs[1]
    assert epochs[0][0] != epochs[0][1]
    for batches in (alone, helped):
        batches.batch_sampler.set_epoch(1, 2)
    assert flatten(alone) == flatten(helped) == epochs[0][1][4:]
    assert same_generators(before)


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_are_those_of_their_epoch(workers):
    keyed = Keyed(Numbers(), jitter, seed=2)
    batches = loader(Numbers(), 4, transform=jitter, seed=2, num_workers=workers)
    for epoch in (0, 1):
        for x, _ in batches:
            expected = [keyed[epoch, round(index)][0] for index in x[:, 0].tolist()]
            assert torch.equal(x, torch.stack(expected))


def test_an_error_in_a_worker_names_the_sample():
    batches = loader(Numbers(), 4, transform=broken, shuffle=False, num_workers=1)
    with pytest.raises(ValueError, match=r"(?s)no twos please.*This was sample 2 in epoch 0"):
        list(batches)


def test_batches_of_ranks_make_up_the_global_batch():
    data = TensorDataset(torch.arange(24))
    together = [sorted(x.tolist()) for (x,) in loader(data, 8)]
    halves = [loader(data, 4, world=World(rank, 2)) for rank in range(2)]
    assert [sorted(a.tolist() + b.tolist()) for (a,), (b,) in zip(*halves, strict=True)] == together


def test_resident_tensors_are_indexed_a_batch_at_a_time(monkeypatch):
    data = TensorDataset(torch.randn(30, 2), torch.arange(30))
    inner = Subset(Subset(data, list(range(29, 3, -1))), [0, 5, 7, 20, 25, -1])
    expected = [flatten(loader(kind, 4, seed=1, collate_fn=torch.utils.data.default_collate)) for kind in (data, inner)]
    monkeypatch.setattr(TensorDataset, "__getitem__", None)
    assert [flatten(loader(kind, 4, seed=1)) for kind in (data, inner)] == expected
    assert all(isinstance(part, torch.Tensor) for batch in loader(inner, 4) for part in batch)
    assert sum(len(x) for x, _ in loader(inner, 4, num_workers=1)) == 6


def test_the_datasets_of_the_book_are_resident_tensors(monkeypatch):
    data = Samples("numbers", {"x": torch.randn(30, 2), "label": torch.arange(30) % 3})
    x, label = data.tensors
    parts = split(data, 0.5, 0.5)  # labels are read from the last tensor
    monkeypatch.setattr(TensorDataset, "__getitem__", None)
    for dataset, rows in [(data, torch.arange(30)), (parts[1], torch.tensor(parts[1].indices))]:
        order = rows[loader(dataset, 8).batch_sampler.order(0)]
        got, labels = (torch.cat(column) for column in zip(*loader(dataset, 8), strict=True))
        assert torch.equal(got, x[order])
        assert torch.equal(labels, label[order])


def test_samples_with_text_are_read_one_by_one():
    data = TextSamples("fruit", {"name": ["fig", "kiwi", "lime"]}, {"label": torch.tensor([1, 0, 1])})
    ((names, labels),) = loader(data, 3, shuffle=False)
    assert list(names) == ["fig", "kiwi", "lime"]
    assert labels.tolist() == [1, 0, 1]


def test_the_dataset_of_a_resident_loader_is_a_dataset():
    data = TensorDataset(torch.arange(10) * 2, torch.arange(10))
    for inside, expected in ((data, [6, 3]), (Subset(data, [9, 8, 7, 6]), [12, 6])):
        dataset = loader(inside, 4).dataset
        assert len(dataset) == len(inside)
        assert [part.item() for part in dataset[3]] == expected


def test_classes_of_your_own_are_not_mistaken_for_resident_tensors():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * part for part in super().__getitem__(index))

    class Backwards(Subset):
        def __getitem__(self, index):
            return super().__getitem__(len(self) - 1 - index)

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    (batch,) = loader(Doubled(torch.arange(3)), 4, shuffle=False)
    assert batch[0].tolist() == [0, 2, 4]
    (batch,) = loader(Backwards(TensorDataset(torch.arange(5)), [1, 2, 4]), 4, shuffle=False)
    assert batch[0].tolist() == [4, 2, 1]


def test_a_class_that_leaves_the_samples_alone_is_resident(monkeypatch):
    class Named(TensorDataset):
        name = "mine"

    monkeypatch.setattr(TensorDataset, "__getitem__", None)
    (batch,) = loader(Named(torch.arange(3)), 4, shuffle=False)
    assert batch[0].tolist() == [0, 1, 2]


def test_lists_of_samples_will_do():
    (x, y), *_ = loader([(torch.ones(2), 0), (torch.ones(2), 1)], 2, shuffle=False)
    assert x.shape == (2, 2)
    assert y.tolist() == [0, 1]


def test_a_keyed_dataset_is_used_as_it_is():
    keyed = Keyed(Numbers(), jitter, seed=8)
    assert flatten(loader(keyed, 4, seed=8)) == flatten(loader(Numbers(), 4, transform=jitter, seed=8))
    with pytest.raises(ValueError, match="already contains a Keyed dataset"):
        loader(keyed, 4, transform=jitter)
    with pytest.raises(ValueError, match="split the plain data"):
        loader(Subset(keyed, [0, 1, 2, 3]), 2)


def test_options_of_the_loader_are_passed_on():
    generator = torch.Generator().manual_seed(3)
    batches = loader(Numbers(), 4, generator=generator, collate_fn=len, drop_last=True)
    assert isinstance(batches, DataLoader)
    assert batches.generator is generator
    assert list(batches) == [4, 4]
    with pytest.raises(TypeError, match="batch_sampler"):
        loader(Numbers(), 4, batch_sampler=[[0]])


def test_too_little_data_is_an_error_that_counts():
    with pytest.raises(ValueError, match=r"11 samples are too few .* 2 process.* of batch_size 8 take 16"):
        loader(Numbers(), 8, world=World(0, 2))
    with pytest.raises(ValueError, match="the dataset is empty"):
        loader([], 8)


# split


@fast
@given(
    st.lists(st.integers(0, 4), min_size=12, max_size=200),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_parts_are_disjoint_complete_and_stratified(labels, weights, seed):
    fractions = [weight / sum(weights) for weight in weights]
    assume(min(fractions) * len(labels) >= 1)
    parts = split(TensorDataset(torch.arange(len(labels)), torch.tensor(labels)), *fractions, seed=seed)
    assert sorted(chained(part.indices for part in parts)) == list(range(len(labels)))
    total = Counter(labels)
    for part, fraction in zip(parts, fractions, strict=True):
        assert part.indices == sorted(part.indices)
        counts = Counter(labels[index] for index in part.indices)
        assert all(abs(counts[label] - fraction * n) < 1 + 1e-9 for label, n in total.items())
        assert abs(len(part) - fraction * len(labels)) < 1 + 1e-9


class WithTargets(Dataset):
    """A dataset in the style of torchvision: the labels can be had without the images."""

    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        raise AssertionError("the labels are in targets")


def counts_of(data, labels, *fractions):
    return [sorted(Counter(labels[index] for index in part.indices).values()) for part in split(data, *fractions)]


def test_labels_are_found_where_they_are():
    labels = [0] * 10 + [1] * 20 + [2] * 10
    half = [[5, 5, 10], [5, 5, 10]]
    assert counts_of(WithTargets(labels), labels, 0.5, 0.5) == half
    assert counts_of(WithTargets(torch.tensor(labels)), labels, 0.5, 0.5) == half
    assert counts_of(WithTargets(np.array(labels)), labels, 0.5, 0.5) == half
    assert counts_of([("sample", label) for label in labels], labels, 0.5, 0.5) == half
    assert counts_of([["sample", torch.tensor(label)] for label in labels], labels, 0.5, 0.5) == half
    assert counts_of(TensorDataset(torch.zeros(40), torch.tensor(labels) == 1), labels, 0.5, 0.5)[0][-1] == 10
    two = ConcatDataset([TensorDataset(torch.zeros(20), torch.tensor(labels[i : i + 20])) for i in (0, 20)])
    assert counts_of(two, labels, 0.5, 0.5) == half


def test_a_subset_can_be_split_again():
    labels = torch.tensor([0, 1] * 20)
    outer = Subset(TensorDataset(torch.arange(40), labels), range(0, 40, 2))  # only zeros
    parts = split(Subset(WithTargets(labels), range(20)), 0.5, 0.5)
    assert [Counter(labels[index].item() for index in part.indices) for part in parts] == [Counter({0: 5, 1: 5})] * 2
    assert [len(part) for part in split(outer, 0.25, 0.75)] == [5, 15]


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(torch.arange(10)),
        TensorDataset(torch.arange(10), torch.randn(10)),
        TensorDataset(torch.arange(10), torch.zeros(10, 4, dtype=torch.int64)),
        [(torch.ones(2), 0.5)] * 10,
        [torch.ones(2)] * 10,
        [(0, "cat")] * 10,
        [(0, [1]), (0, [1, 2])] * 5,
    ],
)
def test_data_without_labels_is_split_by_chance(data):
    train, test = split(data, 0.7, 0.3)
    assert (len(train), len(test)) == (7, 3)
    assert sorted(train.indices + test.indices) == list(range(10))


def test_a_split_follows_from_the_seed_and_draws_nothing():
    before = rng_state()
    first, again, other = (split(Numbers(30), 0.5, 0.5, seed=seed)[0].indices for seed in (0, 0, 1))
    assert same_generators(before)
    assert first == again != other


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.5, 0.6), (1.5, -0.5), (1.0, 0.0), (float("nan"), 0.5)])
def test_bad_fractions(fractions):
    with pytest.raises(ValueError, match=r"fractions are .* expected positive numbers with sum 1"):
        split(Numbers(), *fractions)


def test_parts_without_samples_are_refused():
    with pytest.raises(ValueError, match="11 samples are too few for the fractions"):
        split(Numbers(), 0.99, 0.01)
    with pytest.raises(ValueError, match="the dataset is empty"):
        split([], 0.5, 0.5)


# to_device


def test_a_batch_moves_as_a_whole():
    point = namedtuple("point", "x y")
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(2)])
    batch = {"a": [torch.ones(1), ("text", None)], "p": point(torch.ones(2), 3), "q": packed}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].device.type == moved["p"].x.device.type == moved["q"].data.device.type == "meta"
    assert moved["q"].batch_sizes.device.type == "cpu"
    assert moved["a"][1] == ("text", None)
    assert isinstance(moved["p"], point)
    assert moved["p"].y == 3
    tensor = torch.ones(1)
    assert to_device(tensor, torch.device("cpu")) is tensor

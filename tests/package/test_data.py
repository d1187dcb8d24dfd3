"""Tests of `pytorch_course.data`."""

from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from pytorch_course.data import EpochSampler, SeededDataset, loader, split, to_device
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
    return x + torch.tensor([0.0, torch.randn(()).item()]), label


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


# EpochSampler


@fast
@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 3))
def test_ranks_share_every_epoch_out(n, batch_size, size, shuffle, drop_last, epoch):
    everyone = batch_size * size
    assume(n >= (everyone if shuffle or drop_last else size))
    make = {"shuffle": shuffle, "drop_last": drop_last, "seed": 5}
    samplers = [EpochSampler(n, batch_size, rank=rank, size=size, **make) for rank in range(size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    ranks = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in ranks} == {len(samplers[0])}
    assert all(isinstance(index, int) for batches in ranks for batch in batches for index in batch)
    seen = Counter(index for batches in ranks for batch in batches for index in batch)
    assert set(seen.values()) == {1}
    assert len(seen) == (n - n % everyone if drop_last else n)
    for number, parts in enumerate(zip(*ranks, strict=True)):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        assert [sampler.counts(number) for sampler in samplers] == [(length, sum(lengths)) for length in lengths]
        assert max(lengths) <= batch_size + (number == len(samplers[0]) - 1)
    assert [samplers[0].of_rank(epoch, rank) for rank in range(size)] == [chained(batches) for batches in ranks]
    if n >= everyone and (drop_last or n % everyone == 0 or n % everyone >= size):
        alone = EpochSampler(n, everyone, **make)
        alone.set_epoch(epoch)
        assert [set(batch) for batch in alone] == [set(chained(parts)) for parts in zip(*ranks, strict=True)]


def test_one_process_takes_consecutive_samples_of_the_order():
    sampler = EpochSampler(10, 4, seed=1)
    assert list(sampler) == [list(part) for part in sampler.order(0).split(4)]
    assert sorted(sampler.order(7).tolist()) == list(range(10))
    assert list(EpochSampler(10, 4, seed=1, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_rest_smaller_than_the_group_joins_the_batch_before():
    ranks = [list(EpochSampler(65, 16, seed=0, size=4, rank=rank, shuffle=False)) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [1, 1, 1, 1]
    assert [len(batches[0]) for batches in ranks] == [17, 16, 16, 16]
    # With one sample per rank left over, there is a batch for them.
    assert [len(batch) for batch in EpochSampler(68, 16, seed=0, size=4)] == [16, 1]


def test_order_follows_from_seed_and_epoch_alone():
    first = [EpochSampler(50, 8, seed=3).order(epoch).tolist() for epoch in range(4)]
    torch.manual_seed(99)
    assert [EpochSampler(50, 13, seed=3, rank=1, size=2).order(epoch).tolist() for epoch in range(4)] == first
    assert len({tuple(order) for order in first}) == 4
    assert EpochSampler(50, 8, seed=4).order(0).tolist() != first[0]


def test_a_position_is_an_epoch_and_a_batch():
    sampler = EpochSampler(20, 6, seed=0)
    passes = [chained(sampler) for _ in range(3)]
    assert passes == [sampler.order(epoch).tolist() for epoch in range(3)]  # every pass is the next epoch
    assert sampler.position == (3, 0)
    sampler.set_epoch(1)
    assert chained(sampler) == passes[1]
    sampler.set_epoch(2, 3)
    assert sampler.position == (2, 3)
    assert len(sampler) == 4
    assert chained(sampler) == passes[2][18:]
    assert sampler.position == (3, 0)
    sampler.set_epoch(4, 4)
    assert list(sampler) == []
    with pytest.raises(AttributeError):
        sampler.position = (0, 0)


def test_another_pass_does_not_disturb_one_that_is_under_way():
    sampler = EpochSampler(20, 6, seed=0)
    under_way = iter(sampler)
    first = next(under_way)
    sampler.set_epoch(9)
    next(iter(sampler))
    assert chained([first, *under_way]) == sampler.order(0).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "shuffle": False}, "0 samples are too few"),
        ({"n": 7}, "7 samples are too few for one global batch: 1 process.* of batch_size 8 take 8"),
        ({"n": 15, "size": 2}, "15 samples .* 2 process.* of batch_size 8 take 16"),
        ({"n": 15, "size": 2, "shuffle": False, "drop_last": True}, "15 samples .* take 16"),
        ({"n": 1, "size": 2, "shuffle": False}, "1 samples .* 2 process"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0"),
        ({"seed": None}, "seed is None"),
        ({"rank": 2, "size": 2}, "rank is 2 and size is 2"),
        ({"rank": -1}, "rank is -1"),
    ],
)
def test_samplers_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(**{"n": 100, "batch_size": 8, "seed": 0, **arguments})


# SeededDataset


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    data = SeededDataset(Numbers(), jitter, seed=1)
    x, label = data[3, 4]
    torch.manual_seed(0)
    again, label_again = SeededDataset(Numbers(), jitter, seed=1)[3, 4]
    assert torch.equal(x, again)
    assert label == label_again == 1
    others = [SeededDataset(Numbers(), jitter, seed=2)[3, 4], data[2, 4], data[3, 5], data[4]]
    assert len({sample[0][1].item() for sample in [(x, label), *others]}) == 5


def test_reading_leaves_the_generators_alone():
    before = rng_state()
    SeededDataset(Numbers(), jitter, seed=0)[0]
    with pytest.raises(ValueError, match="no twos"):
        SeededDataset(Numbers(), broken, seed=0)[2]
    assert same_generators(before)


def test_a_seeded_dataset_is_a_sequence():
    data = SeededDataset(Numbers(4), jitter, seed=0)
    assert len(data) == 4
    assert SeededDataset([1, 2, 3], lambda x: x * 10, seed=0)[1] == 20  # a sample that is no tuple
    assert torch.equal(data[-1][0], data[3][0])
    assert [label for _, label in data] == [0, 1, 2, 0]
    for index in (4, -5):
        with pytest.raises(IndexError):
            data[index]


def test_an_error_says_which_sample():
    with pytest.raises(ValueError, match="no twos please") as caught:
        SeededDataset(Numbers(), broken, seed=0)[6, 5]
    assert caught.value.__notes__ == ["This was sample 5 in epoch 6."]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "nest", [lambda data: ConcatDataset([data, data]), lambda data: Subset(data, range(9, -1, -1))]
)
def test_the_epoch_reaches_datasets_inside_others(nest, workers):
    """They repeated the augmentation of epoch 0 for ever, or were refused."""
    inner = SeededDataset(Numbers(), jitter, seed=7)
    batches = loader(nest(inner), 4, seed=2, num_workers=workers)
    for epoch in (0, 1):
        for x, _ in batches:
            assert torch.equal(x, torch.stack([inner[epoch, round(index)][0] for index in x[:, 0].tolist()]))


def test_transforms_around_each_other_draw_different_numbers():
    def noise(x):
        return [*x, torch.rand(()).item()]

    nested = SeededDataset(SeededDataset([[]], noise, seed=3), noise, seed=3)
    inner, outer = nested[5, 0]
    assert inner != outer
    assert nested[5, 0] == [inner, outer]
    assert not {inner, outer} & {*nested[6, 0]}
    ((through_loader,),) = loader(SeededDataset([[]], noise, seed=3), 1, seed=3, transform=noise, collate_fn=list)
    assert through_loader == nested[0]


# loader


@pytest.mark.parametrize("transform", [None, jitter])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_give_the_same_batches(persistent, transform):
    alone = loader(Numbers(), 4, transform=transform, seed=2)
    helped = loader(Numbers(), 4, transform=transform, seed=2, num_workers=2, persistent_workers=persistent)
    before = rng_state()
    epochs = [[flatten(batches) for _ in range(3)] for batches in (alone, helped)]
    assert epochs[0] == epochs[1]
    assert epochs[0][0] != epochs[0][1]
    for batches in (alone, helped):
        batches.batch_sampler.set_epoch(1, 2)
    assert flatten(alone) == flatten(helped) == epochs[0][1][4:]
    assert same_generators(before)


def test_samples_are_those_of_their_epoch():
    data = SeededDataset(Numbers(), jitter, seed=2)
    for batches in (loader(Numbers(), 4, transform=jitter, seed=2), loader(data, 4, seed=9)):
        for epoch in (0, 1):
            for x, _ in batches:
                assert torch.equal(x, torch.stack([data[epoch, round(index)][0] for index in x[:, 0].tolist()]))


class Counting:
    """A generator that counts how often its state is saved."""

    def __init__(self, generator):
        self.generator, self.count = generator, 0

    def __getattr__(self, name):
        self.count += name == "get_state"
        return getattr(self.generator, name)


def test_the_generator_is_saved_once_for_a_batch(monkeypatch):
    """Once for each sample made reading ten times as slow."""
    monkeypatch.setattr(torch, "default_generator", Counting(torch.default_generator))
    list(loader(Numbers(), 4, seed=0, shuffle=False))
    assert torch.default_generator.count == 3


def test_an_error_in_a_worker_names_the_sample():
    batches = loader(Numbers(), 4, seed=0, transform=broken, shuffle=False, num_workers=1)
    with pytest.raises(ValueError, match=r"(?s)no twos please.*This was sample 2 in epoch 0"):
        list(batches)


def test_batches_of_ranks_make_up_the_global_batch():
    data = TensorDataset(torch.arange(24))
    together = [sorted(x.tolist()) for (x,) in loader(data, 8, seed=0)]
    halves = [loader(data, 4, seed=0, world=World(rank, 2)) for rank in range(2)]
    assert [sorted(a.tolist() + b.tolist()) for (a,), (b,) in zip(*halves, strict=True)] == together


def test_resident_tensors_are_indexed_a_batch_at_a_time(monkeypatch):
    class Named(TensorDataset):
        name = "a class that leaves the samples alone"

    data = Named(torch.randn(30, 2), torch.arange(30))
    inner = Subset(Subset(data, list(range(29, 3, -1))), [0, 5, 7, 20, 25, -1])
    collate = torch.utils.data.default_collate
    expected = [flatten(loader(kind, 4, seed=1, collate_fn=collate)) for kind in (data, inner)]
    dataset = loader(inner, 4, seed=1).dataset
    assert len(dataset) == 6
    assert dataset[1][1] == 24
    monkeypatch.setattr(TensorDataset, "__getitem__", None)
    assert [flatten(loader(kind, 4, seed=1)) for kind in (data, inner)] == expected
    assert all(isinstance(part, torch.Tensor) for batch in loader(inner, 4, seed=1) for part in batch)
    assert sum(len(x) for x, _ in loader(inner, 4, seed=1, num_workers=1)) == 6


def test_classes_of_your_own_are_not_mistaken_for_resident_tensors():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * part for part in super().__getitem__(index))

    class Backwards(Subset):
        def __getitem__(self, index):
            return super().__getitem__(len(self) - 1 - index)

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    (batch,) = loader(Doubled(torch.arange(3)), 4, seed=0, shuffle=False)
    assert batch[0].tolist() == [0, 2, 4]
    (batch,) = loader(Backwards(TensorDataset(torch.arange(5)), [1, 2, 4]), 4, seed=0, shuffle=False)
    assert batch[0].tolist() == [4, 2, 1]


def test_options_of_the_loader_are_passed_on():
    generator = torch.Generator().manual_seed(3)
    batches = loader(Numbers(), 4, seed=2**70, generator=generator, collate_fn=len, drop_last=True)
    assert isinstance(batches, DataLoader)
    assert batches.generator is generator
    assert list(batches) == [4, 4]
    with pytest.raises(TypeError, match="batch_sampler"):
        loader(Numbers(), 4, seed=0, batch_sampler=[[0]])


def test_data_that_cannot_be_loaded_is_an_error():
    class Endless(IterableDataset):
        def __iter__(self):
            yield from ()

    with pytest.raises(ValueError, match=r"11 samples are too few .* 2 process.* of batch_size 8 take 16"):
        loader(Numbers(), 8, seed=0, world=World(0, 2))
    with pytest.raises(TypeError, match="Endless has no length"):
        loader(Endless(), 2, seed=0)
    with pytest.raises(TypeError, match="seed"):
        loader(Numbers(), 2)


# split


@fast
@given(
    st.lists(st.integers(0, 4), min_size=12, max_size=200),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_parts_are_disjoint_complete_and_stratified(labels, weights, seed):
    fractions = [weight / sum(weights) for weight in weights]
    total = Counter(labels)
    assume(min(fractions) * max(total.values()) > 1)
    parts = split(range(len(labels)), *fractions, seed=seed, labels=labels)
    assert sorted(chained(part.indices for part in parts)) == list(range(len(labels)))
    for part, fraction in zip(parts, fractions, strict=True):
        assert part.indices == sorted(part.indices)
        counts = Counter(labels[index] for index in part.indices)
        assert all(abs(counts[label] - fraction * n) <= 1 + 1e-9 for label, n in total.items())


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda x: [str(i) for i in x], lambda x: np.array(x) > 0]
)
def test_labels_of_every_kind(kind):
    labels = [0] * 10 + [1] * 20
    parts = split(range(30), 0.5, 0.5, seed=0, labels=kind(labels))
    assert [Counter(labels[index] for index in part) for part in parts] == [{0: 5, 1: 10}] * 2


@pytest.mark.parametrize("labels", [[0] * 10, [[0]] * 11, [0.5] * 11, 3, torch.zeros(11)])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(ValueError, match=r"labels are .* of shape .*, expected one class for each of 11 samples"):
        split(Numbers(), 0.5, 0.5, seed=0, labels=labels)


def test_a_split_without_labels_follows_from_the_seed_and_draws_nothing():
    before = rng_state()
    first, again, other = (split(Numbers(10), 0.7, 0.3, seed=seed) for seed in (0, 0, 1))
    assert same_generators(before)
    assert first[0].indices == again[0].indices != other[0].indices
    assert [len(part) for part in first] == [7, 3]
    assert sorted(first[0].indices + first[1].indices) == list(range(10))


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.5, 0.6), (1.5, -0.5), (1.0, 0.0), (float("nan"), 0.5)])
def test_bad_fractions(fractions):
    with pytest.raises(ValueError, match=r"fractions are .* expected positive numbers with sum 1"):
        split(Numbers(), *fractions, seed=0)


def test_parts_without_samples_are_refused():
    with pytest.raises(ValueError, match="11 samples are too few for the fractions"):
        split(Numbers(), 0.99, 0.01, seed=0)
    with pytest.raises(ValueError, match="0 samples are too few"):
        split([], 0.5, 0.5, seed=0)


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

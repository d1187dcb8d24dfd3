"""Where each public data set is, online and here, and what its files hash to."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where the files of one set live, online and here, and what their bytes hash to."""

    url: str
    folders: tuple[str, ...]  # under the data folder; a download goes into the first
    files: Mapping[str, str]  # name: SHA-256; a name without .gz is hashed unpacked, however it is stored
    stand_in: str
    classes: tuple[str, ...] = ()


# MNIST circulates packed by different versions of gzip, so what is inside is hashed: measured, and the same sums are
# published widely. The others are sums of the archives as TensorFlow Datasets and Keras publish them. Torchvision has
# MD5 sums only.
SOURCES = {
    "MNIST": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ("MNIST/raw", "mnist", "."),
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        "datasets.glyphs.glyphs(60_000), or datasets.bundled.digits() for real handwriting",
        tuple("0123456789"),
    ),
    "FashionMNIST": Source(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ("FashionMNIST/raw",),
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        'datasets.glyphs.glyphs(60_000, classes="ABCDEFGHIJ")',
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "KMNIST": Source(
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ("KMNIST/raw",),
        {
            "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
        'datasets.glyphs.glyphs(60_000, classes="αβγδεζηθικ")',
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "CIFAR10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        (".",),
        {"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
        "datasets.shapes.shapes(50_000, size=32, max_objects=1)",
    ),
    "OxfordIIITPet": Source(
        "https://thor.robots.ox.ac.uk/~vgg/data/pets/",
        ("oxford-iiit-pet",),
        {
            "images.tar.gz": "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
            "annotations.tar.gz": "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
        },
        "datasets.shapes.shapes(3_680), which has masks too",
    ),
}

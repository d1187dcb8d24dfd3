"""Real data that comes with scikit-learn: small digits and two photographs."""

import torch

from pytorch_course.datasets._samples import Samples


def digits() -> Samples:
    """1,797 handwritten digits: ``image`` float32 [1797, 1, 8, 8] from 0 (paper) to 1 (ink), ``label`` int64 [1797].

    A pixel is the share of inked dots among the 4x4 beneath it. From E. Alpaydin and C. Kaynak, *Optical Recognition of
    Handwritten Digits*, UCI Machine Learning Repository, 1998: its test part. The 13 writers are not named, so no split
    can keep a writer's digits on one side.

    Examples
    --------
    >>> digits()
    digits: 1,797 samples
      image    float32 [1, 8, 8], 0 to 1
      label    int64, 0 to 9
      classes  0, 1, 2, 3, 4, 5, 6, 7, 8, 9
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return Samples("digits", {"image": images, "label": torch.tensor(bunch.target)}, classes="0123456789")


def photographs() -> Samples:
    """A Chinese temple and a flower: ``image`` uint8 [2, 3, 427, 640], 0 to 255, and ``label`` int64 [2].

    Both are CC BY 2.0, from Flickr: ``china`` by danielbuechele, ``flower`` by vultilion.

    Examples
    --------
    >>> china, flower = photographs().columns["image"]
    >>> china.shape, china.dtype
    (torch.Size([3, 427, 640]), torch.uint8)
    """
    from sklearn.datasets import load_sample_image

    names = ("china", "flower")
    images = torch.stack([torch.tensor(load_sample_image(f"{name}.jpg")) for name in names]).permute(0, 3, 1, 2)
    return Samples("photographs", {"image": images.contiguous(), "label": torch.arange(2)}, classes=names)

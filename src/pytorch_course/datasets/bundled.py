"""Real data that comes with scikit-learn: three tables to classify, one to regress, small digits, two photographs."""

from typing import Any

import torch

from pytorch_course.datasets.samples import Samples


def digits() -> Samples:
    """1,797 handwritten digits, 8x8 pixels.

    Each pixel counts how many of the 4x4 dots beneath it were inked. That is 0 to 16, here divided by 16.

    Returns
    -------
    Samples
        ``image`` float32 [1797, 1, 8, 8] from 0 (paper) to 1 (ink); ``label`` int64 [1797].

    Notes
    -----
    E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998. These
    are its test part. Its 13 writers are not named, so no split can keep a writer's digits on one side.

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
    return Samples("digits", {"image": images, "label": torch.tensor(bunch.target)}, classes=list("0123456789"))


def iris() -> Samples:
    """150 iris flowers of three species, four lengths each, in centimetres.

    Returns
    -------
    Samples
        ``features`` float32 [150, 4]; ``label`` int64 [150]. The rows are sorted by species: shuffle before you split.

    Notes
    -----
    R. A. Fisher, *The use of multiple measurements in taxonomic problems*, Annals of Eugenics, 1936.

    Examples
    --------
    >>> iris()
    iris: 150 samples
      features       float32 [4], 0.1 to 7.9
      label          int64, 0 to 2
      classes        setosa, versicolor, virginica
      feature_names  sepal length (cm), sepal width (cm), petal length (cm), ... (4 in all)
    """
    from sklearn.datasets import load_iris

    return _table("iris", load_iris())


def wine() -> Samples:
    """178 wines of three growers, 13 chemical measurements each, on very different scales.

    Returns
    -------
    Samples
        ``features`` float32 [178, 13], not standardised; ``label`` int64 [178]. Sorted by grower: shuffle first.

    Notes
    -----
    M. Forina et al., *PARVUS*, Institute of Pharmaceutical and Food Analysis, Genoa; copy of the UCI Machine Learning
    Repository.

    Examples
    --------
    >>> features, label = wine().tensors
    >>> label.bincount().tolist()
    [59, 71, 48]
    """
    from sklearn.datasets import load_wine

    return _table("wine", load_wine())


def breast_cancer() -> Samples:
    """569 tumours, 30 measurements of their cell nuclei each, on very different scales.

    Returns
    -------
    Samples
        ``features`` float32 [569, 30], not standardised; ``label`` int64 [569], 0 malignant (212), 1 benign (357).

    Notes
    -----
    W. H. Wolberg, W. N. Street and O. L. Mangasarian, *Breast Cancer Wisconsin (Diagnostic)*, UCI Machine Learning
    Repository, 1995.

    Examples
    --------
    >>> breast_cancer().classes
    ('malignant', 'benign')
    """
    from sklearn.datasets import load_breast_cancer

    return _table("breast cancer", load_breast_cancer())


def diabetes() -> Samples:
    """442 patients, ten measurements each, and how far their diabetes had progressed a year later: a regression.

    The measurements are not standardised: age is in years, for example. So you standardise them yourself,
    with the training part's mean and deviation only.

    Returns
    -------
    Samples
        ``features`` float32 [442, 10]; ``target`` float32 [442], from 25 to 346. There are no classes.

    Notes
    -----
    B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, *Least Angle Regression*, Annals of Statistics, 2004.

    Examples
    --------
    >>> features, target = diabetes().tensors
    >>> features[0, 0].item(), target[0].item()  # age of the first patient, progression
    (59.0, 151.0)
    """
    from sklearn.datasets import load_diabetes

    return _table("diabetes", load_diabetes(scaled=False))


def photographs() -> Samples:
    """Two colour photographs: a Chinese temple and a flower.

    Returns
    -------
    Samples
        ``image`` uint8 [2, 3, 427, 640], channels first, 0 to 255; ``label`` int64 [2].

    Notes
    -----
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


def _table(title: str, bunch: Any) -> Samples:
    features = torch.tensor(bunch.data, dtype=torch.float32)
    if "target_names" not in bunch:
        target = torch.tensor(bunch.target, dtype=torch.float32)
        return Samples(title, {"features": features, "target": target}, feature_names=bunch.feature_names)
    columns = {"features": features, "label": torch.tensor(bunch.target, dtype=torch.int64)}
    return Samples(title, columns, classes=bunch.target_names.tolist(), feature_names=bunch.feature_names)

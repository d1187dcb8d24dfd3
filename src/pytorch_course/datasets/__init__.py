"""Data for the lessons, without a download: bundled real data, generated data, and loaders of public data sets.

Every function returns :class:`pytorch_course.datasets.samples.Samples`, only ``text.topics`` returns one string.
"""


class DatasetError(RuntimeError):
    """A dataset is missing or damaged. The message names the file, the folder and what to do.

    Examples
    --------
    >>> from pytorch_course.datasets.public import public
    >>> try:
    ...     public("MNIST", root="no-such-folder")
    ... except DatasetError as error:
    ...     print(str(error).splitlines()[0])
    MNIST is not here: no file train-images-idx3-ubyte.gz in no-such-folder/MNIST/raw
    """

"""The helper package behind the book PyTorch in Practice."""

__version__ = "0.1.0"

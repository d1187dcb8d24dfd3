"""Well-known networks, built small: they train in seconds on a processor, on 28x28 pictures and 64x64 pages.

Their `channels` are 1 for grey images and 3 for colour. An argument out of range raises a ValueError.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """Three stages of residual blocks, as for CIFAR-10 (He et al., 2015): ``features`` of an image, then a ``head``.

    Parameters
    ----------
    depth : int
        Layers with weights on the main path: 8, 14, 20, 26 ..., that is 6 n + 2 for n blocks in each stage.
    classes, channels, width : int
        Number of scores, of channels of an image, and of maps in the first stage, doubled where the size is halved.

    Examples
    --------
    >>> sum(p.numel() for p in ResNet(8, channels=3).parameters())
    78042
    """

    def __init__(self, depth: int = 8, classes: int = 10, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        _require(classes=classes, channels=channels, width=width)
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth is {depth}, expected 8, 14, 20, 26 ...: 6 n + 2 for n blocks in each stage")
        layers: list[nn.Module] = [_conv(channels, width), *(_Residual(width, width) for _ in range(depth // 6))]
        for outputs in (2 * width, 4 * width):
            layers.append(_Residual(outputs // 2, outputs, stride=2))
            layers += [_Residual(outputs, outputs) for _ in range(depth // 6 - 1)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (batch, channels, height, width) into scores (batch, classes)."""
        return cast(Tensor, self.head(self.features(x)))


class UNet(nn.Module):
    """Down to few large maps and up again, joined at each size by a skip connection (Ronneberger et al., 2015).

    Parameters
    ----------
    classes, channels, width, levels : int
        Number of scores for each pixel, of channels of an image, of maps at full size, twice as many at each level
        below, and how often the size is halved. An image keeps its size and needs sides of ``2 ** levels`` pixels.

    Examples
    --------
    >>> UNet(classes=5)(torch.zeros(2, 1, 64, 46)).shape
    torch.Size([2, 5, 64, 46])
    """

    def __init__(self, classes: int = 2, channels: int = 1, width: int = 12, levels: int = 2) -> None:
        super().__init__()
        _require(classes=classes, channels=channels, width=width, levels=levels)
        widths = [width << level for level in range(levels + 1)]
        pairs = zip([channels, *widths], widths, strict=False)
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.Sequential(_conv(3 * b, b), _conv(b, b)) for b in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (batch, channels, height, width) into scores (batch, classes, height, width)."""
        (height, width), least = x.shape[-2:], 2 ** len(self.up)
        if min(height, width) < least:
            raise ValueError(f"images are {height}x{width}, expected sides of at least {least} pixels")
        skips: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, size=skip.shape[-2:])], dim=1))
        return cast(Tensor, self.head(x))


class GPT(nn.Module):
    """Predict each token from those before it: a transformer decoder as in GPT-2 (Radford et al., 2019), tied weights.

    Parameters
    ----------
    vocabulary, context, width, heads, blocks : int
        Number of different tokens, of tokens it can look at, of numbers for each, attention heads that share them
        equally, and blocks.

    Examples
    --------
    >>> GPT(vocabulary=80)(torch.zeros(2, 10, dtype=torch.int64)).shape
    torch.Size([2, 10, 80])
    """

    def __init__(self, vocabulary: int, context: int = 64, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        _require(vocabulary=vocabulary, context=context, width=width, heads=heads, blocks=blocks)
        if width % heads:
            raise ValueError(f"width is {width}, expected a multiple of heads, which is {heads}")
        self.context = context
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                # As in GPT-2: every block adds twice to the stream, and so its variance does not grow with depth.
                nn.init.normal_(parameter, std=0.02 / (2 * blocks) ** 0.5 if ".add_" in name else 0.02)

    def features(self, tokens: Tensor) -> Tensor:
        """Turn tokens (batch, time), int64, into what is known at each of them, (batch, time, width)."""
        if (time := tokens.shape[1]) > self.context:
            raise ValueError(f"{time} tokens came, and the context holds {self.context}")
        x = self.tokens(tokens) + self.positions(torch.arange(time, device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x))

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn tokens (batch, time), int64, into scores of the one after each, (batch, time, vocabulary)."""
        return cast(Tensor, self.head(self.features(tokens)))


class _Residual(nn.Module):
    """Two convolutions, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(inputs, outputs, stride), *_conv(outputs, outputs)[:-1])  # no ReLU yet
        self.shortcut: nn.Module = nn.Identity()  # a 1x1 convolution where the number of maps or the size changes
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class _Block(nn.Module):
    """Causal self-attention, then a small network for each token alone; both add to the stream (batch, time, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.add_attention = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.add_widened = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm_1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.add_attention(seen.transpose(1, 2).flatten(2))
        return cast(Tensor, x + self.add_widened(F.gelu(self.widen(self.norm_2(x)))))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _require(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")

"""Well-known networks, built small: they train in seconds on a processor, on 28x28 pictures and 64x64 pages.

Each has the idea of its paper and none of its size. Their `channels` are 1 for grey images and 3 for colour.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """Three stages of residual blocks, as for CIFAR-10 (He et al., 2015, section 4.2).

    ``features`` turns images into maps, ``head`` turns maps into scores. A shortcut is the input itself, or a 1x1
    convolution of it where the number of maps or the size changes.

    Parameters
    ----------
    depth : int
        Layers with weights on the main path: 8, 14, 20, 26 ..., that is 6 n + 2 for n blocks in each stage.
    classes, channels, width : int
        Number of scores, of channels of an image, and of maps in the first stage. The others have twice and four times as
        many, at half and a quarter of the size.

    Examples
    --------
    >>> sum(p.numel() for p in ResNet(8, channels=3).parameters())
    78042
    """

    def __init__(self, depth: int = 8, classes: int = 10, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        _require(classes=classes, channels=channels, width=width)
        _require(8, depth=depth)
        if depth % 6 != 2:
            raise ValueError(f"depth is {depth}, expected 8, 14, 20, 26 ...: 6 n + 2 for n blocks in each stage")
        layers: list[nn.Module] = [_conv(channels, width)]
        for stage in range(3):
            outputs = width << stage
            layers.append(_Residual(outputs // 2, outputs, stride=2) if stage else _Residual(width, width))
            layers += [_Residual(outputs, outputs) for _ in range((depth - 2) // 6 - 1)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (batch, channels, height, width) into scores (batch, classes)."""
        return cast(Tensor, self.head(self.features(x)))


class UNet(nn.Module):
    """Down to few large maps and up again, joined at each size by a skip connection (Ronneberger et al., 2015).

    Convolutions are padded, so that scores come at the size of the image, whatever it is.

    Parameters
    ----------
    classes, channels, width, levels : int
        Number of scores for each pixel, of channels of an image, of maps at full size, twice as many at each level below,
        and how often the size is halved. The sides of an image need ``2 ** levels`` pixels.

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
        if height < least or width < least:
            raise ValueError(f"images are {height}x{width}, expected sides of at least {least} pixels")
        skips: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, size=skip.shape[-2:])], dim=1))
        return cast(Tensor, self.head(x))


class GPT(nn.Module):
    """Predict each token from those before it: a transformer decoder as in GPT-2 (Radford et al., 2019).

    The matrix that embeds tokens also gives their scores (Press and Wolf, 2017).

    Parameters
    ----------
    vocabulary, context : int
        Number of different tokens, such as characters, and how many of them it can look at.
    width, heads, blocks : int
        Numbers for each token, attention heads that share them equally, and blocks.
    dropout : float
        Share of numbers that training sets to zero, at least 0 and below 1.

    Examples
    --------
    >>> model = GPT(vocabulary=80)
    >>> model(torch.zeros(2, 10, dtype=torch.int64)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10, 80]), 109312)
    """

    def __init__(
        self, vocabulary: int, context: int = 64, width: int = 64, heads: int = 4, blocks: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _require(vocabulary=vocabulary, context=context, width=width, heads=heads, blocks=blocks)
        if width % heads:
            raise ValueError(f"width is {width}, expected a multiple of heads, which is {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected at least 0 and below 1")
        self.context = context
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
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
        time = tokens.shape[1]
        if time > self.context:
            raise ValueError(f"{time} tokens came, and the context holds {self.context}")
        x = self.dropout(self.tokens(tokens) + self.positions(torch.arange(time, device=tokens.device)))
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
        second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.body = nn.Sequential(_conv(inputs, outputs, stride), second, nn.BatchNorm2d(outputs))
        project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.shortcut = (
            nn.Identity() if inputs == outputs and stride == 1 else nn.Sequential(project, nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class _Block(nn.Module):
    """Causal self-attention, then a small network for each token alone; both add to the stream (batch, time, width)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.add_attention = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.add_widened = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm_1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        x = x + self.dropout(self.add_attention(seen.transpose(1, 2).flatten(2)))
        return cast(Tensor, x + self.dropout(self.add_widened(F.gelu(self.widen(self.norm_2(x))))))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _require(least: int = 1, /, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")

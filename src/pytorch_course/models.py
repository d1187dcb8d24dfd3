"""Well-known networks, built small: they train in seconds on a processor, on 28x28 pictures and 64x64 pages.

Each has the idea of its paper and none of its size. The classifiers of images end in two parts: ``features`` turns images
into maps, ``head`` turns maps into scores. Their `channels` are 1 for grey images and 3 for colour.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Classifier(nn.Module):
    """Features, then a head. Convolutional and dense layers begin as He et al. (2015) propose for ReLU."""

    def __init__(self, features: Sequence[nn.Module], head: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(*features), nn.Sequential(*head)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (batch, channels, height, width) into scores (batch, classes)."""
        scores: Tensor = self.head(self.features(x))
        return scores


class LeNet(_Classifier):
    """Two convolutions and three dense layers: LeNet-5 (LeCun et al., 1998), with ReLU and maximum pooling.

    Parameters
    ----------
    classes, channels : int
        Number of scores, and of channels of an image.
    size : int
        Height and width of the images, at least 12. The dense layers are made for it.

    Examples
    --------
    >>> model = LeNet()
    >>> model(torch.zeros(2, 1, 28, 28)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 61706)
    """

    def __init__(self, classes: int = 10, channels: int = 1, size: int = 28) -> None:
        _require(classes=classes, channels=channels)
        _require(12, size=size)
        side = (size // 2 - 4) // 2
        first = [nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
        dense = [nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)]
        super().__init__([*first, *second], [nn.Flatten(), *dense])


class VGG(_Classifier):
    """Nothing but 3x3 convolutions, in blocks that end in pooling (Simonyan and Zisserman, 2014).

    Batch normalisation and a mean over each map stand where the paper has three large dense layers.

    Parameters
    ----------
    classes, channels : int
        Number of scores, and of channels of an image.
    width : int
        Maps in the first block. Every block doubles them.
    blocks : sequence of int
        Convolutions in each block. Every block halves the image, so its sides need ``2 ** len(blocks)`` pixels.

    Examples
    --------
    >>> VGG(blocks=(1, 1)).features(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 32, 7, 7])
    """

    def __init__(
        self, classes: int = 10, channels: int = 1, width: int = 16, blocks: Sequence[int] = (1, 1, 2)
    ) -> None:
        _require(classes=classes, channels=channels, width=width, **{"len(blocks)": len(blocks)})
        _require(**{f"blocks[{number}]": convolutions for number, convolutions in enumerate(blocks)})
        layers: list[nn.Module] = []
        inputs = channels
        for number, convolutions in enumerate(blocks):
            for _ in range(convolutions):
                layers.append(_conv(inputs, width << number))
                inputs = width << number
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers, _mean_head(inputs, classes))


class GoogLeNet(_Classifier):
    """A convolution and two inception blocks (Szegedy et al., 2014, who have nine).

    Parameters
    ----------
    classes, channels : int
        Number of scores, and of channels of an image. Its sides need 4 pixels.
    width : int
        Maps of the first convolution, a multiple of 8. The blocks have twice and four times as many.

    Examples
    --------
    >>> GoogLeNet().features(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 64, 7, 7])
    """

    def __init__(self, classes: int = 10, channels: int = 1, width: int = 16) -> None:
        _require(classes=classes, channels=channels, width=width)
        if width % 8:
            raise ValueError(f"width is {width}, expected a multiple of 8")
        blocks = [_Inception(width, 2 * width), nn.MaxPool2d(2), _Inception(2 * width, 4 * width)]
        super().__init__([_conv(channels, width), nn.MaxPool2d(2), *blocks], _mean_head(4 * width, classes))


class ResNet(_Classifier):
    """Three stages of residual blocks, as for CIFAR-10 (He et al., 2015, section 4.2).

    A shortcut is the input itself, or a 1x1 convolution of it where the number of maps or the size changes.

    Parameters
    ----------
    depth : int
        Layers with weights on the main path: 8, 14, 20, 26 ..., that is 6 n + 2 for n blocks in each stage.
    classes, channels : int
        Number of scores, and of channels of an image.
    width : int
        Maps in the first stage. The others have twice and four times as many, at half and a quarter of the size.

    Examples
    --------
    >>> sum(p.numel() for p in ResNet(8, channels=3).parameters())
    78042
    """

    def __init__(self, depth: int = 8, classes: int = 10, channels: int = 1, width: int = 16) -> None:
        _require(classes=classes, channels=channels, width=width)
        _require(8, depth=depth)
        if depth % 6 != 2:
            raise ValueError(f"depth is {depth}, expected 8, 14, 20, 26 ...: 6 n + 2 for n blocks in each stage")
        layers: list[nn.Module] = [_conv(channels, width)]
        for stage in range(3):
            outputs = width << stage
            layers.append(_Residual(outputs // 2, outputs, stride=2) if stage else _Residual(width, width))
            layers += [_Residual(outputs, outputs) for _ in range((depth - 2) // 6 - 1)]
        super().__init__(layers, _mean_head(4 * width, classes))


class UNet(nn.Module):
    """Down to few large maps and up again, joined at each size by a skip connection (Ronneberger et al., 2015).

    Convolutions are padded, so that scores come at the size of the image. On the way up, maps are enlarged to the size of
    those that they join, so that the sides need not be divisible by anything.

    Parameters
    ----------
    classes, channels : int
        Number of scores for each pixel, and of channels of an image.
    width : int
        Maps at full size. Each level below has twice as many.
    levels : int
        How often the size is halved. The sides of an image need ``2 ** levels`` pixels.

    Examples
    --------
    >>> model = UNet(classes=5, width=8)
    >>> model(torch.zeros(2, 1, 64, 46)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 5, 64, 46]), 29813)
    """

    def __init__(self, classes: int = 2, channels: int = 1, width: int = 12, levels: int = 2) -> None:
        super().__init__()
        _require(classes=classes, channels=channels, width=width, levels=levels)
        widths = [width << level for level in range(levels + 1)]
        self.down = nn.ModuleList(map(_double, [channels, *widths], widths))
        self.up = nn.ModuleList(_double(3 * outputs, outputs) for outputs in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)
        _kaiming(self)

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
        scores: Tensor = self.head(x)
        return scores


class GPT(nn.Module):
    """Predict each token from those before it: a transformer decoder as in GPT-2 (Radford et al., 2019).

    Parameters
    ----------
    vocabulary : int
        Number of different tokens, such as characters.
    context : int
        How many tokens it can look at.
    width, heads, blocks : int
        Numbers for each token, attention heads that share them equally, and blocks.
    dropout : float
        Share of numbers that training sets to zero, at least 0 and below 1.
    tied : bool
        Whether the matrix that embeds tokens also gives their scores (Press and Wolf, 2017).

    Examples
    --------
    >>> model = GPT(vocabulary=80)
    >>> model(torch.zeros(2, 10, dtype=torch.int64)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10, 80]), 109312)
    """

    def __init__(
        self,
        vocabulary: int,
        context: int = 64,
        width: int = 64,
        heads: int = 4,
        blocks: int = 2,
        dropout: float = 0.0,
        tied: bool = True,
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
        if tied:
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
        known: Tensor = self.norm(x)
        return known

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn tokens (batch, time), int64, into scores of the one after each, (batch, time, vocabulary)."""
        scores: Tensor = self.head(self.features(tokens))
        return scores


class _Inception(nn.Module):
    """Four views of the same maps: 1x1, 3x3 and 5x5 convolutions, and pooling, in the shares of the paper's block 3a."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        part = outputs // 16
        self.one = _conv(inputs, 4 * part, 1)
        # A 1x1 convolution first makes the input of the large ones narrow.
        self.three = nn.Sequential(_conv(inputs, 6 * part, 1), _conv(6 * part, 8 * part, 3))
        self.five = nn.Sequential(_conv(inputs, part, 1), _conv(part, 2 * part, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _conv(inputs, 2 * part, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class _Residual(nn.Module):
    """Two convolutions, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.body = nn.Sequential(_conv(inputs, outputs, stride=stride), second, nn.BatchNorm2d(outputs))
        project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(project, nn.BatchNorm2d(outputs))

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
        added: Tensor = x + self.dropout(self.add_widened(F.gelu(self.widen(self.norm_2(x)))))
        return added


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))


def _mean_head(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def _kaiming(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _require(least: int = 1, /, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")

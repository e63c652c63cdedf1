"""Building blocks of the small torch networks."""

import pytest

torch = pytest.importorskip("torch")

nn = torch.nn


def conv_norm(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """Conv2d, BatchNorm2d and an activation, padded to keep the size."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act() if act else nn.Identity())


def head(channels: int, classes: int = 5) -> nn.Sequential:
    """Global average pool, flatten, Linear."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):
    """act(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Dense(nn.Module):
    """One layer of a dense block: pre-activation, then Concat with its own input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 12, 1, bias=False))
        self.outer = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, growth, 3, padding=1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.outer(self.inner(x))], 1)


class Branches(nn.Module):
    """Concat of several branches over the same input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class ConvGate(nn.Module):
    """Squeeze-and-excitation of 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeeze = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.ReLU()]
        self.gate = nn.Sequential(*squeeze, nn.Conv2d(4, channels, 1), nn.Hardsigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class LinearGate(nn.Module):
    """Squeeze-and-excitation of Linear layers, viewed back to four axes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(channels, 6), nn.ReLU(), nn.Linear(6, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x.mean((2, 3))).view(x.size(0), x.size(1), 1, 1)


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel shuffle: view, transpose, view."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's basic unit: half the channels pass, the other half is convolved, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        depthwise = conv_norm(half, half, 3, 1, half, None)
        self.branch = nn.Sequential(conv_norm(half, half, 1), depthwise, conv_norm(half, half, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        return shuffle(torch.cat([left, self.branch(right)], 1), 2)


class GroupedShuffle(nn.Module):
    """ShuffleNetV1's unit: grouped 1x1 convolution, shuffle, depthwise, grouped 1x1 convolution, sum."""

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.first = conv_norm(channels, width, 1, 1, groups)
        depthwise = conv_norm(width, width, 3, 1, width, None)
        self.rest = nn.Sequential(depthwise, conv_norm(width, channels, 1, 1, groups, None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.rest(shuffle(self.first(x), self.groups)))


class ConvNeXtBlock(nn.Module):
    """Depthwise, NHWC LayerNorm, two Linear layers, layer scale, residual."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, channels))
        self.scale = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.mlp(y)).permute(0, 3, 1, 2)

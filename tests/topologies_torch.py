"""Small torch networks, by name, with the shape of one input."""

from collections.abc import Callable

import pytest
from torch_blocks import (
    Branches,
    ConvGate,
    ConvNeXtBlock,
    Dense,
    GroupedShuffle,
    LinearGate,
    Residual,
    ShuffleUnit,
    conv_norm,
    head,
)

torch = pytest.importorskip("torch")

nn = torch.nn
functional = torch.nn.functional


def resnet() -> nn.Module:
    def basic(inputs: int, width: int, outputs: int, stride: int) -> nn.Module:
        body = nn.Sequential(conv_norm(inputs, width, 3, stride), conv_norm(width, outputs, act=None))
        same = inputs == outputs and stride == 1
        return Residual(body, None if same else conv_norm(inputs, outputs, 1, stride, act=None), nn.ReLU())

    return nn.Sequential(conv_norm(3, 8), basic(8, 12, 8, 1), basic(8, 16, 16, 2), basic(16, 10, 16, 1), head(16))


def bottleneck(groups: int = 1) -> nn.Module:
    def block(inputs: int, width: int, outputs: int, stride: int) -> nn.Module:
        body = nn.Sequential(
            conv_norm(inputs, width, 1),
            conv_norm(width, width, 3, stride, groups),
            conv_norm(width, outputs, 1, act=None),
        )
        same = inputs == outputs and stride == 1
        return Residual(body, None if same else conv_norm(inputs, outputs, 1, stride, act=None), nn.ReLU())

    return nn.Sequential(conv_norm(3, 8), block(8, 8, 16, 1), block(16, 8, 16, 1), block(16, 12, 20, 2), head(20))


def vgg() -> nn.Module:
    features = [conv_norm(3, 8), nn.MaxPool2d(2), conv_norm(8, 12), nn.MaxPool2d(2), nn.Conv2d(12, 10, 3, padding=1)]
    dense = [nn.Flatten(), nn.Linear(160, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5), nn.Softmax(-1)]
    return nn.Sequential(*features, nn.ReLU(), *dense)


def densenet() -> nn.Module:
    transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2))
    tail = nn.Sequential(Dense(10, 6), nn.BatchNorm2d(16), nn.ReLU(), head(16))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Dense(8, 6), Dense(14, 6), transition, tail)


def inception() -> nn.Module:
    def block(inputs: int) -> nn.Module:
        pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_norm(inputs, 4, 1))
        deep = nn.Sequential(conv_norm(inputs, 6, 1), conv_norm(6, 8), conv_norm(8, 8))
        return Branches(conv_norm(inputs, 6, 1), nn.Sequential(conv_norm(inputs, 6, 1), conv_norm(6, 8, 5)), deep, pool)

    reduce = Branches(conv_norm(26, 10, 3, 2), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(conv_norm(3, 8), block(8), reduce, block(36), nn.Dropout(), head(26))


def mobilenet_v2() -> nn.Module:
    def block(inputs: int, width: int, outputs: int, stride: int) -> nn.Module:
        expand = conv_norm(inputs, width, 1, act=nn.ReLU6)
        depthwise = conv_norm(width, width, 3, stride, width, nn.ReLU6)
        body = nn.Sequential(expand, depthwise, conv_norm(width, outputs, 1, act=None))
        return Residual(body) if stride == 1 and inputs == outputs else body

    blocks = [block(8, 16, 8, 1), block(8, 16, 12, 2), block(12, 20, 12, 1)]
    return nn.Sequential(conv_norm(3, 8, act=nn.ReLU6), *blocks, conv_norm(12, 16, 1, act=nn.ReLU6), head(16))


def mobilenet_v3() -> nn.Module:
    def block(channels: int, width: int, gate: Callable[[int], nn.Module]) -> nn.Module:
        body = [conv_norm(channels, width, 1, act=nn.Hardswish), conv_norm(width, width, 5, 1, width, nn.Hardswish)]
        return Residual(nn.Sequential(*body, gate(width), conv_norm(width, channels, 1, act=None)))

    tail = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(10, 16, 1), nn.Hardswish(), nn.Flatten(), nn.Linear(16, 5)]
    down = conv_norm(8, 10, 3, 2, act=nn.Hardswish)
    return nn.Sequential(conv_norm(3, 8), block(8, 12, ConvGate), down, block(10, 16, LinearGate), *tail)


def shufflenet_v2() -> nn.Module:
    down = Branches(
        nn.Sequential(conv_norm(12, 12, 3, 2, 12, None), conv_norm(12, 8, 1)),
        nn.Sequential(conv_norm(12, 10, 1), conv_norm(10, 10, 3, 2, 10, None), conv_norm(10, 8, 1)),
    )
    return nn.Sequential(conv_norm(3, 12), ShuffleUnit(12), down, ShuffleUnit(16), ShuffleUnit(16), head(16))


def shufflenet_v1() -> nn.Module:
    return nn.Sequential(conv_norm(3, 12), GroupedShuffle(12, 8, 2), GroupedShuffle(12, 12, 4), head(12))


class UNet(nn.Module):
    """Two levels; the deeper way up is a ConvTranspose, the other an Upsample."""

    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1, self.middle = conv_norm(3, 8), conv_norm(8, 12), conv_norm(12, 16)
        self.up1, self.up0 = nn.ConvTranspose2d(16, 10, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.d1, self.d0, self.out = conv_norm(22, 12), conv_norm(20, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e0 = self.e0(x)
        e1 = self.e1(functional.max_pool2d(e0, 2))
        d1 = self.d1(torch.cat([self.up1(self.middle(functional.max_pool2d(e1, 2))), e1], 1))
        return self.out(self.d0(torch.cat([e0, self.up0(d1)], 1)))


def convnext() -> nn.Module:
    stages = [nn.Conv2d(3, 8, 2, 2), ConvNeXtBlock(8, 16), nn.Conv2d(8, 12, 2, 2), ConvNeXtBlock(12, 20)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 5))


def conv1d() -> nn.Module:
    body = nn.Sequential(nn.Conv1d(8, 12, 3, padding=2, dilation=2), nn.BatchNorm1d(12), nn.ReLU())
    block = Residual(nn.Sequential(body, nn.Conv1d(12, 8, 1)), None, nn.LeakyReLU(0.1))
    tail = [nn.AvgPool1d(2), nn.Conv1d(8, 10, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(30, 5)]
    return nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), block, *tail)


def conv3d() -> nn.Module:
    stem = [nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)]
    up = [nn.Conv3d(8, 10, 1, bias=False), nn.BatchNorm3d(10), nn.ReLU(), nn.ConvTranspose3d(10, 6, 2, 2)]
    return nn.Sequential(*stem, *up, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 4))


class Res2Net(nn.Module):
    """Split into four, each convolved after adding the previous one's result, Concat, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = conv_norm(3, 10), conv_norm(10, 16, 1)
        self.convs = nn.ModuleList(conv_norm(4, 4) for _ in range(2))
        self.project, self.head = conv_norm(16, 10, 1, act=None), head(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        first, second, third, fourth = torch.split(self.expand(x), 4, 1)
        second = self.convs[0](second)
        third = self.convs[1](third + second)
        return self.head(torch.relu(x + self.project(torch.cat([first, second, third, fourth], 1))))


class CrossStage(nn.Module):
    """YOLO's C2f and SPPF, then a head reshaped to (batch, outputs, anchors) at two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv_norm(3, 16, act=nn.SiLU), conv_norm(8, 8, act=nn.SiLU)
        self.join, self.pool = conv_norm(32, 12, 1, act=nn.SiLU), nn.MaxPool2d(5, 1, 2)
        self.fuse, self.near = conv_norm(36, 10, 1, 2, act=nn.SiLU), nn.Conv2d(12, 6, 1)
        self.far = nn.Conv2d(10, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.stem(x).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        parts.append(self.inner(parts[-1]))
        near = self.join(torch.cat(parts, 1))
        pooled = self.pool(near)
        far = self.fuse(torch.cat([near, pooled, self.pool(pooled)], 1))
        outputs = torch.cat([y.view(x.shape[0], 6, -1) for y in (self.near(near), self.far(far))], 2)
        boxes, scores = outputs.split((4, 2), 1)
        return torch.cat([boxes, scores.sigmoid()], 1)


class RuntimeReshape(nn.Module):
    """Reshape targets computed from the run-time shape: Shape, Gather, Concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.out = conv_norm(3, 12), conv_norm(6, 8), nn.Linear(128, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.shape
        pairs = x.reshape(batch, channels // 2, 2, height, width).sum(2)
        y = functional.max_pool2d(self.middle(pairs), 4)
        return self.out(y.view(y.size(0), -1))


class PixelAttention(nn.Module):
    """One gate a channel and pixel, one gate a pixel, and a slope a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.channel, self.pixel = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 1, 1)
        self.act, self.out = nn.PReLU(12), nn.Sequential(nn.Conv2d(12, 8, 3), nn.PReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        return self.out(x * torch.sigmoid(self.channel(x)) * torch.sigmoid(self.pixel(x)))


class AxisPlay(nn.Module):
    """Pad (also of channels), Slice, Squeeze, Unsqueeze, Dropout, Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.tail = conv_norm(3, 8), nn.Conv2d(8, 12, 3, 2), nn.Conv1d(10, 6, 7)
        self.out = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        padded = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y = functional.relu(self.down(functional.pad(x, (1, 1, 1, 1), mode="reflect"))) + padded[:, :, :8, :8]
        z = functional.dropout(y[:, 1:-1], 0.5, self.training).mean(2).unsqueeze(2).squeeze(2)
        return self.out(self.tail(z).amax(2)).softmax(1)


class Shared(nn.Module):
    """One convolution and one norm applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = conv_norm(3, 8), conv_norm(8, 8), head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.shared(functional.max_pool2d(self.shared(self.stem(x)), 2)))


def perceptron() -> nn.Module:
    """Linear layers over three axes: MatMul and Add."""
    block = Residual(nn.Sequential(nn.Linear(10, 16), nn.GELU(), nn.Linear(16, 10)))
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), block, nn.Linear(10, 4))


class Recurrent(nn.Module):
    """Two stacked layers over a sequence: every step of the first, the last state and the mean of the second."""

    def __init__(self, layer: type[nn.RNNBase], both: bool) -> None:
        super().__init__()
        self.stem, self.layers = nn.Linear(6, 10), layer(10, 8, 2, batch_first=True, bidirectional=both)
        self.steps, self.last = nn.Linear(16 if both else 8, 5), nn.Linear(16 if both else 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, states = self.layers(functional.relu(self.stem(x)))
        last = states[0] if isinstance(states, tuple) else states
        ends = [last[-2], last[-1]] if self.layers.bidirectional else [last[-1]]
        return self.steps(y.mean(1)) + self.last(torch.cat(ends, 1))


IMAGE = (3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (resnet, IMAGE),
    "bottleneck": (bottleneck, IMAGE),
    "resnext": (lambda: bottleneck(4), IMAGE),
    "vgg": (vgg, IMAGE),
    "densenet": (densenet, IMAGE),
    "inception": (inception, IMAGE),
    "mobilenet-v2": (mobilenet_v2, IMAGE),
    "mobilenet-v3": (mobilenet_v3, IMAGE),
    "shufflenet-v1": (shufflenet_v1, IMAGE),
    "shufflenet-v2": (shufflenet_v2, IMAGE),
    "unet": (UNet, IMAGE),
    "convnext": (convnext, IMAGE),
    "conv1d": (conv1d, (4, 16)),
    "conv3d": (conv3d, (2, 6, 8, 8)),
    "res2net": (Res2Net, IMAGE),
    "cross-stage": (CrossStage, IMAGE),
    "runtime-reshape": (RuntimeReshape, IMAGE),
    "pixel-attention": (PixelAttention, IMAGE),
    "axis-play": (AxisPlay, IMAGE),
    "shared": (Shared, IMAGE),
    "perceptron": (perceptron, (7, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM, True), (7, 6)),
    "gru": (lambda: Recurrent(nn.GRU, False), (7, 6)),
}


# TorchScript folds BatchNorm into Conv unless told otherwise; these models show the unfolded form.
BATCHNORM_KEPT = {"bottleneck", "vgg", "inception", "mobilenet-v3", "shufflenet-v2", "conv3d", "cross-stage", "shared"}


def randomise_norms(network: nn.Module) -> None:
    """Statistics and affine parameters that no identity could hide behind."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.05, 0.4)

"""ResNet-18 of K. He et al., "Deep Residual Learning for Image Recognition", with random weights."""

import torch
from torch import Tensor, nn

SIDE = 224
"""Height and width of the input in pixels."""


class ResNet18(nn.Module):
    """(N, 3, 224, 224) float32, normalised -> (N, classes) float32 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.stages = nn.Sequential(
            *_stage(64, 64, stride=1),
            *_stage(64, 128, stride=2),
            *_stage(128, 256, stride=2),
            *_stage(256, 512, stride=2),
        )
        self.classify = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of each picture."""
        return self.classify(self.stages(self.stem(pictures)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual block: two convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *_convolution(channels_in, channels_out, 3, stride),
            nn.ReLU(),
            *_convolution(channels_out, channels_out, 3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(*_convolution(channels_in, channels_out, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum of the path and the shortcut, after ReLU."""
        return (self.path(features) + self.shortcut(features)).relu()  # type: ignore[no-any-return]


def _convolution(
    channels_in: int, channels_out: int, size: int, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels_out)


def _stage(channels_in: int, channels_out: int, stride: int) -> tuple[nn.Module, ...]:
    return Block(channels_in, channels_out, stride), Block(channels_out, channels_out, 1)


def create_network(seed: int = 0) -> ResNet18:
    """Return a network with random weights from a seed, in evaluation mode."""
    torch.manual_seed(seed)
    net = ResNet18()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net.eval()

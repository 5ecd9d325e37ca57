"""ResNet-18 and ResNet-50 of K. He et al., "Deep Residual Learning for Image Recognition", with random weights."""

import torch
from torch import Tensor, nn

SIDE = 224
"""Height and width of the input in pixels."""


class ResNet(nn.Module):
    """(N, 3, 224, 224) float32, normalised -> (N, classes) float32 logits."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        block, depths = ARCHITECTURES[layers]
        self.stem = nn.Sequential(
            *_convolution(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        )
        blocks: list[nn.Module] = []
        channels = 64
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(block(channels, 64 << stage, stride))
                channels = (64 << stage) * block.expansion
        self.stages = nn.Sequential(*blocks)
        self.classify = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of each picture."""
        return self.classify(self.stages(self.stem(pictures)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual block: a path of convolutions and a shortcut."""

    expansion = 1
    """The output's channels over those of the convolutions of 3x3."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.path = self.create_path(channels_in, channels, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(*_convolution(channels_in, channels_out, 1, stride))

    def create_path(self, channels_in: int, channels: int, stride: int) -> nn.Sequential:
        """Return two convolutions of 3x3."""
        return nn.Sequential(
            *_convolution(channels_in, channels, 3, stride),
            nn.ReLU(),
            *_convolution(channels, channels, 3),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum of the path and the shortcut, after ReLU."""
        return (self.path(features) + self.shortcut(features)).relu()  # type: ignore[no-any-return]


class Bottleneck(Block):
    """A residual block of the deeper networks: a convolution of 3x3 between two of 1x1."""

    expansion = 4

    def create_path(self, channels_in: int, channels: int, stride: int) -> nn.Sequential:
        """Return the three convolutions."""
        return nn.Sequential(
            *_convolution(channels_in, channels, 1),
            nn.ReLU(),
            *_convolution(channels, channels, 3, stride),
            nn.ReLU(),
            *_convolution(channels, channels * self.expansion, 1),
        )


ARCHITECTURES: dict[int, tuple[type[Block], tuple[int, ...]]] = {
    18: (Block, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""The block of each network, and its number in the four stages."""


def _convolution(
    channels_in: int, channels_out: int, size: int, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels_out)


def create_network(layers: int = 18, seed: int = 0) -> ResNet:
    """Return a network with random weights from a seed, in evaluation mode."""
    torch.manual_seed(seed)
    net = ResNet(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net.eval()

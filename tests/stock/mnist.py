"""The model file of the stock archive; TorchServe requires exactly one class in it."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """N x 1 x 28 x 28 grey pixels -> the log-probabilities of ten digits, N x 10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2)
        self.fc = nn.Linear(8 * 13 * 13, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        return functional.log_softmax(self.fc(torch.flatten(x, 1)), dim=1)

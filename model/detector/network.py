"""The networks of MTCNN: three stages, each of which scores boxes and corrects their corners."""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

MIN_FACE, CELL, STRIDE, PYRAMID_FACTOR = 20, 12, 2, 0.709
"""The first stage looks at cells of 12 pixels, in smaller and smaller copies of the picture."""
PROPOSAL_SCORE, REFINED_SCORE, MAX_CANDIDATES = 0.6, 0.7, 200


def convolve(inputs: int, outputs: int, size: int, *pool: int) -> list[nn.Module]:
    """Return a convolution, its activation, and a pooling layer if its size and stride are given."""
    pooling = [nn.MaxPool2d(*pool, ceil_mode=True)] if pool else []
    return [nn.Conv2d(inputs, outputs, size), nn.PReLU(outputs), *pooling]


class Stage(nn.Module):
    """Scores (N, 3, H, W) crops, and returns what to add to their corners, as a share of the size."""

    def __init__(self, trunk: list[nn.Module], score: nn.Module, offsets: nn.Module) -> None:
        super().__init__()
        self.trunk, self.score, self.offsets = nn.Sequential(*trunk), score, offsets

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of a face, and the four offsets."""
        features = self.trunk(pixels)
        return self.score(features).softmax(1)[:, 1], self.offsets(features)


class FaceNet(nn.Module):
    """The cascade: proposals from the whole picture, then two stages that look at each of them."""

    def __init__(self) -> None:
        super().__init__()
        trunk = [*convolve(3, 10, 3, 2, 2), *convolve(10, 16, 3), *convolve(16, 32, 3)]
        self.propose = Stage(trunk, nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1))
        trunk = [*convolve(3, 28, 3, 3, 2), *convolve(28, 48, 3, 3, 2), *convolve(48, 64, 2)]
        trunk += [nn.Flatten(), nn.Linear(576, 128), nn.PReLU(128)]
        self.refine = Stage(trunk, nn.Linear(128, 2), nn.Linear(128, 4))
        trunk = [*convolve(3, 32, 3, 3, 2), *convolve(32, 64, 3, 3, 2), *convolve(64, 64, 3, 2, 2)]
        trunk += [*convolve(64, 128, 2), nn.Flatten(), nn.Linear(1152, 256), nn.PReLU(256)]
        self.finish = Stage(trunk, nn.Linear(256, 2), nn.Linear(256, 4))

    def forward(self, pixels: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find faces in (N, 3, H, W) pixels from -1 to 1, with a threshold for each picture.

        Returns for each face the index of its picture, its corners and its score.
        """
        owner, boxes = self._find_proposals(pixels)
        score = threshold
        for stage, side, minimum, overlap in (
            (self.refine, 24, torch.full_like(threshold, REFINED_SCORE), 0.7),
            (self.finish, 48, threshold, 0.4),
        ):
            boxes = make_square(boxes)
            score, offsets = stage(crop(pixels, owner, boxes, side))
            boxes = move_corners(boxes, offsets)
            keep = suppress(owner, boxes, score, overlap)
            keep = keep[score[keep] >= minimum[owner[keep]]]
            owner, boxes, score = owner[keep], boxes[keep], score[keep]
        return owner, boxes, score

    def _find_proposals(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        owners, found, scores = [], [], []
        scale = CELL / MIN_FACE
        while min(pixels.shape[2:]) * scale >= CELL:
            score, offsets = self.propose(interpolate(pixels, scale_factor=scale, mode="area"))
            owner, row, column = (score >= PROPOSAL_SCORE).nonzero(as_tuple=True)
            corner = torch.stack([column, row, column, row], 1) * STRIDE
            corner[:, 2:] += CELL
            boxes = move_corners(corner / scale, offsets[owner, :, row, column])
            keep = suppress(owner, boxes, score[owner, row, column], 0.5)
            owners.append(owner[keep])
            found.append(boxes[keep])
            scores.append(score[owner, row, column][keep])
            scale *= PYRAMID_FACTOR
        owner, boxes = torch.cat(owners), torch.cat(found)
        keep = suppress(owner, boxes, torch.cat(scores), 0.7)
        return owner[keep], boxes[keep]


def move_corners(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Add offsets, which are shares of a box's width and height."""
    return boxes + offsets * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def make_square(boxes: Tensor) -> Tensor:
    """Extend the shorter side of each box to the longer one."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half], 1)


def crop(pixels: Tensor, owner: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Return what is inside of (K, 4) boxes as (K, 3, side, side)."""
    height, width = pixels.shape[2:]
    crops = [pixels.new_zeros(0, 3, side, side)]
    for index, corners in zip(owner.tolist(), boxes.round().int().tolist(), strict=True):
        left, right = (min(max(each, 0), width) for each in corners[::2])
        top, bottom = (min(max(each, 0), height) for each in corners[1::2])
        inside = pixels[index, :, top : max(bottom, top + 1), left : max(right, left + 1)]
        empty = inside.numel() == 0
        crops.append((inside.new_zeros(3, 1, 1) if empty else inside)[None])
        crops[-1] = adaptive_avg_pool2d(crops[-1], side)
    return torch.cat(crops)


def suppress(owner: Tensor, boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Return the indices of the boxes that do not overlap a better one of the same picture."""
    kept = [owner.new_zeros(0)]
    for each in owner.unique():
        indices = (owner == each).nonzero()[:, 0]
        indices = indices[scores[indices].argsort(descending=True)][:MAX_CANDIDATES]
        while len(indices):
            kept.append(indices[:1])
            shares = intersection_over_union(boxes[indices[0]], boxes[indices])
            indices = indices[1:][shares[1:] <= overlap]
    return torch.cat(kept)


def intersection_over_union(box: Tensor, boxes: Tensor) -> Tensor:
    """Return the area that a box shares with each of (K, 4) boxes, as a share of both together."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)

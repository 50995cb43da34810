"""A small ResNet on scikit-learn's scanned digits, trained with PyTorch in about a minute.

The net of He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", section 4.2
(that for CIFAR-10: a 3 x 3 stem, three stages, batch norms, strided 1 x 1 projections), with two
blocks a stage. It leaves the network as torch.export writes it, batch dimension free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from converter.zoo import digits
from converter.zoo.lesson import SEED, Array, Lesson

_BATCH_ROWS = 32
_SHIFT_PIXELS = 2


@dataclass(frozen=True)
class Size:
    """Channels of the three stages, and how long the net learns."""

    channels: tuple[int, int, int]
    blocks: int
    epochs: int


FULL = Size(channels=(32, 64, 128), blocks=2, epochs=12)
QUICK = Size(channels=(16, 32, 64), blocks=1, epochs=8)


class Block(nn.Module):  # type: ignore[misc]
    """Two 3 x 3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        stride = 1 if before == channels else 2
        self.first = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride == 2:
            projection = nn.Conv2d(before, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, before, h, w] -> [batch, channels, h, w], or half of h and w."""
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class SmallResNet(nn.Module):  # type: ignore[misc]
    """float32 images [batch, 1, 32, 32] -> scores [batch, 10]."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        stem = size.channels[0]
        self.stem = nn.Conv2d(1, stem, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        # Each block after the one it follows: all of a stage are as wide as the stage.
        widths = [channels for channels in size.channels for _ in range(size.blocks)]
        pairs = zip((stem, *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Block(before, channels) for before, channels in pairs))
        self.classes = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the ten digits, before softmax."""
        stages = self.blocks(torch.relu(self.stem_norm(self.stem(x))))
        return self.classes(stages.mean(dim=(2, 3)))


def shifted(x: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """The images, all moved by the same few pixels, up or down, left or right."""
    down, right = torch.randint(-_SHIFT_PIXELS, _SHIFT_PIXELS + 1, (2,), generator=chance).tolist()
    return torch.roll(x, (int(down), int(right)), dims=(2, 3))


def train(lesson: Lesson) -> dict[str, float]:
    """Train, and write ``model.pt2`` and its rows.

    Returns:
        ``held_out_accuracy`` from 0 to 1, and the number of ``parameters``.
    """
    torch.manual_seed(SEED)
    size = QUICK if lesson.quick else FULL
    split = digits.load()
    x, y = _channels_first(split.train[0]), torch.from_numpy(split.train[1])
    net = SmallResNet(size)
    batches = len(x) // _BATCH_ROWS
    steps = size.epochs * batches
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    chance = torch.Generator().manual_seed(SEED)
    for step in range(steps):
        if step % batches == 0:
            order = torch.randperm(len(x), generator=chance)
        rows = order[step % batches * _BATCH_ROWS :][:_BATCH_ROWS]
        loss = nn.functional.cross_entropy(net(shifted(x[rows], chance)), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        lesson.progress(step + 1, steps)
    net.eval()
    held_x, held_y = _channels_first(split.held_out[0]), split.held_out[1]
    with torch.no_grad():
        answers = net(held_x).argmax(dim=1).numpy()
    _save(net, lesson, held_x[:2])
    calibration = _channels_first(split.calibration[0]).numpy()
    lesson.save_rows({"x": calibration}, {"x": held_x.numpy()}, held_y)
    parameters = sum(math.prod(weights.shape) for weights in net.parameters())
    return {"held_out_accuracy": float((answers == held_y).mean()), "parameters": parameters}


def _save(net: nn.Module, lesson: Lesson, example: torch.Tensor) -> None:
    rows = torch.export.Dim("batch")
    program = torch.export.export(net, (example,), dynamic_shapes=({0: rows},))
    torch.export.save(program, lesson.directory / "model.pt2")


def _channels_first(images: Array) -> Any:
    """[rows, 32, 32, 1] -> a tensor of [rows, 1, 32, 32]."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

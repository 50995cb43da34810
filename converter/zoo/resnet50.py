"""ResNet50 with a new head: five digits instead of ImageNet's 1,000 things."""

from __future__ import annotations

from converter.zoo import new_head
from converter.zoo.lesson import Lesson


def train(lesson: Lesson) -> dict[str, float]:
    """Fit the head on the frozen network, random or from the lesson's weights."""
    from keras.applications import resnet50

    return new_head.train(lesson, resnet50.ResNet50, resnet50.preprocess_input)

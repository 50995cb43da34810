"""InceptionV3 with a new head: five digits instead of ImageNet's 1,000 things.

The pictures are 224 pixels wide, not 299: it is a convolutional network, and takes either.
"""

from __future__ import annotations

from converter.zoo import new_head
from converter.zoo.lesson import Lesson


def train(lesson: Lesson) -> dict[str, float]:
    """Fit the head on the frozen network, random or from the lesson's weights."""
    from keras.applications import inception_v3

    return new_head.train(lesson, inception_v3.InceptionV3, inception_v3.preprocess_input)

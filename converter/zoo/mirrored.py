"""The perceptron once more, trained data-parallel: one copy of the net on each of two devices."""

from __future__ import annotations

from typing import Any

from converter.zoo import perceptron
from converter.zoo.lesson import SEED, Lesson

_DEVICES = 2


def train(lesson: Lesson) -> dict[str, float]:
    """Train the mirrored net, and write it with its rows; it is saved as one net like any other."""
    import keras

    strategy = mirrored()
    keras.utils.set_random_seed(SEED)
    # A model, its optimizer and their variables take the strategy under which they are created.
    # Made outside, all of them lie on one device, and `fit` trains there without a word about the
    # other: nothing is mirrored.
    with strategy.scope():
        model = perceptron.build()
    facts = perceptron.teach(model, lesson)
    return facts | {"replicas": strategy.num_replicas_in_sync}


def mirrored() -> Any:
    """A strategy over all GPUs where there are two or more, and over two halves of the CPU else.

    Each replica takes its share of every batch, the gradients are summed over all, and every copy
    takes the same step. Must be called before anything has touched a device.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Or else the first process takes all of a GPU's memory at its start.
        tf.config.experimental.set_memory_growth(gpu, True)
    if len(gpus) >= _DEVICES:
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(len(gpus))])
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(_DEVICES)]
    )
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(_DEVICES)])

"""Gradient-boosted trees on scikit-learn's scanned digits: a pipeline of a scaler and the trees.

The trees need no scaling; the scaler is there because what is deployed is a pipeline as a rule, and
all of it must be converted, not the last step alone.
"""

from __future__ import annotations

import numpy as np

from converter.zoo import digits
from converter.zoo.lesson import SEED, Array, Lesson


def train(lesson: Lesson) -> dict[str, float]:
    """Fit the pipeline; it writes ``model.joblib`` and its rows, and returns the facts."""
    import joblib
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    split = digits.load()
    rounds = 30 if lesson.quick else 150
    # No part of the training rows is set aside to stop by: there are few enough.
    trees = HistGradientBoostingClassifier(
        max_iter=rounds, learning_rate=0.1, max_leaf_nodes=15, early_stopping=False,
        l2_regularization=1.0, max_features=0.3, random_state=SEED,
    )  # fmt: skip
    pipeline = make_pipeline(StandardScaler(), trees)
    x, y = split.train
    lesson.progress(0, 1)  # scikit-learn reports no batches
    pipeline.fit(_pixels(x), y)
    lesson.progress(1, 1)

    held_x, held_y = split.held_out
    accuracy = float(pipeline.score(_pixels(held_x), held_y))
    joblib.dump(pipeline, lesson.directory / "model.joblib")
    lesson.save_rows({"x": _pixels(split.calibration[0])}, {"x": _pixels(held_x)}, held_y)
    leaves = sum(int(tree.get_n_leaf_nodes()) for round_ in trees._predictors for tree in round_)
    return {"held_out_accuracy": accuracy, "leaves": float(leaves)}


def _pixels(images: Array) -> Array:
    """The scans' own 8 x 8 pixels, as float32 [rows, 64] from 0 to 1."""
    pixels: Array = images[:, ::4, ::4, 0].reshape(len(images), 64).astype(np.float32)
    return pixels

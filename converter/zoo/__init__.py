"""Models that train in a minute, offline; read them as examples, a page of code each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        module: where its ``train(lesson) -> facts`` is.
        file: what it writes, beside ``calibration.npz`` and ``heldout.npz``.
        extra: what must be installed to train and convert it.
        text: what it is, in one line.
        shows: what there is to read in its module.
    """

    module: str
    file: str
    extra: str
    text: str
    shows: str


def _keras(module: str, text: str, shows: str, extra: str = "keras") -> Entry:
    return Entry(f"converter.zoo.{module}", "model.keras", extra, text, shows)


_SCANS = "keras,sklearn"
# The nets that can start from a file of weights.
PRETRAINED = "keras.applications, a new head on pretrained weights"

ZOO = {
    "digits": _keras(
        "digits",
        "a convolutional net on scanned digits",
        "batch normalization, Adam with a cosine schedule",
        _SCANS,
    ),
    "perceptron": _keras(
        "perceptron",
        "784-128-dropout-10 on scanned digits",
        "Sequential, Adam, L2, dropout",
        _SCANS,
    ),
    "perceptron-mirrored": _keras(
        "mirrored",
        "the same, trained data-parallel on two devices",
        "MirroredStrategy, logical devices",
        _SCANS,
    ),
    "finetuned": _keras(
        "finetuned",
        "pretrained on half of the digits, fine-tuned on the others",
        "frozen and unfrozen layers, SGD, augmentation",
        _SCANS,
    ),
    "text-cnn": _keras(
        "text_cnn",
        "reviews, good or bad: Embedding, Conv1D, Dense",
        "TextVectorization, early stopping",
    ),
    "intents": _keras(
        "intents",
        "what a customer's question is about; takes words",
        "strings in, StringLookup, Conv1D",
    ),
    "recommender": _keras(
        "recommender",
        "two towers of embeddings: user and item",
        "two inputs, Adagrad, L2 on embeddings",
    ),
    "encoder": _keras(
        "encoder", "a BERT-style encoder that classifies texts", "attention, layer normalization"
    ),
    "keywords": _keras(
        "keywords", "spoken keywords: Conv1D and GRU on a spectrogram", "GRU, mixed precision"
    ),
    "resnet50": _keras("resnet50", "ResNet50 with a new head", PRETRAINED, _SCANS),
    "inceptionv3": _keras("inceptionv3", "InceptionV3 with a new head", PRETRAINED, _SCANS),
    "small-resnet": Entry(
        "converter.zoo.small_resnet",
        "model.pt2",
        "torch,sklearn",
        "a small ResNet in PyTorch",
        "a training loop, torch.export",
    ),
    "torch-encoder": Entry(
        "converter.zoo.torch_encoder",
        "model.pt2",
        "torch",
        "a Transformer encoder in PyTorch",
        "a training loop, torch.export",
    ),
    "hf-encoder": Entry(
        "converter.zoo.hf_encoder",
        "model",
        "hf",
        "a small BERT of Hugging Face's transformers",
        "from a configuration to a folder on disk",
    ),
    "boosting": Entry(
        "converter.zoo.boosting",
        "model.joblib",
        "sklearn",
        "a gradient-boosting pipeline",
        "trees behind a scaler",
    ),
}

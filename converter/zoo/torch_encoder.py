"""A Transformer encoder in PyTorch that says which topic a text is about."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim

from converter.zoo import texts
from converter.zoo.lesson import SEED, Lesson

HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200
_TRAINING_ROWS = 1280
_BATCH_ROWS = 8


class Encoder(nn.Module):  # type: ignore[misc]
    """``ids`` int64 [batch, sequence], padded with 0 -> logits [batch, topics]."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(texts.VOCABULARY, width)
        self.positions = nn.Embedding(texts.LENGTH, width)
        # PyTorch's own start is twenty times larger, and such words hardly move in one epoch.
        for embedding in (self.words, self.positions):
            nn.init.normal_(embedding.weight, std=0.05)
        self.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.05, activation="gelu", batch_first=True
        )
        # Nested tensors drop the padding, and with it every shape that an export could name.
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.topic = nn.Linear(width, texts.TOPICS)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode, average over the words that are no padding, classify."""
        padding = ids == texts.PADDING
        order = torch.arange(ids.shape[1], device=ids.device)
        tensor = self.norm(self.words(ids) + self.positions(order))
        # Added to the scores. A mask of booleans becomes one of minus infinity, whose softmax over
        # a text of nothing but padding is NaN.
        mask = padding.to(tensor.dtype) * -1e4
        tensor = self.layers(tensor, src_key_padding_mask=mask)
        real = (~padding).unsqueeze(-1).to(tensor.dtype)
        mean = (tensor * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        logits: Tensor = self.topic(mean)
        return logits


def train(lesson: Lesson) -> dict[str, float]:
    """Train the encoder; it writes ``model.pt2`` and its rows, and returns the facts."""
    torch.manual_seed(SEED)
    kept = HELD_OUT_ROWS + CALIBRATION_ROWS
    written, topics = texts.write(kept + _TRAINING_ROWS, SEED)
    ids, labels = torch.from_numpy(written), torch.from_numpy(topics)
    model = Encoder(2, 64, 2) if lesson.quick else Encoder(4, 256, 4)
    _fit(model, ids[kept:], labels[kept:], lesson)

    model.eval()
    with torch.inference_mode():
        held_ids = ids[:HELD_OUT_ROWS]
        answers = torch.cat([model(part).argmax(dim=1) for part in held_ids.split(64)])
    torch.export.save(export(model, ids[:2]), lesson.directory / "model.pt2")
    lesson.save_rows(
        {"ids": written[HELD_OUT_ROWS:kept]},
        {"ids": written[:HELD_OUT_ROWS]},
        topics[:HELD_OUT_ROWS],
    )
    right = answers == labels[:HELD_OUT_ROWS]
    return {
        "held_out_accuracy": right.double().mean().item(),
        "parameters": float(sum(weight.numel() for weight in model.parameters())),
    }


def _fit(model: Encoder, ids: Tensor, labels: Tensor, lesson: Lesson) -> None:
    epochs, rate = (2, 2e-3) if lesson.quick else (1, 7e-4)
    batches = epochs * -(-len(ids) // _BATCH_ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=batches, pct_start=0.15
    )
    model.train()
    done = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(ids)).split(_BATCH_ROWS):
            loss = nn.functional.cross_entropy(model(ids[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            # A Transformer's first steps can be far too long.
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            lesson.progress(done, batches)


def export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Export the net in eval mode, free in its batch and in its sequence up to ``LENGTH``."""
    # The fast path is one fused operator, which ONNX does not have.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        shapes = {"ids": {0: Dim("batch"), 1: Dim("sequence", max=texts.LENGTH)}}
        return torch.export.export(model.eval(), (example,), dynamic_shapes=shapes)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

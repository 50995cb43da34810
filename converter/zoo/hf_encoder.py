"""A small BERT of Hugging Face's transformers, trained from its configuration; no download.

It is written as `save_pretrained` writes it, so this is also how a fine-tuned model of your own
comes to farthing: a folder with ``config.json`` and ``model.safetensors``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from converter.zoo import texts
from converter.zoo.lesson import SEED, Lesson

HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200
_TRAINING_ROWS = 1280
_BATCH_ROWS = 16


def train(lesson: Lesson) -> dict[str, float]:
    """Train the classifier; it writes the folder ``model`` and its rows, and returns the facts."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(SEED)
    kept = HELD_OUT_ROWS + CALIBRATION_ROWS
    ids, topics = texts.write(kept + _TRAINING_ROWS, SEED)
    width = 64 if lesson.quick else 128
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=texts.VOCABULARY,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=4 * width,
            max_position_embeddings=texts.LENGTH,
            type_vocab_size=1,
            num_labels=texts.TOPICS,
            pad_token_id=texts.PADDING,
            initializer_range=0.05,
        )
    )
    _fit(model, ids[kept:], topics[kept:], lesson)
    model.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(ids[:HELD_OUT_ROWS]).split(64)
        answers = torch.cat([model(**_inputs(part)).logits.argmax(dim=1) for part in parts])
    model.save_pretrained(lesson.directory / "model")
    lesson.save_rows(
        _arrays(ids[HELD_OUT_ROWS:kept]), _arrays(ids[:HELD_OUT_ROWS]), topics[:HELD_OUT_ROWS]
    )
    return {
        "held_out_accuracy": float(np.mean(answers.numpy() == topics[:HELD_OUT_ROWS])),
        "parameters": float(model.num_parameters()),
    }


def _fit(model: Any, ids: Any, topics: Any, lesson: Lesson) -> None:
    epochs = 3 if lesson.quick else 4
    batches = epochs * -(-len(ids) // _BATCH_ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=batches, pct_start=0.15
    )
    model.train()
    done = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(ids)).split(_BATCH_ROWS):
            rows = torch.from_numpy(ids[chosen])
            loss = model(**_inputs(rows), labels=torch.from_numpy(topics[chosen])).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            lesson.progress(done, batches)


def _inputs(ids: Any) -> dict[str, Any]:
    """What a tokenizer gives: ids, and which of them are no padding."""
    return {"input_ids": ids, "attention_mask": (ids != texts.PADDING).long()}


def _arrays(ids: Any) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": (ids != texts.PADDING).astype(np.int64)}

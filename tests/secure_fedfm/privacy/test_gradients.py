"""Per-row gradients and clipped sums of the real training path against a loop over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from secure_fedfm.errors import PrivacyGateError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.batches import EncodedRows
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.training import prepare_rows, ready
from secure_fedfm.privacy.clipping import clip_and_sum, clipped_sum, row_norms
from secure_fedfm.privacy.gradients import one_by_one, per_row_gradients
from tests.secure_fedfm.privacy.conftest import SHAPES, Make, flat

ROWS = np.array([3, 40, 17, 22, 9, 0, 47, 31, 2])
# Relative error. In double precision the code must agree far below 1e-6; in float32, as trained,
# these badly conditioned random models round by some 2e-6 of their own, loop and batch alike.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "whole"])
@pytest.mark.parametrize("precision", TOLERANCE, ids=str)
def test_gradients_and_clipped_sum_equal_the_loop(
    shape: str, cached: bool, precision: torch.dtype, make: Make, tickets: Dataset
) -> None:
    tolerance = TOLERANCE[precision]
    model, task = make(shape)
    model.peft.to(precision)
    if model.head is not None:
        model.head.to(precision)
    rows = prepare_rows(model, tickets, task.labels, 64, cache_limit=1 << 30 if cached else 0)
    lengths = rows.encoded.lengths[ROWS]
    assert lengths.min() < lengths.max()  # so there is padding
    names = model.layout.names
    # The oracle: plain autograd on the whole model, one unpadded row at a time.
    expected = np.stack(
        [flat(one_by_one(model, rows.encoded.batch([row])), names) for row in ROWS.tolist()]
    )
    with ready(model, rows) as batches, per_row_gradients(model) as gradients:
        found = gradients(batches(ROWS))
        norms = np.linalg.norm(expected, axis=1)
        clip = float(np.median(norms)) * 0.999  # some rows above, some below
        total = clipped_sum(
            ROWS, rows.encoded.lengths, batches, gradients, model.layout, clip, physical_batch=4
        )
    for position in range(len(ROWS)):
        one = flat({n: t[position] for n, t in found.tensors.items()}, names)
        error = np.linalg.norm(one - expected[position])
        assert error <= tolerance * norms[position]
    clipped = expected * np.minimum(1, clip / norms)[:, None]
    # Relative to what was summed: clipped gradients may cancel in the sum itself.
    assert np.linalg.norm(total.total - clipped.sum(axis=0)) <= tolerance * clip * len(ROWS)
    assert (total.rows, total.dropped) == (len(ROWS), 0)
    assert total.clipped == int((norms > clip).sum())


@pytest.mark.parametrize("shape", ["bert, frozen A", "gpt2"])
def test_a_neighbour_changes_the_sum_by_at_most_the_clip(
    shape: str, make: Make, tickets: Dataset
) -> None:
    model, task = make(shape)
    rows = prepare_rows(model, tickets, task.labels, 64)
    clip = 1e-3  # far below every norm, so that each row reaches it

    with ready(model, rows) as batches, per_row_gradients(model) as gradients:
        for left_out in range(0, 48, 7):
            chosen = np.array([left_out, 5, 11, 30, 46])
            both = [
                clipped_sum(some, rows.encoded.lengths, batches, gradients, model.layout, clip, 64)
                for some in (chosen, chosen[1:])
            ]
            change = float(np.linalg.norm(both[0].total - both[1].total))
            assert change <= clip * (1 + 1e-5)
            assert change >= clip * 0.999


def test_the_size_of_the_physical_batch_does_not_matter(make: Make, tickets: Dataset) -> None:
    model, task = make("bert, frozen A")
    rows = prepare_rows(model, tickets, task.labels, 64)
    with ready(model, rows) as batches, per_row_gradients(model) as gradients:
        sums = [
            clipped_sum(ROWS, rows.encoded.lengths, batches, gradients, model.layout, 0.1, size)
            for size in (1, 4, 64)
        ]
    for other in sums[1:]:
        assert np.allclose(other.total, sums[0].total, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_dropped_and_counted(
    bad: float, make: Make, tickets: Dataset
) -> None:
    model, task = make("bert, head alone")
    encoded = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    with per_row_gradients(model) as gradients:
        good = gradients(encoded.batch(ROWS))
    spoilt = {name: tensor.clone() for name, tensor in good.tensors.items()}
    spoilt["head.weight"][2, 0, 0] = bad
    losses = good.losses.clone()
    losses[2] = bad
    found = clip_and_sum(type(good)(spoilt, losses), model.layout, 0.5)
    keep = torch.arange(len(ROWS)) != 2
    without = type(good)({n: t[keep] for n, t in good.tensors.items()}, good.losses[keep])
    expected = clip_and_sum(without, model.layout, 0.5)
    assert np.array_equal(found.total, expected.total)
    assert (found.dropped, found.rows, found.loss) == (1, len(ROWS), expected.loss)


def test_a_huge_gradient_is_clipped_not_dropped(make: Make, tickets: Dataset) -> None:
    model, task = make("bert, head alone")
    encoded = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    with per_row_gradients(model) as gradients:
        found = gradients(encoded.batch(ROWS[:1]))
    huge = {name: tensor * 1e30 for name, tensor in found.tensors.items()}  # squares overflow
    total = clip_and_sum(type(found)(huge, found.losses), model.layout, 0.5)
    assert total.dropped == 0
    assert np.linalg.norm(total.total) == pytest.approx(0.5, rel=1e-9)


def test_all_tensors_share_one_norm(make: Make, tickets: Dataset) -> None:
    """Clipping tensor by tensor would let a row change the sum by C sqrt(tensors)."""
    model, task = make("bert, frozen A")
    encoded = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    with per_row_gradients(model) as gradients:
        found = gradients(encoded.batch(ROWS))
    parts = torch.cat([t.flatten(1) for t in found.tensors.values()], dim=1).double()
    assert torch.allclose(row_norms(found), parts.norm(dim=1), rtol=1e-6)


def test_the_model_is_left_as_it_was(make: Make, tickets: Dataset) -> None:
    model, task = make("bert, frozen A")
    encoded = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    before = model.state()
    with per_row_gradients(model) as gradients:
        gradients(encoded.batch(ROWS))
    assert model.state() == before
    for module in model.peft.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module.training
    for parameter in model.trained().values():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")


def _layer(model_part: nn.Module, kind: str) -> Any:
    return next(m for n, m in model_part.named_modules() if n.endswith(kind))


def test_unsupported_settings_are_refused_by_name(make: Make, tickets: Dataset) -> None:
    def refused(match: str, model: AdaptedModel) -> None:
        with pytest.raises(PrivacyGateError, match=match), per_row_gradients(model):
            raise AssertionError("entered")

    model, _ = make("bert, frozen A")
    embedding = _layer(model.peft, "word_embeddings")
    embedding.weight.requires_grad_(True)
    refused("word_embeddings is a Embedding", model)

    model, _ = make("bert, frozen A")
    _layer(model.peft, "encoder").gradient_checkpointing = True
    refused("gradient checkpointing is on in .*encoder", model)

    model, _ = make("bert, frozen A")
    stray = _layer(model.peft, "layer.3.output.dense.base_layer")
    stray.bias.requires_grad_(True)
    refused("output.dense.base_layer.bias is trainable but outside the release", model)

    model, _ = make("bert, q and v")
    layers = [m for n, m in model.peft.named_modules() if n.endswith("lora_A.default")]
    layers[1].weight = layers[0].weight
    refused("one shared tensor", model)


def test_lora_variants_are_refused_by_name(make: Make) -> None:
    import peft

    model, _ = make("bert, head alone")
    for options, match in (
        ({"target_modules": ["query"], "use_dora": True}, "Dora|DoRA"),
        ({"target_modules": ["word_embeddings"]}, "LoRA on embeddings"),
    ):
        wrapped = peft.get_peft_model(
            model.base.module, peft.LoraConfig(task_type="FEATURE_EXTRACTION", **options)
        )
        model.peft = wrapped
        with pytest.raises(PrivacyGateError, match=match), per_row_gradients(model):
            pass
        model.peft = wrapped.unload()


def test_a_tensor_that_is_trained_but_unused_is_refused_by_name(
    make: Make, tickets: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = make("bert, frozen A")
    encoded = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    unused = _layer(model.peft, "layer.3.attention.self.query.lora_B.default")
    wrapper = _layer(model.peft, "layer.3.attention.self.query")
    monkeypatch.setattr(wrapper, "forward", wrapper.base_layer.forward)
    assert unused.weight.requires_grad
    with (
        per_row_gradients(model) as gradients,
        pytest.raises(PrivacyGateError, match=r"layer\.3\.attention\.self\.query\.lora_B.*none"),
    ):
        gradients(encoded.batch(ROWS))


def test_the_causal_loss_of_a_row_does_not_depend_on_its_neighbours(
    make: Make, tickets: Dataset
) -> None:
    """Averaged over the batch's tokens it would: that is the planted fault here."""
    model, task = make("gpt2")
    encoded = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    with torch.no_grad():
        together = encoded.batch(ROWS)
        scores = model.scorer.scores(together)
        losses = model.scorer.row_losses(together, scores)
        alone = []
        for row in ROWS.tolist():
            batch = encoded.batch([row])
            alone.append(model.scorer.row_losses(batch, model.scorer.scores(batch))[0])
        tokens = functional.cross_entropy(
            scores[:, :-1].transpose(1, 2), together.input_ids[:, 1:], reduction="none"
        )
        real = together.attention_mask[:, 1:]
        averaged = (tokens * real).sum(dim=1) / real.sum()
    assert torch.allclose(losses, torch.stack(alone), rtol=1e-5)
    assert not torch.allclose(averaged * len(ROWS), losses, rtol=1e-2)

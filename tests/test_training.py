"""The parts of fine-tuning: losses against numpy, augmentation, the order of samples, data with labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_case import tiny_model
from scipy.special import log_softmax, softmax
from tuning_case import inputs, network

from onnxprune.calibration.images import ImageOptions
from onnxprune.config import Config
from onnxprune.errors import BadInput
from onnxprune.model_io import load
from onnxprune.training.augment import Augment
from onnxprune.training.samples import Part, Samples, open_samples
from onnxprune.training.schedule import plan, split

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(4)
SCORES, OTHERS = (RNG.standard_normal((32, 5)).astype(np.float32) * scale for scale in (8, 5))


def loss_of(
    answers: dict[str, np.ndarray], outputs: dict[str, np.ndarray], labels: Any = None, **options: Any
) -> float:
    from onnxprune.training.losses import make_loss, terms

    loss = make_loss(Config(**options), terms(answers), [])
    as_tensors = ({name: torch.tensor(array) for name, array in held.items()} for held in (outputs, answers))
    return float(loss(*as_tensors, None if labels is None else torch.tensor(labels)))


def divergence(wanted: np.ndarray, found: np.ndarray, axis: int, t: float) -> float:
    q, p = log_softmax(wanted / t, axis), log_softmax(found / t, axis)
    return float((np.exp(q) * (q - p)).sum(axis).mean() * t**2)


def test_scores_of_classes_are_compared_by_their_divergence() -> None:
    for t in (1.0, 4.0):
        found = loss_of({"y": SCORES}, {"y": OTHERS}, temperature=t)
        assert found == pytest.approx(divergence(SCORES, OTHERS, 1, t), rel=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_probabilities_are_told_by_their_sum_on_either_axis(axis: int) -> None:
    raw = RNG.standard_normal((2, 4, 3, 6))[:, :, 0]
    wanted, found = (softmax(raw[i : i + 1].repeat(3, 0), axis).astype(np.float32) for i in range(2))
    expected = divergence(np.log(wanted), np.log(found), axis, 20.0)
    assert loss_of({"y": wanted}, {"y": found}) == pytest.approx(expected, rel=1e-4)


def test_other_numbers_are_compared_by_squares_over_the_variance_of_the_answers() -> None:
    wanted = RNG.standard_normal((64, 384)).astype(np.float32)  # as an embedding, sure of no class
    found = wanted + 0.1
    assert loss_of({"y": wanted}, {"y": found}) == pytest.approx(0.01 / wanted.var(), rel=1e-4)
    ids = np.arange(64)
    assert loss_of({"y": wanted, "id": ids}, {"y": found, "id": ids}) == pytest.approx(0.01 / wanted.var(), rel=1e-4)


def test_outputs_of_several_kinds_are_added() -> None:
    boxes = RNG.standard_normal((32, 7, 4)).astype(np.float32) * 100
    found = loss_of({"y": SCORES, "b": boxes}, {"y": OTHERS, "b": boxes + 3})
    assert found == pytest.approx(divergence(SCORES, OTHERS, 1, 20.0) + 9 / boxes.var(), rel=1e-4)


def test_squares_go_by_labels_where_there_are_any() -> None:
    wanted, found, y = (RNG.standard_normal(shape).astype(np.float32) for shape in ((8, 1), (8, 1), (8,)))
    assert loss_of({"y": wanted}, {"y": found}, loss="mse") == pytest.approx(((found - wanted) ** 2).mean(), rel=1e-5)
    expected = ((found[:, 0] - y) ** 2).mean()
    assert loss_of({"y": wanted}, {"y": found}, y, loss="mse") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("answers", "labels", "loss", "told"),
    [
        ({"y": np.arange(8)}, None, "distill", "no output of the model is a floating-point number"),
        ({"y": SCORES}, None, "ce", "ce needs whole numbers as labels"),
        ({"y": SCORES, "z": SCORES}, np.arange(32) % 5, "ce", "ce needs one output .*the outputs are y, z"),
        ({"y": SCORES, "z": SCORES}, np.ones(32, np.float32), "mse", "mse with labels needs one output"),
        ({"y": SCORES}, np.ones(32, np.float32), "mse", r"labels have shape \(32,\), outputs \(32, 5\)"),
        ({"y": SCORES}, None, "nowhere:loss", "--loss 'nowhere:loss' cannot be imported"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(answers: Any, labels: Any, loss: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        loss_of(answers, answers, labels, loss=loss)


def images(count: int = 40) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def samples(given: object, **options: Any) -> Samples:
    return open_samples(given, load(tiny_model()).model, Config(**options))


def test_a_crop_moves_each_image_by_at_most_an_eighth_and_a_flip_mirrors_half_of_them() -> None:
    held = samples(images())
    x, rows = held.arrays["x"], np.arange(40)
    moved = Augment(("crop",), held, ImageOptions(), 0)({"x": x}, rows, 0)["x"]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    for image, wide in zip(moved, padded, strict=True):
        assert any(np.array_equal(image, wide[:, a : a + 8, b : b + 8]) for a in range(3) for b in range(3))
    assert np.mean([not np.array_equal(a, b) for a, b in zip(moved, x, strict=True)]) > 0.5
    flipped = Augment(("flip",), held, ImageOptions(), 0)({"x": x}, rows, 0)["x"]
    turned = [np.array_equal(a, b[..., ::-1]) for a, b in zip(flipped, x, strict=True)]
    assert 10 < sum(turned) < 30
    assert all(t or np.array_equal(a, b) for t, a, b in zip(turned, flipped, x, strict=True))


def test_what_is_drawn_for_a_sample_turns_on_sample_and_epoch_alone() -> None:
    held = samples(images())
    change = Augment(("flip", "crop"), held, ImageOptions(), 0)
    rows = np.arange(40)
    whole = change(held.feeds(rows), rows, 3)["x"]
    assert np.array_equal(change(held.feeds(rows[7:9]), rows[7:9], 3)["x"], whole[7:9])
    assert not np.array_equal(change(held.feeds(rows), rows, 4)["x"], whole)


def test_what_is_no_image_is_not_augmented() -> None:
    held = open_samples(inputs(), load(network(1)).model, Config())
    with pytest.raises(BadInput, match="--augment changes images"):
        Augment(("flip",), held, ImageOptions(), 0)


def test_processes_share_the_samples_of_a_step() -> None:
    whole, halves = plan(np.arange(100), 16, 1, 2, 0, 0.1), plan(np.arange(100), 8, 2, 2, 0, 0.1)
    for epoch in range(2):
        parts = [list(halves.batches(epoch, rank)) for rank in range(2)]
        joined = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
        assert [one.tolist() for one in whole.batches(epoch, 0)] == [one.tolist() for one in joined]
    assert [one.tolist() for one in whole.batches(1, 0, 4)] == [one.tolist() for one in list(whole.batches(1, 0))[4:]]
    assert plan(np.arange(3), 16, 1, 2, 0, 0.1).batch == 3


def test_samples_to_judge_with_are_in_no_step() -> None:
    rows, judges = split(100, 0.1, None)
    assert (len(rows), len(judges)) == (90, 10)
    assert not set(rows) & set(judges)
    assert [len(part) for part in split(100, 0.1, 4)] == [92, 8]


def test_the_rate_rises_and_falls_to_nothing() -> None:
    steps = plan(np.arange(100), 10, 1, 2, 0, 0.25)
    rates = [steps.rate(step) for step in range(20)]
    assert max(rates) == rates[5] == 1.0
    assert rates[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert np.all(np.diff(rates[5:]) < 0)
    assert 0 < rates[-1] < 0.02


def labelled(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    x = images(count)
    return x, (x[:, 0, 0, 0] > 0).astype(np.int64)


def feeds() -> Any:
    x, y = labelled()
    return ({"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 40, 8))


def pairs() -> Any:
    x, y = labelled()
    return ((x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8))


@pytest.mark.parametrize("form", ["file", "mapping", "feeds", "pairs", "function"])
def test_labels_follow_their_samples(form: str, tmp_path: Path) -> None:
    x, y = labelled()
    np.savez(tmp_path / "t.npz", x=x, y=y)
    given = {"file": str(tmp_path / "t.npz"), "mapping": {"x": x, "y": y}, "feeds": feeds(), "pairs": pairs(),
             "function": f"{__name__}:pairs"}[form]  # fmt: skip
    held = samples(given)
    rows = np.array([31, 2, 17])
    found = held.feeds(rows)["x"]
    assert held.labels is not None
    assert held.labels[rows].tolist() == (found[:, 0, 0, 0] > 0).astype(np.int64).tolist()
    assert held.count == 40


def test_what_is_held_out_is_not_learned_from() -> None:
    x, y = labelled()
    apart = Part(samples(x[:10]), np.arange(10), 4)
    held = open_samples({"x": x, "y": y}, load(tiny_model()).model, Config(), apart)
    assert held.count == 30
    held_out = {image.tobytes() for image in x[:10]}
    assert not held_out & {image.tobytes() for image in held.arrays["x"]}
    assert held.labels is not None
    assert held.labels.tolist() == (held.arrays["x"][:, 0, 0, 0] > 0).astype(np.int64).tolist()
    with pytest.raises(BadInput, match="no input is left"):
        open_samples(x[:10], load(tiny_model()).model, Config(), apart)

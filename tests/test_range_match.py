from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import Weights, model_from_text

from onnxprune.calibration import range_match
from onnxprune.calibration.batchnorm_match import match
from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.norm_moments import moments, open_moments
from onnxprune.calibration.range_match import RANGES, few, liveliness, match_range, preactivations, ranged
from onnxprune.calibration.source import input_specs, open_source
from onnxprune.calibration.synthetic import SyntheticSource

SIGNATURE = "(float[N, 3, 24, 24] x) => (float[N, 8] y)"
LAYERS = {"a": 3, "b": 8, "c": 8, "d": 8, "e": 8, "f": 8}
BODY = "\n".join(
    f"{name} = Conv<pads = [1, 1, 1, 1]>({read}, {name}_w, {name}_b)\n {name}r = Relu({name})"
    for name, read in zip(LAYERS, ("x", "ar", "br", "cr", "dr", "er"), strict=True)
)
BODY += "\n g = GlobalAveragePool(fr)\n y = Flatten(g)"


def made(model: ir.Model, samples: int = 32) -> SyntheticSource:
    source = open_source(None, input_specs(model), samples=samples, batch_size=16, seed=0, image=ImageOptions())
    assert isinstance(source, SyntheticSource)
    return source


def blank(body: str, weights: Weights, signature: str = SIGNATURE) -> ir.Model:
    return ir.from_proto(model_from_text(signature, body, weights))


def folded(centre: float, spread: float, bias: float = 0.6) -> ir.Model:
    """What folding leaves of a network trained on such values: outputs of variance one and mean ±bias."""
    rng = np.random.default_rng(3)
    weights: Weights = {f"{name}_b": np.zeros(8, np.float32) for name in LAYERS}
    weights |= {f"{name}_w": rng.standard_normal((8, width, 3, 3), np.float32) for name, width in LAYERS.items()}
    for name in LAYERS:
        model = blank(BODY, weights)
        source = made(model, 64)
        source = replace(source, specs=(replace(source.specs[0], centre=centre, spread=spread),))
        ((mean, variance),) = moments(open_moments(model, [name]), source.batches()).each
        scale = variance**-0.5
        shift = bias * np.where(np.arange(8) % 2, 1, -1) - mean * scale
        weights[f"{name}_w"] = (np.asarray(weights[f"{name}_w"]) * scale[:, None, None, None]).astype(np.float32)
        weights[f"{name}_b"] = shift.astype(np.float32)
    return blank(BODY, weights)


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 1.0), (0.0, 64.0), (127.5, 64.0)])
def test_a_folded_network_shows_the_range_that_it_was_trained_in(centre: float, spread: float) -> None:
    model = folded(centre, spread)
    source = made(model)
    matched = match(model, source)
    assert isinstance(matched, SyntheticSource)
    assert (matched.specs[0].centre, matched.specs[0].spread) == (centre, spread)
    guess = f"; dead leaves, value range guessed: {RANGES[centre, spread]}"
    assert matched.description == source.description + ("" if (centre, spread) == (0, 1) else guess)
    assert (matched.samples, matched.batch_size, matched.seed, matched.leaves) == (32, 16, 0, source.leaves)


def test_a_network_without_biases_works_alike_in_all_ranges_and_keeps_the_default() -> None:
    rng = np.random.default_rng(3)
    weights: Weights = {
        f"{name}_w": rng.standard_normal((8, width, 3, 3), np.float32) / 5 for name, width in LAYERS.items()
    }
    model = blank(BODY, weights | {f"{name}_b": np.zeros(8, np.float32) for name in LAYERS})
    source = made(model)
    assert match_range(model, source) is source


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("(float[N, 6] x) => (float[N, 6] y)", "y = Relu(x)"),
        ("(float[N, 3, 24, 24] x) => (float[N, 3, 24, 24] y)", "y = Relu(x)"),
        ("(float[N, 3, 24, 24] x) => (float[N, 8, 22, 22] y)", "y = Conv(x, a_w)"),
        ("(uint8[N, 3, 24, 24] x) => (float[N, 8, 22, 22] y)", "f = Cast<to = 1>(x)\n a = Conv(f, a_w)\n y = Relu(a)"),
        ("(float[N, 3, 24, 24] x) => (float[N, 8, 22, 22] y)", "s = Div(x, byte)\n a = Conv(s, a_w)\n y = Relu(a)"),
    ],
    ids=["no image", "no convolution", "no activation", "bytes by dtype", "range told"],
)
def test_where_nothing_can_be_told_the_source_comes_back(signature: str, body: str) -> None:
    used = {name: value for name, value in {"a_w": (8, 3, 3, 3), "byte": np.float32(255)}.items() if name in body}
    model = blank(body, used, signature)
    source = made(model)
    assert match_range(model, source) is source


def test_what_activations_read_is_found_past_additions_and_not_behind_pools() -> None:
    body = """
      a = Conv(x, a_w)
      s = Add(three, a)
      c = Clip(s, zero, six)
      p = GlobalAveragePool(c)
      e = Conv(p, e_w)
      er = Relu(e)
      g = Sigmoid(er)
      m = Mul(c, g)
      r = Add(m, a)
      rr = Relu(r)
      t = Transpose<perm = [0, 2, 3, 1]>(rr)
      y = Relu(t)
    """
    weights = {"a_w": (8, 3, 3, 3), "e_w": (8, 8, 1, 1)}
    scalars = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    model = blank(body, weights | scalars, "(float[N, 3, 24, 24] x) => (float[N, 22, 22, 8] y)")
    assert preactivations(model) == ["a", "r"]
    assert preactivations(ir.from_proto(model_from_text(SIGNATURE, BODY, {}, opset=6))) == []


def test_liveliness_is_the_share_of_variation_over_the_ratio_of_scales() -> None:
    ones, zeros = np.ones(4), np.zeros(4)
    assert liveliness([(zeros, ones), (zeros, ones)]) == 1
    assert liveliness([(ones, ones)]) == pytest.approx(0.5)
    assert liveliness([(7 * ones, 49 * ones), (ones, 49 * ones)]) == pytest.approx((0.5 + 0.98) / 2)
    # Standard deviations 1 and e²: their logarithms deviate by 1 from the mean.
    assert liveliness([(zeros, ones), (zeros, np.exp(4) * ones)]) == pytest.approx(np.exp(-1))
    assert liveliness([(ones, zeros)]) == 0
    assert liveliness([(np.full(4, np.nan), ones)]) == 0


def test_only_inputs_whose_range_is_open_are_tried() -> None:
    body = "s = Div(z, byte)\n d = Add(x, s)\n y = Relu(d)"
    signature = "(float[N, 3, 8, 8] x, float[N, 3, 8, 8] z) => (float[N, 3, 8, 8] y)"
    specs = made(blank(body, {"byte": np.float32(255)}, signature)).specs
    tried = ranged(specs)
    assert list(tried) == list(RANGES)
    assert [(spec.centre, spec.spread) for spec in tried[0.45, 0.25]] == [(0.45, 0.25), (127.5, 64.0)]
    assert list(ranged(specs[1:]).values()) == [specs[1:]]


def test_few_images_are_made_and_a_fixed_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(session: object, batches: object) -> object:
        feeds = list(batches)  # type: ignore[call-overload]
        seen.append([len(feed["x"]) for feed in feeds])
        return moments(session, feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(range_match, "moments", counted)
    model = folded(0.0, 64.0)
    match_range(model, made(model))
    assert seen == [[4]] * len(RANGES)
    fixed = blank("y = Relu(x)", {}, "(float[4, 3, 24, 24] x) => (float[4, 3, 24, 24] y)")
    assert [len(feed["x"]) for feed in few(made(fixed), 6).batches()] == [4, 4]

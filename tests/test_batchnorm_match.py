from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_text import Weights, model_from_text
from onnx.reference import ReferenceEvaluator

from onnxprune.calibration import batchnorm_match
from onnxprune.calibration.batchnorm_match import Budget, divergence, match, plan_search
from onnxprune.calibration.images import ImageOptions
from onnxprune.calibration.leaves import Leaves
from onnxprune.calibration.norm_moments import Norm, moments, norms_behind, open_moments
from onnxprune.calibration.range_match import RANGES
from onnxprune.calibration.source import Source, input_specs, open_source
from onnxprune.calibration.synthetic import SyntheticSource

TRUE = Leaves(gain=0.5, correlation=0.5, smallest=0.12, shapes=40, contrast=0.1)
SIGNATURE = "(float[N, 3, 16, 16] x) => (float[N, 8, 6, 6] y)"
BODY = """
  a = Conv(x, c_w)
  an = BatchNormalization<epsilon = 0.001>(a, a_gamma, a_beta, a_mean, a_var)
  ar = Relu(an)
  b = Conv<strides = [2, 2]>(ar, d_w)
  y = BatchNormalization(b, b_gamma, b_beta, b_mean, b_var)
"""


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchnorm_match, "plan_search", lambda elements, samples: Budget(6, 8))


def weights(**statistics: np.ndarray) -> Weights:
    rng = np.random.default_rng(5)
    drawn: Weights = {
        "c_w": rng.standard_normal((6, 3, 3, 3), np.float32) / 5,
        "d_w": rng.standard_normal((8, 6, 3, 3), np.float32) / 7,
    }
    for name, width in (("a", 6), ("b", 8)):
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        drawn |= {f"{name}_gamma": ones, f"{name}_beta": zeros, f"{name}_mean": zeros, f"{name}_var": ones}
    return drawn | statistics


def network(body: str = BODY, signature: str = SIGNATURE, **statistics: np.ndarray) -> ir.Model:
    return ir.from_proto(model_from_text(signature, body, weights(**statistics)))


def made(model: ir.Model, samples: int = 64, seed: int = 0) -> SyntheticSource:
    specs = input_specs(model)
    source = open_source(None, specs, samples=samples, batch_size=16, seed=seed, image=ImageOptions())
    assert isinstance(source, SyntheticSource)
    return source


def trained(leaves: Leaves, centre: float = 0.0, spread: float = 1.0) -> ir.Model:
    """The network with the statistics it has on such pictures, each layer's taken behind the ones before."""
    statistics: dict[str, np.ndarray] = {}
    for at, name in enumerate(("a", "b")):
        model = network(**statistics)
        source = replace(made(model, 300, seed=9), leaves=leaves)
        source = replace(source, specs=(replace(source.specs[0], centre=centre, spread=spread),))
        mean, variance = read(model, source)[at]
        statistics |= {f"{name}_mean": mean.astype(np.float32), f"{name}_var": variance.astype(np.float32)}
    return network(**statistics)


def read(model: ir.Model, source: Source) -> list[tuple[np.ndarray, np.ndarray]]:
    norms = norms_behind(model, ["x"])
    return moments(open_moments(model, [norm.value for norm in norms]), source.batches()).each


def score(model: ir.Model, source: Source) -> float:
    return divergence(norms_behind(model, ["x"]), read(model, source))


def test_matching_finds_pictures_like_those_the_model_saw(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batchnorm_match, "plan_search", lambda elements, samples: Budget(24, 24))
    model = trained(TRUE)
    source = made(model)
    matched = match(model, source)
    assert isinstance(matched, SyntheticSource)
    assert score(model, matched) < 0.1 * score(model, source)
    assert matched.specs[0].centre == 0
    assert abs(np.log(matched.leaves.gain * matched.specs[0].spread / TRUE.gain)) < 0.25
    assert (matched.samples, matched.batch_size, matched.seed, matched.synthetic) == (64, 16, 0, True)
    assert matched.description == f"{source.description}; dead leaves, matched to 2 BatchNorm layers"


@pytest.mark.usefixtures("brief")
def test_matching_is_the_same_each_time():
    model = trained(TRUE)
    matched = match(model, made(model))
    assert match(model, made(model)) == matched
    assert match(model, made(model, seed=1)) != matched


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(("centre", "spread"), RANGES)
def test_matching_finds_the_range_of_the_values(centre: float, spread: float):
    model = trained(Leaves(), centre, spread)
    matched = match(model, made(model))
    assert isinstance(matched, SyntheticSource)
    assert (matched.specs[0].centre, matched.specs[0].spread) == (centre, spread)


@pytest.mark.usefixtures("brief")
def test_a_range_that_the_graph_tells_is_not_searched():
    body = BODY.replace("Conv(x,", "Conv(s,").replace("a = ", "s = Div(x, byte)\n  a = ", 1)
    model = network(body, byte=np.float32(255))
    source = made(model)
    assert source.specs[0].centre == 127.5
    matched = match(model, source)
    assert isinstance(matched, SyntheticSource)
    assert matched.specs == source.specs


def test_moments_are_those_of_the_activations_whatever_the_batches():
    model = network()
    source = made(model, 20)
    probed = onnx.helper.make_model(ir.to_proto(model).graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    probed.graph.output.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, None))
    x = np.concatenate([feed["x"] for feed in source.batches()])
    activations = ReferenceEvaluator(probed).run(["a", "b"], {"x": x})
    norms = norms_behind(model, ["x"])
    assert [norm.value for norm in norms] == ["a", "b"]
    assert norms[0].epsilon == pytest.approx(1e-3)
    session = open_moments(model, [norm.value for norm in norms])
    for batch_size in (3, 20):
        found = moments(session, replace(source, batch_size=batch_size).batches())
        assert found.elements == 6 * 14 * 14 + 8 * 6 * 6
        for (mean, variance), each in zip(found.each, activations, strict=True):
            np.testing.assert_allclose(mean, each.mean((0, 2, 3)), atol=1e-5)
            np.testing.assert_allclose(variance, each.var((0, 2, 3)), rtol=1e-4)


def test_a_norm_over_vectors_counts_too():
    body = "g = GlobalAveragePool(x)\n f = Flatten(g)\n y = BatchNormalization(f, v_gamma, v_beta, v_mean, v_var)"
    vectors = {f"v_{kind}": np.ones(3, np.float32) for kind in ("gamma", "beta", "mean", "var")}
    model = network(body, "(float[N, 3, 16, 16] x) => (float[N, 3] y)", **vectors)
    source = made(model)
    x = np.concatenate([feed["x"] for feed in source.batches()])
    ((mean, variance),) = read(model, source)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(variance, x.mean((2, 3)).var(0), rtol=1e-3)


@pytest.mark.parametrize("opset", [9, 15])
def test_half_precision_and_old_opsets_are_probed(opset: int):
    body = "n = BatchNormalization(x, v_gamma, v_beta, v_mean, v_var)\n y = Relu(n)"
    vectors = {f"v_{kind}": np.ones(3, np.float16) for kind in ("gamma", "beta", "mean", "var")}
    signature = "(float16[N, 3, 16, 16] x) => (float16[N, 3, 16, 16] y)"
    model = ir.from_proto(model_from_text(signature, body, vectors, opset))
    source = replace(made(model), specs=(replace(input_specs(model)[0], centre=0.0, spread=500.0),))
    x = np.concatenate([feed["x"] for feed in source.batches()]).astype(np.float64)
    ((mean, variance),) = read(model, source)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(variance, x.var((0, 2, 3)), rtol=1e-3)


def test_the_divergence_is_that_of_gaussians():
    norm = Norm("a", np.array([1.0, 0.0]), np.array([4.0, 1.0]), 0.0)
    assert divergence([norm], [(norm.mean, norm.variance)]) == 0
    shifted = divergence([norm], [(np.array([3.0, 0.0]), norm.variance)])
    assert shifted == pytest.approx(np.log(1 + 0.5) / 2)
    wide = divergence([norm], [(norm.mean, np.array([8.0, 1.0]))])
    assert wide == pytest.approx(np.log(1 + (1 - np.log(2)) / 2) / 2)
    assert divergence([norm], [(np.array([np.nan, 0.0]), norm.variance)]) == np.inf


def test_a_channel_that_was_dead_does_not_outweigh_the_rest():
    alive, dead = Norm("a", np.zeros(50), np.ones(50), 1e-5), Norm("a", np.zeros(50), np.ones(50), 1e-5)
    dead.variance[0] = 0
    assert divergence([dead], [(np.zeros(50), np.ones(50))]) < 0.25
    assert divergence([alive], [(np.zeros(50), np.full(50, 4.0))]) > 0.25


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, c_w)\n y = Relu(a)",
        "a = Conv(x, c_w)\n v = Identity(a)\n m = ReduceMean<axes = [0, 2, 3], keepdims = 0>(v)\n"
        "y = BatchNormalization(a, a_gamma, a_beta, m, a_var)",
        "a = Conv(x, c_w)\n y, m, v = BatchNormalization<training_mode = 1>(a, a_gamma, a_beta, a_mean, a_var)",
    ],
    ids=["none", "computed", "training"],
)
def test_models_without_constant_statistics_leave_the_source_alone(body: str):
    model = network(body, "(float[N, 3, 16, 16] x) => (float[N, 6, 14, 14] y)")
    source = made(model)
    assert match(model, source) is source


def test_norms_that_no_image_reaches_and_real_data_are_left_alone():
    body = "y = BatchNormalization(x, a_gamma, a_beta, a_mean, a_var)"
    model = network(body, "(float[N, 6] x) => (float[N, 6] y)")
    source = made(model)
    assert match(model, source) is source
    images = np.zeros((4, 3, 16, 16), np.float32)
    specs = input_specs(network())
    real = open_source(images, specs, samples=None, batch_size=2, seed=0, image=ImageOptions())
    assert match(network(), real) is real


def test_the_search_is_bounded_for_every_size_of_model():
    assert plan_search(200_000, 576) == Budget(40, 45)
    assert plan_search(1, 576) == Budget(40, 48)
    assert plan_search(10**9, 576) == Budget(10, 11)
    assert plan_search(10**9, 8) == Budget(6, 4)
    for samples in (64, 320, 576, 4096):
        budget = plan_search(10**8, samples)
        assert budget.draws * budget.images <= max(24, samples / 5)


def test_the_search_judges_no_more_pictures_than_planned(monkeypatch: pytest.MonkeyPatch):
    model, seen = network(), []

    def counted(session: object, batches: object) -> object:
        feeds = list(batches)  # type: ignore[call-overload]
        seen.append(sum(len(feed["x"]) for feed in feeds))
        return moments(session, feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(batchnorm_match, "moments", counted)
    monkeypatch.setattr(batchnorm_match, "plan_search", lambda elements, samples: Budget(6, 5))
    match(model, made(model))
    assert seen == [4] + [5] * (len(RANGES) + 6)


@pytest.mark.usefixtures("brief")
def test_a_fixed_batch_is_kept_in_the_search():
    model = network(signature="(float[16, 3, 16, 16] x) => (float[16, 8, 6, 6] y)")
    matched = match(model, made(model, 32))
    assert [feed["x"].shape[0] for feed in matched.batches()] == [16, 16]

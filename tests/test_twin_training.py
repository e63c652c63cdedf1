"""The torch twin in use: devices, precision, quantised layers, compiling, and without torch at all."""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from graph_text import batchnorm, model_from_text
from test_twin_operators import CASES, tensors, twin_of
from twin_case import Case

import onnxprune

torch = pytest.importorskip("torch")

UNKNOWN = ("NonZero", "NonMaxSuppression", "Unique", "Compress")
"""Operators whose results' sizes are not known before their inputs are."""


def movable(case: Case) -> bool:
    """Cases that read no computed number, but those that the operator takes as such."""
    text = str(case)
    read = ("RoiAlign", "CropAndResize", "DynamicQuantize", "GroupQuery", "NonMax", "If ", "Loop", "ArgM", *UNKNOWN)
    return not any(name in text for name in read)


def test_without_torch_the_package_works_and_the_twin_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import onnxprune, onnxprune.torch_twin, onnx\n"
        "text = '<ir_version: 8, opset_import: [\"\" : 17]> n (float[1] x) => (float[1] y) { y = Abs (x) }'\n"
        "model = onnx.parser.parse_model(text)\n"
        "try: onnxprune.to_torch(model)\n"
        "except onnxprune.BadInput as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'onnxprune[torch]'" in said


@pytest.mark.parametrize("case", [one for one in CASES if movable(one)], ids=str)
def test_everything_follows_to_the_device_but_numbers_that_are_read(case: Case) -> None:
    # "meta" is a device that computes nothing: it refuses to mix with the CPU as CUDA does, and it tells no numbers.
    twin, feeds = twin_of(case).to("meta"), tensors(case)
    real = {name: tensor.to("meta") if tensor.is_floating_point() else tensor for name, tensor in feeds.items()}
    if any(tensor.is_meta for tensor in real.values()):
        read = {name for name, tensor in tensors(case, double=True).items() if not tensor.requires_grad}
        real = {name: feeds[name] if name in read and feeds[name].ndim < 2 else tensor for name, tensor in real.items()}
        for name, found in twin(**real).items():
            assert found is None or found.shape == twin_of(case)(**feeds)[name].shape


NET = """
    c = Conv <pads = [1, 1, 1, 1]> (x, c_w)
    n = BatchNormalization (c, bn_gamma, bn_beta, bn_mean, bn_var)
    r = Relu (n)
    u = Resize <mode = "linear"> (r, , scales)
    p = GlobalAveragePool (u)
    f = Flatten (p)
    l = LayerNormalization (f, ln_gamma, ln_beta)
    g = Gelu (l)
    m = MatMul (g, fc_w)
    s = Shape <end = 1> (x)
    t = Concat <axis = 0> (s, minus)
    h = Reshape (m, t)
    i = Gather <axis = 1> (h, places)
    y = Add (i, fc_b)
"""
IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32))


def net() -> ir.Model:
    weights = {
        "c_w": (4, 3, 3, 3),
        **batchnorm("bn", 4),
        "ln_gamma": (4,),
        "ln_beta": (4,),
        "fc_w": (4, 5),
        "fc_b": (5,),
        "scales": np.float32([1, 1, 2, 2]),
        "minus": np.array([-1]),
        "places": np.array([0, 1, 2, 3, 4]),
    }
    return ir.from_proto(model_from_text("(float[N, 3, 6, 6] x) => (float[N, 5] y)", NET, weights, opset=20, ir=9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_nearly_the_same_and_has_gradients(dtype: torch.dtype) -> None:
    twin = onnxprune.to_torch(net())
    exact = twin(IMAGES)["y"]
    with torch.autocast("cpu", dtype=dtype):
        found = twin(IMAGES)["y"]
    assert torch.allclose(found.float(), exact, atol=0.05)
    found.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in twin.parameters() if p.requires_grad)
    assert all(p.grad.dtype == torch.float32 for p in twin.parameters() if p.requires_grad)


def test_state_can_be_saved_and_loaded_and_copied() -> None:
    import copy

    twin, other = onnxprune.to_torch(net()), onnxprune.to_torch(net())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(IMAGES)["y"], twin(IMAGES)["y"])
    assert torch.equal(copy.deepcopy(twin)(IMAGES)["y"], twin(IMAGES)["y"])


def test_a_hessian_vector_product_is_that_of_finite_differences() -> None:
    twin = onnxprune.to_torch(net()).double()
    images = IMAGES.double()
    learned = [p for p in twin.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in learned]

    def gradient() -> list[torch.Tensor]:
        return list(torch.autograd.grad(twin(images)["y"].square().sum(), learned, create_graph=True))

    product = torch.autograd.grad(sum((g * d).sum() for g, d in zip(gradient(), direction, strict=True)), learned)
    step, sides = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, d in zip(learned, direction, strict=True):
                parameter.add_(sign * step * d)
        sides.append([g.detach() for g in gradient()])
        with torch.no_grad():
            for parameter, d in zip(learned, direction, strict=True):
                parameter.sub_(sign * step * d)
    for exact, ahead, behind in zip(product, *sides, strict=True):
        torch.testing.assert_close(exact, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


QDQ = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Mul (d, w)"
DYNAMIC = """
    q, s, z = DynamicQuantizeLinear (x)
    p = MatMulInteger (q, b, z)
    f = Cast <to = 1> (p)
    t = Mul (s, w)
    y = Mul (f, t)
"""


def test_quanta_that_are_read_at_once_let_the_gradient_through_inside_their_range() -> None:
    model = model_from_text("(float[3] x) => (float[3] y)", QDQ, {"s": np.float32(0.1), "z": np.int8(0), "w": (3,)})
    twin = onnxprune.to_torch(model)
    x = torch.tensor([0.33, -5.0, 100.0], requires_grad=True)
    twin(x)["y"].sum().backward()
    weight = twin.get_parameter("w").detach()
    torch.testing.assert_close(x.grad, torch.tensor([weight[0].item(), weight[1].item(), 0.0]))


def test_a_layer_of_quanta_has_the_gradient_of_its_real_numbers() -> None:
    weights = {"b": np.int8([[3, -4], [5, 6]]), "w": np.float32([0.5])}
    twin = onnxprune.to_torch(model_from_text("(float[2, 2] x) => (float[2, 2] y)", DYNAMIC, weights))
    x = torch.tensor([[0.5, -0.5], [1.0, 0.25]], requires_grad=True)
    found = twin(x)["y"]
    found[0, 0].backward()
    assert torch.allclose(found, x @ torch.tensor([[3.0, -4], [5, 6]]) * 0.5, atol=0.1)
    # The scale has a share in the gradient too: that of the largest and smallest number, by how far rounding went.
    assert torch.allclose(x.grad[0], torch.tensor([1.5, 2.5]), atol=0.1)

"""Operators that resize, read an image at computed places, or transform a signal, each with what it is fed."""

import numpy as np
from twin_case import Case, case, integers, uniform

I = np.array  # noqa: E741
MS = "com.microsoft."
IMAGE = (1, 2, 5, 6)
BOXES = np.float32([[0.31, 0.72, 4.13, 3.64], [-1.21, 0.43, 2.27, 5.32], [1.11, 1.33, 3.17, 2.96]])
OWNERS = I([0, 1, 1])
PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
WHERE = 'coordinate_transformation_mode = "{}"'


def resized(
    attributes: str, opset: int = 19, x: object = IMAGE, to: tuple[int, ...] = (1, 2, 7, 4), **given: object
) -> Case:
    return case(f"y = Resize <{attributes}> (x, , , s)", opset, x=x, s=I(to), **given)


CASES: list[Case] = [
    *(
        resized(f'mode = "{mode}", {WHERE.format(place)}')
        for mode in ("nearest", "linear", "cubic")
        for place in PLACES
    ),
    *(
        resized(f'mode = "nearest", nearest_mode = "{how}"')
        for how in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    resized('mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1'),
    *(resized(f'mode = "{mode}", antialias = 1', to=(1, 2, 3, 2)) for mode in ("linear", "cubic")),
    resized('mode = "linear", antialias = 1', to=(1, 2, 9, 3)),
    resized('mode = "linear", axes = [3, 2]', to=(3, 9)),
    resized('mode = "linear"', x=(1, 2, 3, 4, 3), to=(1, 2, 5, 2, 6)),
    resized('mode = "nearest", axes = [2, 3], keep_aspect_ratio_policy = "not_larger"', to=(7, 7)),
    resized('mode = "nearest", axes = [2, 3], keep_aspect_ratio_policy = "not_smaller"', to=(7, 7)),
    *(
        case(
            f'y = Resize <mode = "{mode}", {WHERE.format(place)}, nearest_mode = "floor"> (x, , c)',
            opset=13,
            x=IMAGE,
            c=np.float32([1, 1, 2, 2]),
        )
        for mode in ("nearest", "linear", "cubic")
        for place in ("half_pixel", "asymmetric", "align_corners")
    ),
    case('y = Resize <mode = "linear"> (x, , c)', opset=13, x=IMAGE, c=np.float32([1, 1, 0.7, 1.6])),
    case('y = Resize <mode = "nearest"> (x, c)', opset=10, x=IMAGE, c=np.float32([1, 1, 2, 3])),
    case('y = Resize <mode = "linear"> (x, c)', opset=10, x=IMAGE, c=np.float32([1, 1, 2, 3])),
    *(
        case(
            f'y = Resize <mode = "{mode}", {WHERE.format("tf_crop_and_resize")}, extrapolation_value = 3.0> '
            "(x, r, , s)",
            opset=13,
            x=IMAGE,
            r=np.float32([0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2]),
            s=I([1, 2, 4, 5]),
            smooth=False,
        )
        for mode in ("nearest", "linear")
    ),
    case('y = Upsample <mode = "nearest"> (x, c)', opset=9, x=IMAGE, c=np.float32([1, 1, 2, 3])),
    case('y = Upsample <mode = "linear"> (x, c)', opset=9, x=IMAGE, c=np.float32([1, 1, 2, 3])),
    case('y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (x)', opset=7, x=IMAGE),
    *(
        case(
            f'y = GridSample <mode = "{mode}", padding_mode = "{pad}", align_corners = {align}> (x, g)',
            opset=16,
            x=IMAGE,
            g=uniform(-1.3, 1.3, 1, 3, 2, 2),
        )
        for mode in ("bilinear", "nearest", "bicubic")
        for pad, align in (("zeros", 0), ("border", 1), ("reflection", 0))
    ),
    case("y = GridSample (x, g)", opset=20, x=(1, 2, 3, 4, 3), g=uniform(-1.3, 1.3, 1, 2, 2, 2, 3)),
    case('y = GridSample <mode = "cubic"> (x, g)', opset=20, x=IMAGE, g=uniform(-1.3, 1.3, 1, 3, 2, 2)),
    case(f"y = {MS}GridSample (x, g)", x=IMAGE, g=uniform(-1.3, 1.3, 1, 3, 2, 2)),
    *(
        case(f"y = AffineGrid <align_corners = {align}> (t, n)", opset=20, t=(2, 2, 3), n=I([2, 1, 3, 4]))
        for align in (0, 1)
    ),
    case("y = AffineGrid (t, n)", opset=20, t=(1, 3, 4), n=I([1, 1, 2, 3, 4])),
    *(
        case(
            f"y = RoiAlign <output_height = 2, output_width = 3, {more}> (x, r, o)",
            opset=opset,
            x=(2, 2, 6, 5),
            r=BOXES,
            o=OWNERS,
        )
        for opset, more in (
            (16, "sampling_ratio = 2"),
            (16, 'sampling_ratio = 2, mode = "max"'),
            (16, "spatial_scale = 0.8"),
            (16, 'coordinate_transformation_mode = "output_half_pixel"'),
            (10, "sampling_ratio = 2"),
        )
    ),
    *(
        case(
            f'y = {MS}CropAndResize <mode = "{mode}", extrapolation_value = 0.5> (x, r, o, n)',
            x=(2, 2, 6, 5),
            r=np.float32([[0.11, 0.23, 0.84, 0.92], [-0.13, 0.32, 1.21, 0.73]]),
            o=np.int32([1, 0]),
            n=np.int32([3, 2]),
            smooth=mode != "nearest",
        )
        for mode in ("bilinear", "nearest")
    ),
    case("y = DeformConv <pads = [1, 0, 1, 0]> (x, w, f)", opset=19, x=(2, 2, 5, 4), w=(3, 2, 3, 2), f=(2, 12, 5, 3)),
    case(
        "y = DeformConv <offset_group = 2, group = 2, strides = [2, 1]> (x, w, f, b, m)",
        opset=19,
        x=(1, 4, 5, 4),
        w=(6, 2, 2, 2),
        f=(1, 16, 2, 3),
        b=(6,),
        m=(1, 8, 2, 3),
    ),
    case("y = Col2Im (x, i, b)", opset=18, x=(2, 8, 12), i=I([4, 5]), b=I([2, 2])),
    case(
        "y = Col2Im <pads = [1, 0, 1, 0], strides = [2, 1], dilations = [1, 2]> (x, i, b)",
        opset=18,
        x=(1, 8, 9),
        i=I([4, 5]),
        b=I([2, 2]),
    ),
    case("y = Col2Im (x, i, b)", opset=18, x=(1, 8, 4), i=I([2, 3, 3]), b=I([2, 2, 2])),
    case("y = DFT (x)", opset=17, x=(2, 5, 1)),
    case("y = DFT <onesided = 1> (x, n)", opset=17, x=(2, 5, 1), n=I(8)),
    case("y = DFT <inverse = 1> (x)", opset=17, x=(2, 5, 2)),
    case("y = DFT (x, n, a)", opset=20, x=(3, 4, 2), n=I(3), a=I(0)),
    case("y = DFT <onesided = 1> (x)", opset=20, x=(2, 4, 1)),
    case("y = DFT <onesided = 1, inverse = 1> (x)", opset=20, x=(2, 3, 2), reference=True),
    case("y = STFT (x, s, w)", opset=17, x=(2, 12, 1), s=I(3), w=(5,)),
    case("y = STFT <onesided = 0> (x, s, , n)", opset=17, x=(1, 12, 1), s=I(2), n=I(4)),
    *(
        case(
            f"y = NonMaxSuppression <center_point_box = {middle}> (b, s, m, o, l)",
            b=uniform(0.1, 1, 2, 30, 4),
            s=uniform(0, 1, 2, 3, 30),
            m=I(5),
            o=np.float32(0.4),
            l=np.float32(0.3),
            smooth=False,
        )
        for middle in (0, 1)
    ),
    case(
        "y = NonMaxSuppression (b, s, m)",
        b=uniform(0, 1, 1, 9, 4),
        s=np.ones((1, 1, 9), np.float32),
        m=I(9),
        smooth=False,
    ),
    case("y = NonMaxSuppression (b, s)", b=uniform(0, 1, 1, 9, 4), s=uniform(0, 1, 1, 1, 9), smooth=False),
    case("y = Det (x)", x=(2, 3, 3)),
    case(f"y = {MS}Inverse (x)", x=(2, 3, 3)),
    *(
        case(
            f'y = NegativeLogLikelihoodLoss <reduction = "{how}"> (x, t, w)',
            x=(3, 4),
            t=I([1, 0, 3]),
            w=uniform(0.5, 1, 4),
            still="w",
        )
        for how in ("mean", "sum", "none")
    ),
    case("y = NegativeLogLikelihoodLoss <ignore_index = 2> (x, t)", x=(2, 4, 3), t=integers(0, 4, 2, 3)),
    case("y = SoftmaxCrossEntropyLoss (x, t)", x=(3, 4), t=I([1, 0, 3])),
    case(
        'y, l = SoftmaxCrossEntropyLoss <reduction = "sum", ignore_index = 0> (x, t, w)',
        x=(2, 4, 3),
        t=integers(0, 4, 2, 3),
        w=uniform(0.5, 1, 4),
        still="w",
    ),
]

"""Operators that rename, cut, join and repeat axes, and that make numbers."""

import numpy as np
from twin_case import Case, case, integers

I = np.array  # noqa: E741
MS = "com.microsoft."

CASES: list[Case] = [
    case("y = Reshape (x, s)", x=(2, 6), s=I([0, -1, 2])),
    case("y = Reshape <allowzero = 1> (x, s)", x=(0, 6), s=I([3, 0]), smooth=False),
    case("y = Reshape (x, s)", x=(0, 6), s=I([-1, 3]), smooth=False),
    case("y = Flatten (x)", x=(0, 3, 4), smooth=False),
    case("y = Flatten (x)", x=(2, 3, 4)),
    case("y = Flatten <axis = 0> (x)", x=(2, 3)),
    case("y = Flatten <axis = -1> (x)", x=(2, 3, 4)),
    case("y = Transpose (x)", x=(2, 3, 4)),
    case("y = Transpose <perm = [1, 0, 2]> (x)", x=(2, 3, 4)),
    case("y = Squeeze (x)", x=(2, 1, 3, 1)),
    case("y = Squeeze (x, a)", x=(2, 1, 3, 1), a=I([-1])),
    case("y = Squeeze <axes = [1]> (x)", opset=11, x=(2, 1, 3, 1)),
    case("y = Unsqueeze (x, a)", x=(2, 3), a=I([-1, 0])),
    case("y = Unsqueeze (x, a)", x=(2, 3), a=I([2, 1])),
    case("y = Unsqueeze <axes = [0, 2]> (x)", opset=11, x=(2, 3)),
    case(f"y = {MS}ExpandDims (x, a)", x=(2, 3), a=np.int32(-1)),
    case("y = Concat <axis = 1> (a, b)", a=(2, 3), b=(2, 1)),
    case("y = Concat <axis = -2> (a, b, c)", a=(2, 3), b=(1, 3), c=(4, 3)),
    case("y, z = Split <axis = 1> (x, s)", x=(2, 5), s=I([2, 3])),
    case("y, z = Split <axis = -1> (x)", x=(2, 6)),
    case("y, z = Split <axis = 1, num_outputs = 2> (x)", opset=18, x=(2, 5)),
    case("y, z = Split <axis = 1, split = [1, 4]> (x)", opset=11, x=(2, 5)),
    case("y = Slice (x, s, e)", x=(4, 5), s=I([1, -3]), e=I([9, -1])),
    case("y = Slice (x, s, e, a, d)", x=(4, 5), s=I([-1, 0]), e=I([-9, 5]), a=I([1, 0]), d=I([-2, 3])),
    case("y = Slice (x, s, e, a)", x=(4, 5), s=I([3]), e=I([2]), a=I([1]), smooth=False),
    case("y = Slice <starts = [1], ends = [3], axes = [1]> (x)", opset=9, x=(2, 5)),
    case("y = Expand (x, s)", x=(3, 1), s=I([2, 1, 4])),
    case("y = Expand (x, s)", x=(3, 4), s=I([3, 1])),
    case("y = Tile (x, r)", x=(2, 3), r=I([2, 1])),
    case("y = Pad (x, p)", x=(2, 3), p=I([0, 1, 1, 2])),
    case("y = Pad (x, p, v)", x=(2, 3), p=I([0, -1, 1, 2]), v=np.float32(2.5), still="v"),
    case("y = Pad (x, p, v, a)", opset=18, x=(2, 3), p=I([1, 2]), v=np.float32(1), a=I([-1]), still="v"),
    case('y = Pad <mode = "edge"> (x, p)', x=(2, 3), p=I([0, 2, 0, 1])),
    case('y = Pad <mode = "reflect"> (x, p)', x=(2, 3), p=I([1, 2, 0, 1])),
    case('y = Pad <mode = "wrap"> (x, p)', opset=19, x=(2, 3), p=I([0, 2, 0, 4])),
    case("y = Pad <pads = [0, 1, 0, 1], value = 3.0> (x)", opset=10, x=(2, 3)),
    case("y = Pad (x, p)", x=integers(0, 9, 2, 3), p=I([0, 1, 1, 2]), smooth=False),
    case("y = CenterCropPad <axes = [1]> (x, s)", opset=18, x=(2, 5), s=I([2])),
    case("y = CenterCropPad (x, s)", opset=18, x=(4, 3), s=I([3, 6])),
    case("y = DepthToSpace <blocksize = 2> (x)", x=(1, 8, 2, 3)),
    case('y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', x=(1, 8, 2, 3)),
    case("y = SpaceToDepth <blocksize = 2> (x)", x=(1, 2, 4, 6)),
    case("y = Shape (x)", x=(2, 3, 4), smooth=False),
    case("y = Shape <start = 1, end = -1> (x)", x=(2, 3, 4), smooth=False),
    case("y = Size (x)", x=(2, 3), smooth=False),
    case("y = ConstantOfShape (s)", s=I([2, 3]), smooth=False),
    case("y = ConstantOfShape <value = int64[1] {7}> (s)", s=I([2]), smooth=False),
    case("y = Range (a, b, c)", a=I(2), b=I(9), c=I(3), smooth=False),
    case("y = Range (a, b, c)", a=np.float32(3), b=np.float32(0), c=np.float32(-0.7), smooth=False),
    case(f"y = {MS}Range (a, b, c)", a=I(2), b=I(9), c=I(3), smooth=False),
    case("y = EyeLike (x)", x=(2, 3), smooth=False),
    case("y = EyeLike <k = 1, dtype = 7> (x)", x=(3, 4), smooth=False),
    *(
        case(f"y = {name}Window <periodic = {periodic}, output_datatype = 1> (n)", n=I(7), smooth=False)
        for name in ("Hann", "Hamming", "Blackman")
        for periodic in (0, 1)
    ),
    case("y = HannWindow (n)", n=np.int32(6), smooth=False),
]

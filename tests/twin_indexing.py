"""Operators that pick or write positions by index."""

import numpy as np
from twin_case import Case, case, integers

I = np.array  # noqa: E741
MS = "com.microsoft."
PLACES = I([[0, -1, 1], [2, 1, 0]])
PAIRS = I([[0, 1], [1, -1]])
REDUCED = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"

CASES: list[Case] = [
    case("y = Gather (x, i)", x=(4, 3), i=I([[0, -1], [2, 2]])),
    case("y = Gather <axis = 1> (x, i)", x=(2, 4, 3), i=I([3, 0])),
    case("y = Gather <axis = -1> (x, i)", x=(2, 4), i=I(1)),
    case("y = GatherElements <axis = 1> (x, i)", x=(2, 3), i=PLACES),
    case("y = GatherElements (x, i)", x=(3, 4), i=PLACES),
    case("y = GatherND (x, i)", x=(2, 3, 4), i=PAIRS),
    case("y = GatherND <batch_dims = 1> (x, i)", x=(2, 3, 4), i=I([[[1], [0]], [[2], [-1]]])),
    case(f"y = {MS}GatherND (x, i)", x=(2, 3, 4), i=PAIRS),
    case("y = ScatterElements <axis = 1> (x, i, u)", opset=18, x=(2, 4), i=PLACES, u=(2, 3)),
    *(
        case(f'y = ScatterElements <reduction = "{how}"> (x, i, u)', opset=18, x=(3, 3), i=PLACES * 0 + 1, u=(2, 3))
        for how in ("add", "mul", "max", "min")
    ),
    case("y = Scatter <axis = 0> (x, i, u)", opset=10, x=(3, 3), i=I([[0, 2, 1]]), u=(1, 3)),
    case("y = ScatterND (x, i, u)", x=(2, 3, 4), i=PAIRS, u=(2, 4)),
    *(
        case(f'y = ScatterND <reduction = "{how}"> (x, i, u)', opset=18, x=(4, 2), i=I([[1], [1], [-1]]), u=(3, 2))
        for how in ("add", "mul", "max", "min")
    ),
    case("y = TensorScatter <axis = 1> (x, u, w)", opset=24, x=(2, 5, 3), u=(2, 2, 3), w=I([0, 3]), reference=True),
    case("y = TensorScatter (x, u)", opset=24, x=(2, 2, 5, 3), u=(2, 2, 2, 3), reference=True),
    case(
        'y = TensorScatter <axis = 1, mode = "circular"> (x, u, w)',
        opset=24,
        x=(2, 5, 3),
        u=(2, 2, 3),
        w=I([1, 4]),
        reference=True,
    ),
    case("v, i = TopK (x, k)", x=(3, 5), k=I([2])),
    case("v, i = TopK <axis = 0, largest = 0> (x, k)", x=(5, 3), k=I([3])),
    *(case(f"v, i = TopK <largest = {way}> (x, k)", x=integers(0, 3, 2, 9), k=I([6]), smooth=False) for way in (0, 1)),
    case("v, i = TopK <k = 2> (x)", opset=9, x=(3, 5)),
    case("y = OneHot (i, d, v)", i=I([[0, -1]]), d=I(3), v=(2,)),
    case("y = OneHot <axis = 0> (i, d, v)", i=I([0, 2]), d=I(3), v=np.float32([0, 1])),
    case("y = OneHot (i, d, v)", i=I([5, 1]), d=I([3]), v=I([4, 9]), smooth=False),
    case("y = NonZero (x)", x=integers(0, 2, 3, 4), smooth=False),
    case("y = Compress <axis = 1> (x, c)", x=(2, 3), c=I([True, False, True])),
    case("y = Compress (x, c)", x=(2, 3), c=I([False, True, True])),
    case("y = Trilu (x)", x=(2, 3, 4)),
    case("y = Trilu <upper = 0> (x, k)", x=(3, 4), k=I(1)),
    case(f"y = {MS}Trilu (x, k)", x=(3, 4), k=I(-1)),
    case("y = CumSum (x, a)", x=(2, 4), a=I(1)),
    case("y = CumSum <exclusive = 1, reverse = 1> (x, a)", x=(2, 4), a=I(-1)),
    case("y = CumProd (x, a)", opset=26, x=(2, 4), a=I(1), reference=True),
    case("y = CumProd <exclusive = 1, reverse = 1> (x, a)", opset=26, x=(2, 4), a=I(-1), reference=True),
    case("y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, n)", x=(2, 4, 3), n=I([3, 4])),
    case("y = ReverseSequence (x, n)", x=(4, 2), n=I([1, 3])),
    *(case(f"y = {name} <axis = 1> (x)", x=(2, 4), smooth=False) for name in ("ArgMax", "ArgMin")),
    *(
        case(f"y = {name} <keepdims = 0, select_last_index = 1> (x)", x=integers(0, 3, 5, 2), smooth=False)
        for name in ("ArgMax", "ArgMin")
    ),
    *(
        case(f"y = {name} <axes = [1], keepdims = {keep}> (x)", opset=12, x=(2, 3, 4))
        for name in REDUCED.split()
        for keep in (0, 1)
    ),
    case("y = ReduceLogSum (x, a)", opset=18, x=np.float32([[1, 2], [3, 4.5]]), a=I([-1])),
    case("y = ReduceMean (x, a)", opset=18, x=(2, 3, 4), a=I([0, -1])),
    case("y = ReduceMean (x)", opset=18, x=(2, 3)),
    case("y = ReduceSum <noop_with_empty_axes = 1> (x)", x=(2, 3)),
    case("y = ReduceSum <keepdims = 0> (x)", x=(2, 3)),
    case("y = ReduceProd (x)", x=integers(1, 4, 2, 3), smooth=False),
    case("y = ReduceMax (x, a)", opset=20, x=I([[True, False], [False, False]]), a=I([1]), smooth=False),
]

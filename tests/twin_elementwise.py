"""Operators that work position by position, each with what it is fed."""

import numpy as np
from twin_case import Case, case, integers, uniform

AWAY = uniform(0.2, 0.9, 3, 4)
"""Where every function of one number has a value and a derivative."""
SIDES = np.array([-2.6, -1.4, -0.3, 0.2, 0.8, 1.7, 3.3], np.float32)
"""On both sides of every kink."""
BOTH = np.array([[True], [False]])
SMOOTH = (
    "Abs Acos Asin Asinh Atan Atanh Cos Cosh Erf Exp Log Neg Reciprocal Relu Sigmoid Sin Sinh Softsign Sqrt Tan Tanh"
)
STEPS = "Ceil Floor Round Sign"
COMPARED = "Equal Greater GreaterOrEqual Less LessOrEqual"
MS = "com.microsoft."

CASES: list[Case] = [
    *(case(f"y = {name} (x)", x=AWAY) for name in SMOOTH.split()),
    case("y = Acosh (x)", x=AWAY + 1),
    *(
        case(f"y = {name} (x)", x=np.append(SIDES, np.float32([0.5, 1.5, -0.5])), smooth=False)
        for name in STEPS.split()
    ),
    case("y = Abs (x)", x=integers(-9, 9, 4), smooth=False),
    case("y = Abs (x)", x=SIDES),
    case("y = Relu (x)", x=SIDES),
    case("y = Erf (x)", x=SIDES),
    *(
        case(f"y = {name} (x)", x=SIDES)
        for name in ("Selu", "Celu", "Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu")
    ),
    case("y = Selu <alpha = 1.2, gamma = 0.7> (x)", x=SIDES),
    case("y = Celu <alpha = 2.0> (x)", x=SIDES),
    case("y = Elu <alpha = 0.5> (x)", x=SIDES),
    case("y = LeakyRelu <alpha = 0.3> (x)", x=SIDES),
    case("y = HardSigmoid <alpha = 0.3, beta = 0.4> (x)", x=SIDES),
    case("y = ThresholdedRelu <alpha = 0.5> (x)", x=SIDES),
    case("y = Shrink <lambd = 0.7, bias = 0.2> (x)", x=SIDES),
    case("y = Shrink (x)", x=SIDES),
    case("y = HardSwish (x)", x=SIDES * 2),
    case("y = Mish (x)", opset=18, x=SIDES),
    case("y = Softplus (x)", x=SIDES * 9),
    case("y = Swish <alpha = 0.8> (x)", opset=24, x=SIDES),
    case("y = Swish (x)", opset=24, x=SIDES),
    case("y = SwiGLU <alpha = 0.8> (a, b)", opset=28, a=(2, 3), b=(2, 3), reference=True),
    case("y = Gelu (x)", opset=20, x=SIDES),
    case('y = Gelu <approximate = "tanh"> (x)', opset=20, x=SIDES),
    case(f"y = {MS}Gelu (x)", x=SIDES),
    case(f"y = {MS}BiasGelu (x, b)", x=(2, 3), b=(3,)),
    case(f"y = {MS}FastGelu (x, b)", x=(2, 3), b=(3,)),
    case(f"y = {MS}FastGelu (x)", x=SIDES),
    case(f"y = {MS}QuickGelu <alpha = 1.1> (x)", x=SIDES),
    case(f"y = {MS}QuickGelu (x)", x=SIDES),
    *(
        case(f"y = {name} (a, b)", a=(2, 3), b=(3,))
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")
    ),
    *(case(f"y = {name} (a, b, c)", a=(2, 3), b=(3,), c=(2, 1)) for name in ("Max", "Min", "Sum", "Mean")),
    *(case(f"y = {name} (a)", a=(2, 3)) for name in ("Max", "Min", "Sum", "Mean")),
    case("y = Div (a, b)", a=integers(-9, 9, 6), b=np.array([1, 2, -2, 3, -4, 5]), smooth=False),
    case("y = Div (a, b)", a=np.int32([7, -7]), b=np.int32([2]), smooth=False),
    case("y = Mod (a, b)", a=integers(-9, 9, 6), b=np.array([1, 2, -2, 3, -4, 5]), smooth=False),
    case("y = Mod <fmod = 1> (a, b)", a=integers(-9, 9, 6), b=np.array([1, 2, -2, 3, -4, 5]), smooth=False),
    case("y = Mod <fmod = 1> (a, b)", a=SIDES, b=np.float32([1.07])),
    case("y = Pow (a, b)", a=AWAY, b=(4,)),
    case("y = Pow (a, b)", a=SIDES, b=np.array(2.0, np.float32), smooth=False),
    case("y = Pow (a, b)", a=SIDES, b=np.array(3)),
    case("y = Pow (a, b)", a=integers(1, 5, 4), b=np.array(2.0, np.float32), smooth=False),
    case("y = PRelu (x, s)", x=(2, 3, 4), s=(3, 1)),
    case("y = Clip (x, low, high)", x=SIDES, low=np.float32(-1), high=np.float32(1)),
    case("y = Clip (x, , high)", x=SIDES, high=np.float32(1)),
    case("y = Clip (x, low)", x=SIDES, low=np.float32(-1)),
    case("y = Clip <min = -1.0, max = 1.0> (x)", opset=10, x=SIDES),
    case("y = Clip (x)", opset=10, x=SIDES),
    case("y = Clip <max = 1.0> (x)", opset=6, x=SIDES),
    case("y = Where (c, a, b)", c=BOTH, a=(2, 3), b=(3,)),
    case("y = Identity (x)", x=(2, 3)),
    case("y = Dropout (x)", x=(2, 3)),
    case("y, m = Dropout (x)", x=(2, 3)),
    case("y = Cast <to = 11> (x)", x=(2, 3)),
    case("y = Cast <to = 7> (x)", x=SIDES, smooth=False),
    case("y = Cast <to = 9> (x)", x=np.float32([0, -1, 2]), smooth=False),
    case("y = Cast <to = 1> (x)", x=integers(0, 200, 4, kind="uint8"), smooth=False),
    case("y = CastLike (x, z)", x=SIDES, z=np.int32(1), smooth=False),
    case("y = CastLike (x, z)", x=SIDES, z=np.float64(1)),
    *(case(f"y = {name} (a, b)", a=integers(0, 3, 5), b=integers(0, 4, 5), smooth=False) for name in COMPARED.split()),
    case("y = Equal (a, b)", a=BOTH, b=BOTH.T, smooth=False),
    *(case(f"y = {name} (a, b)", a=BOTH, b=BOTH.T, smooth=False) for name in ("And", "Or", "Xor")),
    case("y = Not (a)", a=BOTH, smooth=False),
    *(
        case(f"y = Bitwise{name} (a, b)", opset=18, a=integers(0, 99, 4), b=integers(0, 77, 4), smooth=False)
        for name in ("And", "Or", "Xor")
    ),
    case("y = BitwiseNot (a)", opset=18, a=integers(-9, 9, 4, kind="int32"), smooth=False),
    case('y = BitShift <direction = "LEFT"> (a, b)', a=np.uint8([200, 3]), b=np.uint8([1, 4]), smooth=False),
    case('y = BitShift <direction = "RIGHT"> (a, b)', a=np.uint8([200, 3]), b=np.uint8([1, 1]), smooth=False),
    case("y = BitCast <to = 6> (x)", opset=26, x=SIDES, smooth=False, reference=True),
    case("y = IsNaN (x)", x=np.float32([np.nan, 1, np.inf]), smooth=False),
    case("y = IsInf (x)", x=np.float32([np.nan, 1, np.inf, -np.inf]), smooth=False),
    case("y = IsInf <detect_negative = 0> (x)", x=np.float32([1, np.inf, -np.inf]), smooth=False),
    case("y = IsInf <detect_positive = 0> (x)", x=np.float32([1, np.inf, -np.inf]), smooth=False),
    case(f"y = {MS}ScaledSiLU <alpha = 0.7> (x, s)", x=(2, 3), s=()),
    case(f"y = {MS}ScaledSiLU <alpha = 0.7> (x)", x=(2, 3)),
    case(f"y = {MS}GatedAdd (x, z, g)", x=(2, 3), z=(2, 3), g=(2, 1)),
]

"""Nodes with bodies, sequences and optional values, each with what it is fed."""

import numpy as np
from twin_case import Case, case, uniform

I = np.array  # noqa: E741
BRANCHES = """y = If (c) <
    then_branch = yes () => (float p) { p = Mul (x, w) },
    else_branch = no () => (float q) { t = Add (x, w) q = Exp (t) }
>"""
LOOP = """y, ys = Loop (n, c, x) <
    body = step (int64 i, bool go, float[2, 3] s) => (bool again, float[2, 3] new, float[2, 3] row) {
    again = Less (i, most)
    row = Mul (s, w)
    new = Tanh (row)
}>"""
OUTER = "most = Constant <value = int64 {2}> ()\n"
SCAN = """h, ys = Scan <num_scan_inputs = 1, body = step (float[3] s, float[3] t) => (float[3] new, float[3] row) {
    u = Mul (s, w)
    new = Add (u, t)
    row = Sin (new)
}> (s, x)"""
BACK = SCAN.replace(
    "num_scan_inputs = 1",
    "num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1], "
    "scan_output_axes = [1], scan_output_directions = [1]",
).replace("ys", "y")
SIBLINGS = """a = If (c) <
    then_branch = one () => (float[2, 3] r) { k = Constant <value = float[3] {1.0, 2.0, 3.0}> () r = Mul (x, k) },
    else_branch = two () => (float[2, 3] r) { k = Constant <value = float[3] {4.0, 5.0, 6.0}> () r = Add (x, k) }
>
y = If (d) <
    then_branch = three () => (float[2, 3] r) { k = Constant <value = float[3] {7.0, 8.0, 9.0}> () r = Mul (a, k) },
    else_branch = four () => (float[2, 3] r) { k = Sin (a) r = Sub (a, k) }
>"""
MAPPED = """s = SequenceConstruct (a, b)
m = SequenceMap <body = each (float[2, 3] t) => (float[2, 3] u) { u = Exp (t) }> (s)
y = ConcatFromSequence <axis = 0> (m)"""
PIECES = """s = SplitToSequence <axis = 1> (x, n)
e = SequenceEmpty <dtype = 1> ()
t = SequenceInsert (e, x)
u = SequenceInsert (s, x, k)
v = SequenceErase (u, j)
l = SequenceLength (v)
f = SequenceAt (v, z)
g = SequenceAt (t, z)
h = Flatten (f)
y = Concat <axis = 1> (h, g)"""
STACKED = """s = SplitToSequence <axis = 0, keepdims = 0> (x)
y = ConcatFromSequence <axis = 1, new_axis = 1> (s)"""
MAYBE = """o = Optional (x)
t = OptionalHasElement (o)
y = OptionalGetElement (o)"""
TWO, YES, NO = (2, 3), I(True), I(False)

CASES: list[Case] = [
    case(BRANCHES, c=YES, x=TWO, w=(3,)),
    case(BRANCHES, c=NO, x=TWO, w=(3,)),
    *(case(OUTER + LOOP, n=I(count), c=YES, x=TWO, w=TWO) for count in (5, 2)),
    case(OUTER + LOOP, n=I(0), c=YES, x=TWO, w=TWO),
    case(OUTER + LOOP, n=I(3), c=NO, x=TWO, w=TWO),
    case(OUTER + LOOP.replace("(n, c, x)", "(, c, x)"), c=YES, x=TWO, w=TWO),
    case(SCAN, s=(3,), x=(4, 3), w=(3,)),
    case(BACK, s=(3,), x=(3, 4), w=(3,)),
    *(case(SIBLINGS, c=c, d=d, x=uniform(0.3, 1, 2, 3)) for c in (YES, NO) for d in (YES, NO)),
    case(MAPPED, a=TWO, b=TWO),
    case(PIECES, x=(2, 5), n=I([2, 3]), k=I(1), j=I(-1), z=I(0)),
    case(STACKED, x=(2, 3)),
    case(MAYBE, opset=18, x=TWO),
]

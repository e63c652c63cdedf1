"""Attention, rotary embedding and layers with a state, each with what it is fed."""

import numpy as np
from twin_case import Case, case, integers, uniform

MS = "com.microsoft."
Q, K = (2, 4, 8), (2, 5, 8)
FOUR = {"q": (2, 4, 3, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 6)}
ANGLES = {"c": uniform(-1, 1, 6, 2), "s": uniform(-1, 1, 6, 2)}
TRUTH = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
FLAT = "q_num_heads = 2, kv_num_heads = 2"
FUSED = {"x": (2, 4, 6), "w": (6, 24), "b": (24,)}
GROUPED = {"q": (2, 4, 64), "k": (2, 4, 32), "v": (2, 4, 32)}
FIRST = {"n": np.int32([3, 3]), "t": np.int32(4)}
NEXT = {"q": (2, 1, 64), "k": (2, 1, 32), "v": (2, 1, 32), "pk": (2, 2, 3, 16), "pv": (2, 2, 3, 16)}
WIDE = {"c": uniform(-1, 1, 8, 8), "s": uniform(-1, 1, 8, 8)}
GROUPS = "num_heads = 4, kv_num_heads = 2"
LINEAR = {"q": (2, 3, 8), "k": (2, 3, 4), "v": (2, 3, 6)}

CASES: list[Case] = [
    case(f"y = Attention <{FLAT}> (q, k, v)", opset=23, q=Q, k=K, v=K),
    case(f"y = Attention <{FLAT}, is_causal = 1, scale = 0.3> (q, k, v)", opset=23, q=Q, k=K, v=K),
    case(f"y = Attention <{FLAT}> (q, k, v, m)", opset=23, q=Q, k=K, v=K, m=(4, 5)),
    case(f"y = Attention <{FLAT}> (q, k, v, m)", opset=24, q=Q, k=K, v=K, m=TRUTH, reference=True),
    case(f"y = Attention <{FLAT}, softcap = 0.7> (q, k, v, m)", opset=24, q=Q, k=K, v=K, m=(4, 5), reference=True),
    case("y = Attention (q, k, v)", opset=23, **FOUR),
    *(
        case(
            f"y, pk, pv, z = Attention <qk_matmul_output_mode = {mode}, softcap = {0.9 * (mode > 0)}> (q, k, v, m)",
            opset=24,
            **FOUR,
            m=(2, 1, 3, 5),
            reference=True,
        )
        for mode in range(4)
    ),
    case("y, a, b = Attention <is_causal = 1> (q, k, v, , p, r)", opset=23, **FOUR, p=(2, 2, 2, 4), r=(2, 2, 2, 6)),
    case("y = Attention <is_causal = 1> (q, k, v, , , , n)", opset=24, **FOUR, n=np.array([4, 5]), reference=True),
    case("y = Attention (q, k, v, m)", opset=24, **FOUR, m=(3, 4), reference=True),
    case(
        "y = Attention <left_window_size = 1, right_window_size = 1> (q, k, v)",
        opset=25,
        **FOUR,
        reference=True,
    ),
    case("y = RotaryEmbedding (x, c, s, p)", opset=23, x=(2, 3, 4, 4), p=integers(0, 6, 2, 4), **ANGLES),
    case(
        "y = RotaryEmbedding <num_heads = 2, interleaved = 1> (x, c, s, p)",
        opset=23,
        x=(2, 4, 8),
        p=integers(0, 6, 2, 4),
        **ANGLES,
    ),
    case(
        "y = RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4> (x, c, s)",
        opset=23,
        x=(2, 3, 12),
        c=uniform(-1, 1, 2, 3, 2),
        s=uniform(0, 1, 2, 3, 2),
    ),
    case(f"y = {MS}RotaryEmbedding (x, p, c, s)", x=(2, 3, 8), p=integers(0, 6, 2, 3), **ANGLES),
    case(f"y = {MS}RotaryEmbedding <interleaved = 1> (x, p, c, s)", x=(2, 3, 4, 4), p=np.array([1]), **ANGLES),
    case(
        f"y = {MS}RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4> (x, p, c, s)",
        x=(2, 3, 12),
        p=integers(0, 6, 2, 3),
        **ANGLES,
    ),
    case(f"y = {MS}Attention <num_heads = 2> (x, w, b)", **FUSED),
    case(f"y = {MS}Attention <num_heads = 2, unidirectional = 1, scale = 0.4> (x, w, b)", **FUSED),
    case(f"y = {MS}Attention <num_heads = 2> (x, w, b, m)", **FUSED, m=np.int32([[1, 1, 0, 1], [1, 1, 1, 0]])),
    case(f"y = {MS}Attention <num_heads = 2> (x, w, b, m)", **FUSED, m=np.int32([3, 2])),
    case(f"y = {MS}Attention <num_heads = 2> (x, w, b, m)", **FUSED, m=np.int32([3, 4, 0, 1])),
    case(
        f"y = {MS}Attention <num_heads = 2, unidirectional = 1> (x, w, b, m)",
        **FUSED,
        m=integers(0, 2, 2, 4, 4, kind="int32"),
    ),
    case(f"y, p = {MS}Attention <num_heads = 2> (x, w, b, , o)", **FUSED, o=(2, 2, 2, 3, 4)),
    case(f"y = {MS}Attention <num_heads = 2> (x, w, b, , , a)", **FUSED, a=(1, 2, 4, 4)),
    case(f"y = {MS}Attention <num_heads = 2, qkv_hidden_sizes = [8, 8, 4]> (x, w, b)", x=(2, 4, 6), w=(6, 20), b=(20,)),
    case(f"y = {MS}MultiHeadAttention <num_heads = 2> (q, k, v)", q=Q, k=K, v=K),
    case(f"y = {MS}MultiHeadAttention <num_heads = 2, unidirectional = 1> (q, k, v, b)", q=Q, k=Q, v=Q, b=(24,)),
    case(
        f"y = {MS}MultiHeadAttention <num_heads = 2> (q, k, v, , m, a)",
        q=Q,
        k=K,
        v=K,
        m=np.int32([[1, 1, 1, 0, 0]] * 2),
        a=(1, 2, 4, 5),
    ),
    case(
        f"y, a, b = {MS}MultiHeadAttention <num_heads = 2> (q, k, v, , , , p, r)",
        q=Q,
        k=K,
        v=K,
        p=(2, 2, 3, 4),
        r=(2, 2, 3, 4),
    ),
    case(f"y = {MS}MultiHeadAttention <num_heads = 2> (q, k, v)", q=Q, k=(2, 2, 5, 4), v=(2, 2, 5, 4)),
    case(f"y, a, b = {MS}GroupQueryAttention <{GROUPS}> (q, k, v, , , n, t)", **GROUPED, **FIRST),
    case(
        f"y, a, b = {MS}GroupQueryAttention <{GROUPS}, do_rotary = 1> (q, k, v, , , n, t, c, s)",
        **GROUPED,
        **FIRST,
        **WIDE,
    ),
    case(
        f"y, a, b = {MS}GroupQueryAttention <{GROUPS}, softcap = 0.8, local_window_size = 2> (q, k, v, , , n, t)",
        **GROUPED,
        **FIRST,
    ),
    case(f"y, a, b = {MS}GroupQueryAttention <{GROUPS}, smooth_softmax = 1> (q, k, v, , , n, t)", **GROUPED, **FIRST),
    case(
        f"y, a, b = {MS}GroupQueryAttention <{GROUPS}> (q, k, v, pk, pv, n, t)",
        **NEXT,
        n=np.int32([3, 3]),
        t=np.int32(4),
    ),
    case(
        f"y, a, b = {MS}GroupQueryAttention <{GROUPS}, do_rotary = 1, rotary_interleaved = 1> "
        "(q, k, v, pk, pv, n, t, c, s)",
        **NEXT,
        n=np.int32([3, 3]),
        t=np.int32(4),
        **WIDE,
    ),
    case(f"y, a, b = {MS}GroupQueryAttention <{GROUPS}> (q, , , , , n, t)", q=(2, 4, 128), **FIRST),
    *(
        case(
            f'y, z = LinearAttention <q_num_heads = 4, kv_num_heads = 2, update_rule = "{rule}"> ({names})',
            opset=27,
            **feeds,
            reference=True,
        )
        for rule, names, feeds in (
            ("linear", "q, k, v, s", {**LINEAR, "s": (2, 2, 2, 3)}),
            ("gated", "q, k, v, , d", {**LINEAR, "d": (2, 3, 4)}),
            ("delta", "q, k, v, , , b", {**LINEAR, "b": (2, 3, 2)}),
            ("gated_delta", "q, k, v, , d, b", {**LINEAR, "d": (2, 3, 2), "b": (2, 3, 2)}),
        )
    ),
    case("y, z = CausalConvWithState (x, w)", opset=27, x=(2, 3, 5), w=(3, 1, 3), reference=True),
    case(
        'y, z = CausalConvWithState <activation = "silu"> (x, w, b, s)',
        opset=27,
        x=(2, 3, 5),
        w=(3, 1, 3),
        b=(3,),
        s=(2, 3, 2),
        reference=True,
    ),
]

"""Random small models, and plans that they allow, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from shardlab.theory.degrees import Plan
from shardlab.theory.split import largest_tp
from shardlab.theory.transformer import Experts, Latent, Shape

SIZES = {
    "num_layers": st.integers(1, 4),
    "d_model": st.integers(1, 64),
    "d_ff": st.integers(1, 128),
    "vocab_size": st.integers(1, 300),
    "tied_embeddings": st.booleans(),
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
}

shapes = st.builds(
    lambda kv, group, **rest: Shape(num_heads=kv * group, num_kv_heads=kv, **rest),
    kv=st.integers(1, 6),
    group=st.integers(1, 6),
    head_dim=st.integers(1, 16),
    qk_norm=st.booleans(),
    **SIZES,
)


@st.composite
def mixtures(draw: st.DrawFn) -> Shape:
    """Models with experts; some with latent attention."""
    sizes = {name: draw(one) for name, one in SIZES.items()}
    num_experts = draw(st.sampled_from([1, 2, 4, 8, 12]))
    moe = Experts(
        num_experts,
        draw(st.integers(1, num_experts)),
        draw(st.integers(8, 40)),
        draw(st.integers(0, 2)),
        draw(st.integers(0, sizes["num_layers"] - 1)),
    )
    if not draw(st.booleans()):
        heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        return Shape(num_heads=heads * groups, num_kv_heads=groups, head_dim=draw(st.integers(1, 16)), moe=moe, **sizes)
    mla = draw(st.builds(Latent, st.none() | st.integers(1, 9), *(st.integers(1, 12) for _ in range(4))))
    heads = draw(st.integers(1, 8))
    return Shape(num_heads=heads, num_kv_heads=heads, head_dim=mla.head_dim, moe=moe, mla=mla, **sizes)


any_shapes = shapes | mixtures()


@st.composite
def shapes_and_plans(draw: st.DrawFn) -> tuple[Shape, Plan]:
    """A model, and a plan of at most 4 x 3 x 3 x 8 ranks that it allows."""
    shape = draw(any_shapes)
    tp = draw(st.integers(1, min(8, largest_tp(shape))))
    dp, cp = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    degrees = [1]
    if shape.moe:
        nests = [ep for ep in range(1, dp * cp * tp + 1) if tp % ep == 0 or ep % tp == 0]
        degrees = [ep for ep in nests if shape.moe.num_experts % ep == 0 and (dp * cp * tp) % ep == 0]
    ep = draw(st.sampled_from(degrees))
    return shape, Plan(dp=dp, pp=draw(st.integers(1, shape.num_layers)), cp=cp, tp=tp, ep=ep)

"""Random small models for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from shardlab.theory.transformer import Shape

shapes = st.builds(
    lambda kv, group, **rest: Shape(num_heads=kv * group, num_kv_heads=kv, **rest),
    kv=st.integers(1, 6),
    group=st.integers(1, 6),
    num_layers=st.integers(1, 4),
    d_model=st.integers(1, 64),
    d_ff=st.integers(1, 128),
    head_dim=st.integers(1, 16),
    vocab_size=st.integers(1, 300),
    tied_embeddings=st.booleans(),
    attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
    qk_norm=st.booleans(),
)

"""What needs one rank only: rotary embedding, masks, the cache, parameters that know their part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shardlab.comm.mesh import Axis
from shardlab.layers import MLP, Attention, ColumnParallelLinear, DeviceKVCache, KVCache
from shardlab.layers.parameter import load_full, local_parameters
from shardlab.layers.rope import DividedBy, LinearScaling, Llama3Scaling, cos_sin, frequencies
from shardlab.ops.reference import attend, causal_mask, rotate


def new_cache(num_layers: int, *, batch: int, num_kv_heads: int, capacity: int) -> KVCache:
    layer = Attention(32, 4, num_kv_heads, 8, Axis.single())
    device = torch.device("cpu")
    return KVCache([layer.new_cache(batch, capacity, torch.float32, device) for _ in range(num_layers)])


def test_rotation_keeps_length_and_sees_only_distance() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    per_position = frequencies(16, 1e4)

    def score(i: int, j: int) -> torch.Tensor:
        at_i, at_j = (cos_sin(per_position, torch.tensor([at]), q.dtype) for at in (i, j))
        return (rotate(q, *at_i) * rotate(k, *at_j)).sum()

    torch.testing.assert_close(rotate(q, *cos_sin(per_position, torch.tensor([9]), q.dtype)).norm(), q.norm())
    torch.testing.assert_close(score(3, 1), score(12, 10), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(score(3, 1), score(3, 2), atol=1e-3)


def test_llama3_scaling_at_its_edges() -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 64)
    turns = torch.tensor([100.0, 4.0, 2.5, 1.0, 0.01])  # within 64 positions
    plain = turns * 2 * torch.pi / 64
    kept = torch.tensor([1.0, 1.0, 0.5 + 0.5 / 8, 1 / 8, 1 / 8])
    torch.testing.assert_close(scaling.scale(plain), plain * kept)


def test_other_scalings() -> None:
    plain = frequencies(8, 1e4)
    torch.testing.assert_close(frequencies(8, 1e4, LinearScaling(4.0)), plain / 4)
    divisors = (1.0, 2.0, 4.0, 8.0)
    torch.testing.assert_close(frequencies(8, 1e4, DividedBy(divisors)), plain / torch.tensor(divisors))
    with pytest.raises(ValueError, match="head_dim=7"):
        frequencies(7, 1e4)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 99])
@pytest.mark.parametrize(("num_new", "num_all"), [(1, 1), (1, 6), (6, 6), (2, 6)])
@pytest.mark.parametrize("kv_index", [(0, 1), (0, 0, 1, 1), (0, 1, 1), (1, 0), (0, 0)])
def test_attend_is_the_formula(kv_index: tuple[int, ...], num_new: int, num_all: int, window: int | None) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, len(kv_index), num_new, 8)
    k, v = torch.randn(2, 2, num_all, 8), torch.randn(2, 2, num_all, 8)
    distance = torch.arange(num_all - num_new, num_all).unsqueeze(1) - torch.arange(num_all)
    seen = (distance >= 0) & (distance < (window or num_all))
    scores = q @ k[:, list(kv_index)].transpose(2, 3) / 8**0.5
    wanted = F.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1) @ v[:, list(kv_index)]
    torch.testing.assert_close(attend(q, k, v, kv_index, window), wanted, atol=1e-5, rtol=1e-4)


def test_no_mask_where_torch_has_the_rule() -> None:
    assert causal_mask(5, 5, None) is None
    assert causal_mask(1, 5, None) is None
    assert causal_mask(5, 5, 5) is None
    assert causal_mask(2, 5, None) is not None
    assert causal_mask(5, 5, 4) is not None


@pytest.mark.parametrize("window", [None, 3])
def test_a_cache_whose_lengths_are_on_the_device_gives_the_same_attention(window: int | None) -> None:
    torch.manual_seed(0)
    cache = new_cache(1, batch=2, num_kv_heads=2, capacity=9)
    k, v = torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    cache.next(2, 5).layers[0].append(k, v)
    cache.advance(5)
    on_device = DeviceKVCache(cache)
    for filled in (6, 7):
        q, k_new, v_new = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 1, 8), torch.randn(2, 2, 1, 8)
        k, v = torch.cat((k, k_new), 2), torch.cat((v, v_new), 2)
        step = on_device.next(2, 1)
        assert step.positions.tolist() == [[filled - 1]] * 2
        whole_k, whole_v, lengths = step.layers[0].append(k_new, v_new)
        assert whole_k.shape[2] == 9 and lengths is not None and lengths.tolist() == [filled, filled]
        whole_k[:, :, filled:] = whole_v[:, :, filled:] = 1e3  # what lies beyond must not be seen
        found = attend(q, whole_k, whole_v, (0, 0, 1, 1), window, lengths)
        torch.testing.assert_close(found, attend(q, k, v, (0, 0, 1, 1), window))
        on_device.advance(1)


def test_loading_full_tensors_names_what_is_wrong() -> None:
    layer = MLP(6, 8, Axis.single())
    full = {
        "gate.weight": torch.zeros(8, 6),
        "up.weight": torch.zeros(8, 6),
        "down.weight": torch.zeros(6, 8),
    }
    load_full(layer, full)
    with pytest.raises(ValueError, match=r"missing: \['up.weight'\]; unknown: \['on.weight'\]"):
        load_full(layer, {("on.weight" if name == "up.weight" else name): full[name] for name in full})
    with pytest.raises(ValueError, match=r"gate.weight: .*\(8, 6\).*\(8, 7\)"):
        load_full(layer, full | {"gate.weight": torch.zeros(8, 7)})


def test_parameters_know_their_part_and_ask_for_no_gradient() -> None:
    layer = ColumnParallelLinear(6, 8, Axis.single(), bias=True)
    parameters = {name: parameter for _, name, parameter in local_parameters(layer)}
    assert list(parameters) == ["weight", "bias"]
    assert parameters["weight"].part.local_shape == (8, 6)
    assert not any(parameter.requires_grad for parameter in parameters.values())


def test_a_layer_does_not_touch_its_input() -> None:
    full = {
        "gate.weight": torch.randn(8, 6),
        "up.weight": torch.randn(8, 6),
        "down.weight": torch.randn(6, 8),
    }
    x = torch.randn(2, 3, 6)
    before = x.clone()
    MLP.from_full(full, Axis.single())(x)
    assert torch.equal(x, before)

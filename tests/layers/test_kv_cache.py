"""The KV cache alone: rows of different lengths, views of some rows, going back."""

from __future__ import annotations

import pytest
import torch

from shardlab.comm.mesh import Axis
from shardlab.layers import Attention, DeviceKVCache, KVCache

K, H, CAPACITY = 2, 8, 10


def new_cache(batch: int, num_layers: int = 2) -> KVCache:
    layer = Attention(32, 4, K, H, Axis.single())
    return KVCache([layer.new_cache(batch, CAPACITY, torch.float32, torch.device("cpu")) for _ in range(num_layers)])


def append(cache: KVCache | DeviceKVCache, k: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """k[B,K,S,H] into every layer, -k as V; -> (k of all positions, lengths) of each layer."""
    found = []
    for slot in cache.next(k.shape[0], k.shape[2]).layers:
        whole_k, whole_v, lengths = slot.append(k, -k)
        assert torch.equal(whole_k[:, :, :1], -whole_v[:, :, :1])
        found.append((whole_k, lengths))
    cache.advance(k.shape[2])
    return found


def test_rows_alike_get_a_view_that_is_filled_to_its_end() -> None:
    cache, first, second = new_cache(3), torch.randn(3, K, 6, H), torch.randn(3, K, 2, H)
    assert cache.num_bytes == 2 * 2 * 3 * K * CAPACITY * H * 4
    append(cache, first)
    for whole, lengths in append(cache, second):
        assert lengths is None and torch.equal(whole, torch.cat((first, second), dim=2))
    assert cache.lengths.tolist() == [8, 8, 8] and cache.next(3, 2).positions.tolist() == [8, 9]


def test_rows_have_lengths_of_their_own() -> None:
    cache = new_cache(3)
    prompts = [torch.randn(1, K, length, H) for length in (4, 1, 6)]
    for row, prompt in enumerate(prompts):
        append(cache.rows(row, row + 1), prompt)
    assert cache.lengths.tolist() == [4, 1, 6] and cache.shortest == 1
    new = torch.randn(3, K, 2, H)
    assert cache.next(3, 2).positions.tolist() == [[4, 5], [1, 2], [6, 7]]
    for whole, lengths in append(cache, new):
        assert lengths is not None and lengths.tolist() == [6, 3, 8] and whole.shape[2] == 8
        for row, prompt in enumerate(prompts):
            assert torch.equal(whole[row, :, : int(lengths[row])], torch.cat((prompt[0], new[row]), dim=1))


def test_a_slot_goes_to_the_next_request() -> None:
    cache, kept = new_cache(2), torch.randn(2, K, 5, H)
    append(cache, kept)
    cache.rows(1, 2).rewind(0)
    assert cache.lengths.tolist() == [5, 0]
    other = torch.randn(1, K, 3, H)
    append(cache.rows(1, 2), other)
    for layer in cache.layers:
        assert torch.equal(layer.k[0, :, :5], kept[0]) and torch.equal(layer.k[1, :, :3], other[0])


def test_rewinding_takes_back_what_was_tried() -> None:
    cache, kept = new_cache(2), torch.randn(2, K, 5, H)
    append(cache, kept)
    append(cache, torch.randn(2, K, 3, H))
    cache.rewind(5)
    for whole, _ in append(cache, kept[:, :, :1]):
        assert torch.equal(whole, torch.cat((kept, kept[:, :, :1]), dim=2))
    with pytest.raises(ValueError, match=r"rewind\(7\): the shortest row has 6 positions"):
        cache.rewind(7)


def test_what_does_not_go_in_is_refused_and_changes_nothing() -> None:
    cache = new_cache(2)
    append(cache, torch.randn(2, K, 6, H))
    append(cache.rows(0, 1), torch.randn(1, K, 3, H))
    with pytest.raises(ValueError, match="2 rows of 10 positions, 9 filled in the fullest; 2 rows of 2 new"):
        cache.next(2, 2)
    with pytest.raises(ValueError, match="3 rows of 1 new positions do not go in"):
        cache.next(3, 1)
    assert cache.lengths.tolist() == [9, 6]


def test_a_cache_without_rows_is_no_mistake() -> None:
    cache = new_cache(0)
    assert [whole.shape for whole, _ in append(cache, torch.randn(0, K, 3, H))] == [(0, K, 3, H)] * 2


def test_lengths_on_the_device_write_where_each_row_stands() -> None:
    cache, prompt = new_cache(2), torch.randn(2, K, 4, H)
    append(cache, prompt)
    append(cache.rows(1, 2), prompt[:1, :, :3])
    on_device = DeviceKVCache(cache)
    for step in range(2):
        new = torch.randn(2, K, 1, H)
        for whole, lengths in append(on_device, new):
            assert whole.shape[2] == CAPACITY and lengths is not None
            assert torch.equal(whole[0, :, 4 + step], new[0, :, 0]) and torch.equal(whole[1, :, 7 + step], new[1, :, 0])
    assert on_device.next(2, 1).positions.tolist() == [[6], [9]]

"""The claims of section 7.1 on links, decided by the sourced catalogue, by published times and by arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlab.measure.record import Published, read_published
from shardlab.theory import decode, hardware, roofline
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.hardware import accelerator, catalogue, cluster, link, value
from shardlab.theory.transformer import MODELS

PUBLISHED = Path(__file__).resolve().parents[2] / "labs" / "published"
LLAMA = MODELS["llama-3-70b"]
DECODE_BYTES = LLAMA.d_model * 2  # what one all-reduce of a decoded token sums, in bf16
ALL_REDUCES = 2 * LLAMA.num_layers + 1


def rows(file: str, *, world_size: int, up_to: int = 2**40) -> list[Published]:
    found = [row for row in read_published(PUBLISHED / file) if row.world_size == world_size and row.num_bytes <= up_to]
    assert found
    return found


def over_two_nodes() -> list[Published]:
    """Published all-reduces over 16 GPUs in two nodes, one of them at about the size of a decoded token's."""
    found = [row for row in rows("allreduce_a100_2_nodes.csv", world_size=16) if row.num_nodes == 2]
    assert any(abs(row.num_bytes - DECODE_BYTES) < 0.2 * DECODE_BYTES for row in found)
    return found


def decode_sized_s() -> float:
    """The published time over two nodes whose size is nearest to a decoded token's all-reduce."""
    return min(over_two_nodes(), key=lambda row: abs(row.num_bytes - DECODE_BYTES)).seconds


def test_i3_a_crossbar_and_not_a_mesh() -> None:
    nvswitch, mesh = catalogue()["link"]["nvlink4"], catalogue()["link"]["infinity_fabric_mi300x"]
    assert (nvswitch["fabric"], mesh["fabric"]) == ("switch", "mesh")
    # Through switches one pair can have a GPU's whole rate; a mesh shares it out over the peers.
    assert nvswitch["peer_Bps"]["value"] == nvswitch["bandwidth_Bps"]["value"]
    assert mesh["peer_Bps"]["value"] == mesh["bandwidth_Bps"]["value"] / 7
    # 18 links to 4 switches do not make 7 direct links of equal width.
    assert sum((5, 4, 4, 5)) == nvswitch["links"]["value"] == 18
    assert nvswitch["switches"]["value"] == 4 and 18 % 7 != 0


def test_i9_no_published_figure_is_near_100_ns() -> None:
    step_s = link("nvlink4").alpha_s
    write_s = [value("measured", f"nvlink_write_{end}", "time_s") for end in ("min", "max")]
    all_reduce_s = min(row.seconds for row in rows("allreduce_8xh100.csv", world_size=2))
    assert step_s == pytest.approx(0.6e-6)
    assert write_s == [1.81e-6, 2.31e-6]
    assert all_reduce_s == pytest.approx(3.7e-6)
    assert min(step_s, *write_s, all_reduce_s) > 5 * 100e-9


def test_i10_port_to_port_and_not_what_a_collective_sees() -> None:
    assert link("pcie5_x16").alpha_s == pytest.approx(1e-6)
    networks = [link(name).alpha_s for name in ("ib_hdr", "ib_ndr", "roce_200", "roce_400")]
    assert set(networks) == {2.7e-6}  # NCCL counts a ring step alike on each: above "1 to 2", inside "2 to 5"
    assert 1e-6 < value("measured", "rdma_write_mark", "time_s") <= 2.7e-6
    assert min(row.seconds for row in over_two_nodes()) > 10 * 5e-6


def test_i11_decode_across_nodes_loses_to_half_the_gpus() -> None:
    slowest_node_s = max(
        row.seconds
        for file in ("allreduce_8xh100.csv", "allreduce_8xh200.csv")
        for row in rows(file, world_size=8, up_to=40_000)
    )
    # Above this an all-reduce over 16 A100 makes a token slower than 8 of them, even where theirs take the longest.
    limit_s = decode.break_even_all_reduce_s(
        LLAMA, 16, accelerator("a100_sxm_80gb"), from_tp=8, from_all_reduce_s=slowest_node_s
    )
    assert limit_s == pytest.approx(66e-6, rel=0.01)
    assert decode_sized_s() > limit_s
    assert ALL_REDUCES * decode_sized_s() == pytest.approx(11.4e-3, rel=0.01)


def prefill_s(tp: int, seconds_a_byte: float, tokens: int = 8192) -> float:
    """T_upper of a prefill on H100s: arithmetic at peak rate plus its all-reduces, bandwidth terms only."""
    math_s = roofline.flops(LLAMA, tp, batch=1, seq=tokens) / accelerator("h100_sxm").bf16_flops
    return math_s + ALL_REDUCES * tokens * DECODE_BYTES * seconds_a_byte


def test_i11_prefill_across_nodes_gains_a_little() -> None:
    two = cluster("dgx-h100:2")
    inside, outside = (two.link(level).bandwidth_Bps for level in hardware.LEVELS)
    in_node = wire_bytes("all_reduce", num_bytes=1, world_size=8) / inside
    # Two levels: reduce-scatter in the node, all-reduce of each GPU's eighth over its own port, all-gather.
    two_level = in_node + wire_bytes("all_reduce", num_bytes=1 / 8, world_size=2) / outside
    one_ring = wire_bytes("all_reduce", num_bytes=1, world_size=16) / outside
    gain = prefill_s(8, in_node) / prefill_s(16, two_level)
    assert gain == pytest.approx(1.10, abs=0.01)
    assert prefill_s(8, in_node) / prefill_s(16, one_ring) < 0.3
    assert cluster("gb200-nvl72").world_size == 72  # where the node's edge is moves with the hardware


def test_i12_memory_of_mi300x_and_h100() -> None:
    assert accelerator("mi300x").memory_bytes == 192e9
    assert accelerator("h100_sxm").memory_bytes == 80e9


def test_i13_comparable_in_sum_and_not_to_one_peer() -> None:
    nvlink, fabric = (catalogue()["link"][name] for name in ("nvlink4", "infinity_fabric_mi300x"))
    assert fabric["bandwidth_Bps"]["value"] / nvlink["bandwidth_Bps"]["value"] == pytest.approx(1, abs=0.01)
    assert nvlink["peer_Bps"]["value"] / fabric["peer_Bps"]["value"] == pytest.approx(7, abs=0.1)
    two, eight = (value("measured", f"mi300x_all_reduce_{ranks}", "bandwidth_Bps") for ranks in (2, 8))
    assert eight / two == pytest.approx(6.56, abs=0.01)
    assert two < fabric["peer_Bps"]["value"]


def test_i14_v5e_is_flat_and_v4_has_optical_switches() -> None:
    tori = {name: catalogue()["link"][f"tpu_{name}_ici"]["torus"] for name in ("v4", "v5e", "v5p")}
    assert {name: len(torus["value"]) for name, torus in tori.items()} == {"v4": 3, "v5e": 2, "v5p": 3}
    assert tori["v5e"]["value"] == [16, 16]
    assert "optical circuit switches" in tori["v4"]["note"]
    assert all(catalogue()["link"][f"tpu_{name}_ici"]["fabric"] == "torus" for name in tori)


def test_i15_decode_waits_for_latency_and_prefill_for_bandwidth() -> None:
    largest = max(over_two_nodes(), key=lambda row: row.num_bytes)
    assert largest.num_bytes == 64 * 2**20
    bandwidth_s = largest.seconds * DECODE_BYTES / largest.num_bytes  # a token's share at the rate of a large one
    assert bandwidth_s == pytest.approx(1.76e-6, rel=0.01)
    assert bandwidth_s < 0.03 * decode_sized_s()  # a network without end would save less than 3 %
    assert decode_sized_s() / bandwidth_s == pytest.approx(40, abs=1)  # tokens a step where the two are equal
    assert 8192 * bandwidth_s > 100 * decode_sized_s()

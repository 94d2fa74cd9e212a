"""theory.hardware: every number has a unit, a source and a direction; nodes and clusters are what they say."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest

from shardlab.theory import hardware
from shardlab.theory.hardware import Cluster, Link, accelerator, catalogue, cluster, interconnect_table, link, node

NUMBERS = list(hardware.numbers())
SOURCES = catalogue()["source"]
UNITS = {"B", "B/s", "s", "FLOP/s", "links", "switches", "chips", "cores", "SMs", "GPUs", "ports"}
DIRECTIONS = {"each way", "both ways", "not stated"}
PER = {"accelerator", "link", "pair", "port", "node", "wafer"}


@pytest.mark.parametrize(("table", "name", "field", "number"), NUMBERS, ids=[f"{t}.{n}.{f}" for t, n, f, _ in NUMBERS])
def test_every_number_is_complete(table: str, name: str, field: str, number: dict[str, Any]) -> None:
    values = number["value"] if isinstance(number["value"], list) else [number["value"]]
    assert values and all(one > 0 for one in values)
    assert number["unit"] in UNITS
    assert set(number) <= {"value", "unit", "direction", "per", "source", "date", "note", "differs"}
    assert (number["unit"] == "B/s") == ("direction" in number) == ("per" in number)
    if number["unit"] == "B/s":
        assert number["direction"] in DIRECTIONS and number["per"] in PER
    for ending, unit in (("_s", "s"), ("_Bps", "B/s"), ("_bytes", "B"), ("_flops", "FLOP/s")):
        if field.endswith(ending):
            assert number["unit"] == unit


@pytest.mark.parametrize(("table", "name", "field", "number"), NUMBERS, ids=[f"{t}.{n}.{f}" for t, n, f, _ in NUMBERS])
def test_every_number_has_a_source_of_that_date(table: str, name: str, field: str, number: dict[str, Any]) -> None:
    keys = hardware.sources(number)
    assert keys and len(set(keys)) == len(keys)
    assert set(keys) <= set(SOURCES)
    assert number["date"] in {SOURCES[key]["date"] for key in keys}


def test_every_source_is_an_address_that_a_number_uses() -> None:
    notes = " ".join(number.get(key, "") for *_, number in NUMBERS for key in ("note", "differs"))
    used = {key for *_, number in NUMBERS for key in hardware.sources(number)}
    assert {key for key in SOURCES if key not in used and key not in notes} == set()
    assert len({source["url"] for source in SOURCES.values()}) == len(SOURCES)
    for source in SOURCES.values():
        assert set(source) == {"title", "url", "date"}
        assert re.fullmatch(r"https://[^\s&]+", source["url"])  # the page would write & twice over
        assert source["title"].strip()
        if source["date"]:
            datetime.date.fromisoformat(source["date"])


def test_no_name_appears_twice() -> None:
    titles = [
        (table, entry["title"], entry.get("systems")) for table in catalogue() for entry in catalogue()[table].values()
    ]
    assert len(titles) == len(set(titles))
    everything = [name for table in catalogue() if table != "source" for name in catalogue()[table]]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("name", hardware.names("link"))
def test_what_is_counted_with_follows_from_what_the_maker_states(name: str) -> None:
    entry = catalogue()["link"][name]
    stated, rate = entry["stated"], entry["bandwidth_Bps"]
    assert rate["direction"] == "each way" and rate["per"] in ("accelerator", "port")
    links = entry["links"]["value"] if stated["per"] == "link" else 1
    ways = 1 if stated["direction"] == "each way" else 2  # "not stated" is read as both: a lower bound
    assert stated["value"] / ways * links == pytest.approx(rate["value"])
    assert ("lower bound" in rate.get("note", "")) == (stated["direction"] == "not stated")


@pytest.mark.parametrize("name", hardware.names("link"))
def test_a_fabric_is_what_its_numbers_say(name: str) -> None:
    entry = catalogue()["link"][name]
    rate = entry["bandwidth_Bps"]["value"]
    match entry["fabric"]:
        case "switch":  # any one peer can have all of it
            assert entry["peer_Bps"]["value"] == rate and entry["switches"]["value"] > 0
        case "mesh":
            assert entry["peer_Bps"]["value"] * entry["links"]["value"] == rate
        case "torus":
            dims = entry["torus"]["value"]
            if "links" in entry:
                assert entry["links"]["value"] == 2 * len(dims)
                assert entry["peer_Bps"]["value"] * entry["links"]["value"] == rate
        case other:
            assert other in ("bus", "network", "not stated")


def test_every_system_of_the_chapter_has_a_row() -> None:
    assert {
        "nvlink3", "nvlink4", "nvlink5", "pcie4_x16", "pcie5_x16", "ib_hdr", "ib_ndr", "roce_100", "roce_200",
        "roce_400", "infinity_fabric_mi300x", "tpu_v4_ici", "tpu_v5e_ici", "tpu_v5p_ici", "neuronlink2_trn1",
        "neuronlink3", "neuronlink2_inf2",
    } <= set(hardware.names("link"))  # fmt: skip
    assert {
        "a100_sxm_80gb", "h100_sxm", "h200_sxm", "b200_sxm", "gb200", "mi300x", "tpu_v4", "tpu_v5e", "tpu_v5p",
        "trainium", "trainium2", "inferentia2",
    } <= set(hardware.names("accelerator"))  # fmt: skip
    assert hardware.names("wafer") == ("wse2", "wse3")


def test_everything_in_the_catalogue_loads() -> None:
    for name in hardware.names("link"):
        assert link(name).bandwidth_Bps == hardware.value("link", name, "bandwidth_Bps")
    for name in hardware.names("accelerator"):
        one = accelerator(name)
        assert one.link.name == catalogue()["accelerator"][name]["link"]
        assert one.fp8_flops is None or one.fp8_flops >= one.bf16_flops
        assert one.bf16_flops / one.hbm_Bps > 50  # a FLOP/s and a byte/s swapped would show here
    for name in hardware.names("node"):
        one = node(name)
        port = hardware.value("link", catalogue()["node"][name]["network"], "bandwidth_Bps")
        assert one.network.bandwidth_Bps * one.gpus_per_node == pytest.approx(port * one.nics)


def test_h100() -> None:
    h100 = accelerator("h100_sxm")
    assert (h100.memory_bytes, h100.hbm_Bps, h100.bf16_flops, h100.fp8_flops) == (80e9, 3.35e12, 989.4e12, 1978.9e12)
    assert h100.link == Link(0.6e-6, 450e9, "nvlink4")
    assert h100.num_sms == 132
    assert accelerator("a100_sxm_80gb").fp8_flops is None


def test_the_table_says_what_the_chapter_counts() -> None:
    rows = {row.name: row for row in interconnect_table()}
    assert list(rows) == list(hardware.names("link"))
    shown = {name: row for name, row in rows.items() if row.chapter_Bps is not None}
    printed = {name: round((row.chapter_Bps or 0) / row.one_way_Bps) for name, row in shown.items()}
    assert printed == {"nvlink4": 2, "pcie5_x16": 2, "ib_hdr": 1, "ib_ndr": 1, "roce_200": 1, "roce_400": 1}
    assert rows["nvlink4"].duplex_Bps == rows["nvlink4"].chapter_Bps
    assert rows["ib_ndr"].duplex_Bps == 100e9
    assert [name for name, row in rows.items() if row.lower_bound] == ["neuronlink2_trn1", "neuronlink2_inf2"]


def test_two_dgx_h100() -> None:
    two = cluster("dgx-h100:2")
    assert (two.world_size, two.num_nodes, two.node.nics, two.name) == (16, 2, 8, "dgx-h100:2")
    assert two.node.accelerator == accelerator("h100_sxm")
    assert two.link("node") == accelerator("h100_sxm").link
    assert two.link("network") == Link(2.7e-6, 50e9, "ib_ndr")
    assert cluster("dgx-h100") == Cluster(node("dgx-h100"), 1)
    assert cluster("gb200-nvl72:3").world_size == 216


def test_the_ports_of_a_node_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node("dgx-a100").network.bandwidth_Bps == 25e9
    monkeypatch.setitem(catalogue()["node"]["dgx-a100"]["ports"], "value", 4)
    assert node("dgx-a100").network.bandwidth_Bps == 12.5e9


@pytest.mark.parametrize(
    "text", ["dgx-h100:0", "dgx-h100:-1", "dgx-h100:", "dgx-h100:two", "dgx-h100:1.5", "dgx-h100: 2"]
)
def test_a_bad_count_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"COUNT=.*allowed: 1 to 12,500 nodes, such as dgx-h100:2"):
        cluster(text)


@pytest.mark.parametrize("text", ["dgx-h100:12501", "gb200-nvl72:1389", "dgx-h100:999999999999"])
def test_an_absurd_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: 1 to [0-9,]+ nodes"):
        cluster(text)
    assert cluster("dgx-h100:12500").world_size == 100_000


@pytest.mark.parametrize("text", ["", "dgx-h1000:2", "DGX-H100", ":2"])
def test_an_unknown_node_lists_those_that_are_known(text: str) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(repr(text))}.*NAME\[:COUNT\].*dgx-h100, .*mi300x-8"):
        cluster(text)


@pytest.mark.parametrize("count", [0, -3, 12_501, True, 1.0])
def test_a_cluster_checks_its_size(count: Any) -> None:
    with pytest.raises(ValueError, match=rf"num_nodes={count!r} of dgx-h100; allowed: 1 to 12,500"):
        Cluster(node("dgx-h100"), count)


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'h300'.*h100_sxm"):
        accelerator("h300")
    with pytest.raises(ValueError, match="'nvlink'.*nvlink4"):
        link("nvlink")
    with pytest.raises(ValueError, match="'dgx'.*dgx-h100"):
        node("dgx")
    with pytest.raises(ValueError, match="no number 'torus'; it has: .*alpha_s"):
        hardware.value("link", "nvlink4", "torus")
    with pytest.raises(ValueError, match="level='rack'; allowed: node, network"):
        cluster("dgx-h100").link("rack")

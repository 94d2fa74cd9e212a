"""The hardware catalogue as a page: the build fills the ${...} of book/hardware.md from shardlab.theory.hardware."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

from ledger_page import escape
from shardlab.theory import hardware
from shardlab.theory.units import bandwidth_text, seconds_text

CATALOGUE = hardware.catalogue()
LINK = CATALOGUE["link"]
NVLINK, NDR, MESH, NEURON = (LINK[name] for name in ("nvlink4", "ib_ndr", "infinity_fabric_mi300x", "neuronlink3"))
V4, V5E, V5P = (LINK[f"tpu_{name}_ici"] for name in ("v4", "v5e", "v5p"))
# what a step costs, by the link whose alpha_s it is
STEPS = {
    "nvlink4": "a ring step, NVLink (NCCL's model)",
    "infinity_fabric_mi300x": "a ring step, xGMI (RCCL's model)",
    "pcie5_x16": "a ring step, PCIe (NCCL's model)",
    "ib_ndr": "a ring step, any network (NCCL's model)",
    "tpu_v5e_ici": "a hop, ICI",
}


class Sources:
    """Numbers the sources in the order in which the page comes to them."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def links(self, keys: Iterable[str]) -> str:
        """Numbered links, each straight to its source."""
        keys = dict.fromkeys(keys)
        self.order += [key for key in keys if key not in self.order]
        places = sorted((self.order.index(key) + 1, CATALOGUE["source"][key]["url"]) for key in keys)
        return " ".join(f"[{number}]({url})" for number, url in places)

    def of(self, *numbers: dict[str, Any]) -> str:
        return self.links(key for number in numbers for key in hardware.sources(number))

    def listed(self) -> str:
        lines = []
        for key in self.order:
            source = CATALOGUE["source"][key]
            lines.append(f"1. [{escape(source['title'])}]({source['url']}){source['date'] and ', ' + source['date']}")
        return "\n".join(lines)


def table(marks: str, *rows: list[str]) -> str:
    """A table in MyST; marks: one letter a column, l for text and r for numbers; the first row is the head."""
    rule = ["--:" if mark == "r" else "---" for mark in marks]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def giga(value: float | None) -> str:
    """Bytes a second in GB/s, without the unit; a dash for None."""
    if value is None:
        return "–"
    return f"{value / 1e9:,.0f}" if value >= 100e9 else f"{value / 1e9:.3g}"


def tera(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value / 1e12:,.{digits}f}"


def reading() -> str:
    """The same step for four ways of counting."""

    def one_way(entry: dict[str, Any]) -> str:
        return giga(entry["bandwidth_Bps"]["value"])

    bits = f"{NDR['stated']['value'] * 8 / 1e9:.0f} Gb/s"
    shared = f"halve it; {V5P['links']['value']} links share it"
    return table(
        "lrlr",
        ["what is printed, and for what", "printed", "what to do", "one way"],
        ["NVLink 4: both ways, a GPU", giga(NVLINK["stated"]["value"]), "halve it", one_way(NVLINK)],
        ["InfiniBand NDR: each way, a port", bits, "bits to bytes", one_way(NDR)],
        ["MI300X: both ways, a pair", giga(2 * MESH["peer_Bps"]["value"]), "halve it, times 7 peers", one_way(MESH)],
        ["TPU v5p: both ways, a chip", giga(V5P["stated"]["value"]), shared, one_way(V5P)],
    )


def inside(sources: Sources) -> str:
    rows = [["link", "one way", "both ways", "to one peer", "chapter", "sources"]]
    for row in hardware.interconnect_table():
        if row.per == "accelerator":
            least = "≥ " if row.lower_bound else ""
            name = f"{escape(row.title)}, {escape(row.systems)}"
            one_way, both = f"{least}**{giga(row.one_way_Bps)}**", least + giga(row.duplex_Bps)
            chapter = giga(row.chapter_Bps) if row.chapter_Bps else ""
            rows.append([name, one_way, both, giga(row.peer_Bps), chapter, sources.links(row.sources)])
    return table("lrrrrl", *rows)


def outside(sources: Sources) -> str:
    rows = [["link", "one way", "both ways", "chapter", "sources"]]
    for row in hardware.interconnect_table():
        if row.per == "port":
            one_way, both = f"**{giga(row.one_way_Bps)}**", giga(row.duplex_Bps)
            chapter = giga(row.chapter_Bps) if row.chapter_Bps else ""
            rows.append([escape(row.title), one_way, both, chapter, sources.links(row.sources)])
    return table("lrrrl", *rows)


def gap() -> str:
    node = hardware.node("dgx-h100")
    gpus, fast, slow = node.gpus_per_node, node.accelerator.link.bandwidth_Bps, node.network.bandwidth_Bps
    return table(
        "lrrr",
        ["H100, one NDR port a GPU", "NVLink", "network", "ratio"],
        ["as the chapter divides", giga(2 * fast), giga(slow), f"{2 * fast / slow:.0f}"],
        ["one GPU, one way", giga(fast), giga(slow), f"**{ratio(node.name)}**"],
        [f"a node of {gpus}, one way", giga(gpus * fast), giga(gpus * slow), f"**{ratio(node.name)}**"],
    )


def ratio(node: str) -> str:
    """How many times faster one GPU sends inside a node than out of it."""
    one = hardware.node(node)
    return f"{one.accelerator.link.bandwidth_Bps / one.network.bandwidth_Bps:.0f}"


def accelerators(sources: Sources) -> str:
    rows = [["accelerator", "memory", "its rate", "bf16", "fp8", "sources"]]
    for name, entry in CATALOGUE["accelerator"].items():
        one = hardware.accelerator(name)
        numbers = [number for number in entry.values() if isinstance(number, dict)]
        rates = [tera(one.hbm_Bps, 2), tera(one.bf16_flops, 0), tera(one.fp8_flops, 0)]
        rows.append([escape(entry["title"]), f"{one.memory_bytes / 1e9:,.0f}", *rates, sources.of(*numbers)])
    return table("lrrrrl", *rows)


def nodes(sources: Sources) -> str:
    rows = [["node", "GPUs", "inside", "network", "ratio", "all ports", "sources"]]
    for name, entry in CATALOGUE["node"].items():
        node = hardware.node(name)
        gpus, slow = node.gpus_per_node, node.network.bandwidth_Bps
        cells = [f"{gpus}", giga(node.accelerator.link.bandwidth_Bps), giga(slow), ratio(name), giga(gpus * slow)]
        rows.append([f"`{name}`", *cells, sources.of(entry["accelerators"], entry["ports"])])
    return table("lrrrrrl", *rows)


def latencies(sources: Sources) -> str:
    times = [(what, LINK[name]["alpha_s"]) for name, what in STEPS.items()]
    times += [(entry["title"], entry["time_s"]) for entry in CATALOGUE["measured"].values() if "time_s" in entry]
    rows = [[escape(what), seconds_text(number["value"]), sources.of(number)] for what, number in times]
    return table("lrl", ["what", "time", "sources"], *rows)


def beyond(sources: Sources) -> dict[str, str]:
    """The numbers of "Beyond NVIDIA", by their names in the page."""
    older, wafer = CATALOGUE["wafer"]["wse2"], CATALOGUE["wafer"]["wse3"]
    two, eight = (CATALOGUE["measured"][f"mi300x_all_reduce_{ranks}"]["bandwidth_Bps"] for ranks in (2, 8))

    def dims(entry: dict[str, Any]) -> str:
        return " x ".join(str(one) for one in entry["torus"]["value"])

    def peta(number: dict[str, Any]) -> str:
        return f"{number['value'] / 1e15:.3g} PB/s"

    return {
        "mesh_links": str(MESH["links"]["value"]),
        "mesh_all": bandwidth_text(MESH["bandwidth_Bps"]["value"]),
        "mesh_one": bandwidth_text(MESH["peer_Bps"]["value"]),
        "mesh_two": bandwidth_text(two["value"]),
        "mesh_eight": bandwidth_text(eight["value"]),
        "mesh_sources": sources.of(MESH["peer_Bps"], two),
        "v4_dims": dims(V4),
        "v5e_dims": dims(V5E),
        "v5p_dims": dims(V5P),
        "torus_sources": sources.of(V4["torus"], V5E["torus"], V5P["torus"]),
        "neuron_links": str(NEURON["links"]["value"]),
        "neuron_dims": dims(NEURON),
        "neuron_one": bandwidth_text(NEURON["peer_Bps"]["value"]),
        "neuron_sources": sources.of(NEURON["torus"], NEURON["stated"]),
        "wafer_cores": f"{wafer['cores']['value']:,}",
        "wafer_fabric": peta(wafer["fabric_Bps"]),
        "wafer_memory": f"{wafer['memory_bytes']['value'] / 1e9:.0f} GB",
        "wafer_rate": peta(wafer["memory_Bps"]),
        "wafer_io": bandwidth_text(wafer["io_Bps"]["value"]),
        "wafer_older": f"{older['memory_bytes']['value'] / 1e9:.0f} GB at {peta(older['memory_Bps'])}",
        "wafer_sources": sources.of(wafer["fabric_Bps"], wafer["io_Bps"], older["memory_Bps"]),
    }


def remarks(key: str, sources: Sources) -> str:
    """What the catalogue says beside its numbers, entry by entry. key: note, or differs."""
    known = "|".join(sorted(map(re.escape, CATALOGUE["source"]), key=len, reverse=True))
    said: dict[str, list[str]] = {}
    for table_name, name, _, number in hardware.numbers():
        if key in number:
            entry = CATALOGUE[table_name][name]
            systems = entry.get("systems", "a port")
            where = entry["title"] + ("" if systems == "a port" else f", {systems}")
            text = re.sub(rf"\b({known})\b", lambda found: named(found[1], sources), escape(number[key]))
            said.setdefault(where, []).append(text)
    return "\n".join(f"- **{escape(where)}**: {'; '.join(dict.fromkeys(texts))}." for where, texts in said.items())


def named(key: str, sources: Sources) -> str:
    """A source by its title, as a link, for running text; it gets its number too."""
    sources.links([key])
    return f"[{escape(CATALOGUE['source'][key]['title'])}]({CATALOGUE['source'][key]['url']})"


def parts() -> dict[str, str]:
    """All that the page leaves open, by name. In the order of the page, so that sources are numbered as they come."""
    sources = Sources()
    copy = CATALOGUE["measured"]["h100_copy"]["bandwidth_Bps"]
    return {
        "one_way": bandwidth_text(NVLINK["bandwidth_Bps"]["value"]),
        "both_ways": bandwidth_text(NVLINK["stated"]["value"]),
        "reading": reading(),
        "inside": inside(sources),
        "outside": outside(sources),
        "copy": bandwidth_text(copy["value"]),
        "copy_source": sources.of(copy),
        "gap": gap(),
        "gap_b200": ratio("dgx-b200"),
        "accelerators": accelerators(sources),
        "nodes": nodes(sources),
        "latencies": latencies(sources),
        **beyond(sources),
        "differences": remarks("differs", sources),
        "notes": remarks("note", sources),
        "sources": sources.listed(),
    }


def write(page: Path) -> None:
    """Fill in the page, in place. Raises KeyError for a ${name} that nothing fills."""
    page.write_text(Template(page.read_text()).substitute(parts()))

"""Links, accelerators, nodes and clusters. The numbers are in hardware.toml, each with its source and direction."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

MAX_ACCELERATORS = 100_000  # of a cluster: more is a slip of the finger
LEVELS = ("node", "network")  # the two links of a cluster: inside a node, and between nodes


@dataclass(frozen=True)
class Link:
    """One port of one rank: `alpha_s` seconds a step and `bandwidth_Bps` bytes/s in one direction.

    alpha_s=0 gives the bandwidth term alone. Raises ValueError for a negative latency or no bandwidth.
    """

    alpha_s: float
    bandwidth_Bps: float
    name: str = ""

    def __post_init__(self) -> None:
        if not self.alpha_s >= 0:
            raise ValueError(f"alpha_s={self.alpha_s}; allowed: 0 or more seconds")
        if not self.bandwidth_Bps > 0:
            raise ValueError(f"bandwidth_Bps={self.bandwidth_Bps}; allowed: above 0 bytes/s, one direction")


@dataclass(frozen=True)
class Accelerator:
    """One GPU or chip by its data sheet: memory in bytes, HBM in bytes/s, dense FLOP/s, link to its peers.

    fp8_flops is None where the chip has no fp8 arithmetic, or where no source that was read gives a rate. num_sms is
    the number of its streaming multiprocessors, None where it has none or nobody looked it up.
    """

    name: str
    memory_bytes: float
    hbm_Bps: float
    bf16_flops: float
    link: Link
    fp8_flops: float | None = None
    num_sms: int | None = None


@dataclass(frozen=True)
class Node:
    """Accelerators that share one domain of fast links, and their ports to the network.

    network is what one accelerator has of it, each way: ports * rate of a port / accelerators.
    """

    name: str
    accelerator: Accelerator
    gpus_per_node: int
    network: Link
    nics: int


@dataclass(frozen=True)
class Cluster:
    """`num_nodes` equal nodes on one network. Raises ValueError below one node and above 100,000 accelerators."""

    node: Node
    num_nodes: int = 1

    def __post_init__(self) -> None:
        most = MAX_ACCELERATORS // self.node.gpus_per_node
        if isinstance(self.num_nodes, bool) or not isinstance(self.num_nodes, int) or not 1 <= self.num_nodes <= most:
            raise ValueError(
                f"num_nodes={self.num_nodes!r} of {self.node.name}; allowed: 1 to {most:,} nodes"
                f" (at most {MAX_ACCELERATORS:,} GPUs)"
            )

    @property
    def name(self) -> str:
        """What `cluster` reads back: dgx-h100:2."""
        return f"{self.node.name}:{self.num_nodes}"

    @property
    def world_size(self) -> int:
        """All accelerators, one rank each."""
        return self.num_nodes * self.node.gpus_per_node

    def link(self, level: str) -> Link:
        """What one rank has inside its node ("node") or to other nodes ("network"), each way."""
        if level not in LEVELS:
            raise ValueError(f"level={level!r}; allowed: {', '.join(LEVELS)}")
        return self.node.accelerator.link if level == "node" else self.node.network


@dataclass(frozen=True)
class InterconnectRow:
    """One link as the like-for-like table shows it; bandwidths in bytes/s for one accelerator or one port."""

    name: str
    title: str
    systems: str
    fabric: str  # switch, mesh, torus, bus, network, or "not stated"
    per: str  # accelerator or port
    one_way_Bps: float
    peer_Bps: float | None  # of it, what one peer can get; None where no source says so
    lower_bound: bool  # the maker states no direction, and half of its number is taken
    chapter_Bps: float | None  # what the chapter's table prints; None for links that it leaves out
    sources: tuple[str, ...]

    @property
    def duplex_Bps(self) -> float:
        """Both directions added up, as data sheets like to print it."""
        return 2 * self.one_way_Bps


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """hardware.toml as it stands: table -> entry -> {field: text or {value, unit, source, date, ...}}."""
    return tomllib.loads(files("shardlab.theory").joinpath("hardware.toml").read_text(encoding="utf-8"))


def names(table: str) -> tuple[str, ...]:
    """The entries of a table of the catalogue: link, accelerator, wafer, node, measured or source."""
    return tuple(catalogue()[table])


def numbers() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(table, entry, field, number) for every number of the catalogue that has a source."""
    for table, entries in catalogue().items():
        for name, entry in entries.items():
            for field, number in entry.items():
                if isinstance(number, dict) and field != "chapter":
                    yield table, name, field, number


def sources(number: dict[str, Any]) -> tuple[str, ...]:
    """The keys of a number's sources, in the table `source` of the catalogue."""
    given = number["source"]
    return (given,) if isinstance(given, str) else tuple(given)


def value(table: str, name: str, field: str) -> float:
    """One number of the catalogue. Raises ValueError for an entry or a field that it lacks."""
    entry = _entry(table, name)
    if field not in entry or not isinstance(entry[field], dict):
        has = ", ".join(key for key, number in entry.items() if isinstance(number, dict))
        raise ValueError(f"{table} {name!r} has no number {field!r}; it has: {has}")
    return entry[field]["value"]


def link(name: str) -> Link:
    """A link of the catalogue, with the latency that it gives for one step (0 where no source has one)."""
    entry = _entry("link", name)
    alpha_s = entry["alpha_s"]["value"] if "alpha_s" in entry else 0.0
    return Link(alpha_s, entry["bandwidth_Bps"]["value"], name)


def accelerator(name: str) -> Accelerator:
    """An accelerator of the catalogue."""
    entry = _entry("accelerator", name)
    return Accelerator(
        name=name,
        memory_bytes=entry["memory_bytes"]["value"],
        hbm_Bps=entry["hbm_Bps"]["value"],
        bf16_flops=entry["bf16_flops"]["value"],
        link=link(entry["link"]),
        fp8_flops=entry["fp8_flops"]["value"] if "fp8_flops" in entry else None,
        num_sms=entry["num_sms"]["value"] if "num_sms" in entry else None,
    )


def node(name: str) -> Node:
    """A node of the catalogue: its ports are shared out evenly over its accelerators."""
    entry = _entry("node", name)
    gpus, ports = entry["accelerators"]["value"], entry["ports"]["value"]
    port = link(entry["network"])
    return Node(
        name=name,
        accelerator=accelerator(entry["accelerator"]),
        gpus_per_node=gpus,
        network=Link(port.alpha_s, port.bandwidth_Bps * ports / gpus, port.name),
        nics=ports,
    )


def cluster(text: str) -> Cluster:
    """'dgx-h100:2' -> two such nodes; without a count, one. Raises ValueError naming what is allowed."""
    name, colon, count = text.partition(":")
    if name not in catalogue()["node"]:
        raise ValueError(f"cluster={text!r}: NAME[:COUNT] is needed, such as dgx-h100:2; NAME is one of {_nodes()}")
    most = MAX_ACCELERATORS // _entry("node", name)["accelerators"]["value"]
    if colon and not (re.fullmatch(r"[0-9]{1,9}", count) and 1 <= int(count) <= most):
        raise ValueError(f"cluster={text!r}: COUNT={count!r}; allowed: 1 to {most:,} nodes, such as {name}:2")
    return Cluster(node(name), int(count) if colon else 1)


def interconnect_table() -> list[InterconnectRow]:
    """Every link of the catalogue in one direction, beside what the chapter's table 7.1 prints for it."""
    rows = []
    for name, entry in catalogue()["link"].items():
        stated, rate = entry["stated"], entry["bandwidth_Bps"]
        shown = [entry[field] for field in ("stated", "bandwidth_Bps", "peer_Bps") if field in entry]
        rows.append(
            InterconnectRow(
                name=name,
                title=entry["title"],
                systems=entry["systems"],
                fabric=entry["fabric"],
                per=rate["per"],
                one_way_Bps=rate["value"],
                peer_Bps=entry["peer_Bps"]["value"] if "peer_Bps" in entry else None,
                lower_bound=stated["direction"] == "not stated",
                chapter_Bps=entry["chapter"]["value"] if "chapter" in entry else None,
                sources=tuple(dict.fromkeys(key for number in shown for key in sources(number))),
            )
        )
    return rows


def _entry(table: str, name: str) -> dict[str, Any]:
    known = catalogue()[table]
    if name not in known:
        raise ValueError(f"{table}={name!r} is not in hardware.toml; it has: {', '.join(known)}")
    return known[name]


def _nodes() -> str:
    return ", ".join(names("node"))

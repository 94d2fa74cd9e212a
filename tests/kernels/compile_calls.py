"""Compile the sample calls of one area for one architecture, and print what ptxas said: one JSON object a line.

    python -m tests.kernels.compile_calls calls_dense sm_90

A process of its own, because the tests' process interprets kernels.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict

from shardlab_kernels.compile_only import compiled


def main(area: str, arch: str) -> None:
    for name, call in importlib.import_module(f"tests.kernels.{area}").calls():
        with compiled(arch) as found:
            call()
        for order, one in enumerate(found):
            facts = asdict(one) | {"call": name, "order": order, "wgmma": "wgmma" in one.ptx}
            facts.pop("ptx")
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

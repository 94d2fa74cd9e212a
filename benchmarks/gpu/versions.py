"""What runs here: card, driver, clocks and the versions that a result depends on."""

from __future__ import annotations

import platform
import subprocess

import torch
import triton

_ASKED = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.limit"


def main() -> None:
    print(f"Python {platform.python_version()}, torch {torch.__version__}, Triton {triton.__version__}")
    if not torch.cuda.is_available():
        print("no CUDA device")
        return
    one = torch.cuda.get_device_properties(torch.cuda.current_device())
    print(f"{one.name}: {one.multi_processor_count} multiprocessors, {one.L2_cache_size >> 20} MB of L2, "
          f"sm_{one.major}{one.minor}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")  # fmt: skip
    try:
        said = subprocess.run(["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv"], capture_output=True, text=True)
        print(said.stdout.strip() or said.stderr.strip())
    except FileNotFoundError:
        print("nvidia-smi is not here")


if __name__ == "__main__":
    main()

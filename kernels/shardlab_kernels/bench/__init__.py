"""`python -m shardlab_kernels.bench`: every kernel on this GPU beside its rivals, checked first, then timed.

It needs torch and triton, nothing else. One call of at most eight minutes measures everything, writes
labs/measured/kernels_<gpu>.csv and prints a short table last. Each row carries the copy bandwidth and the GEMM rate of
the same run, so that a fraction means something on any card. `--smoke` runs every case at a tiny size, checks it, times
nothing and writes nothing: it works without a GPU, in Triton's interpreter.

Left out: the tutorial's attention kernel (goal G2: we keep no copy of it), and what needs a whole model (G14-G16).
"""

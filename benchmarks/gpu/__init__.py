"""`python -m benchmarks.gpu` (`make gpu`): everything that only a GPU can say, in one command of nine minutes.

Steps (steps.py) are processes of their own, each with a time limit, so a kernel that hangs or breaks the GPU's context
costs its own case. Rows go to labs/measured/kernels_<gpu>.csv case by case, and what is there is not measured again.
The table of the goals G1-G16 comes last. `--smoke` runs every step at a tiny size, without a GPU too.
"""

"""One file an axis: how its ranks share the work. Each takes tensors, callables and an Axis, never a layer.

pipeline: stages in a row. (Experts and sequences come with their labs.)
"""

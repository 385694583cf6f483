"""The upper half: commands, each a folder, and the parts they share, lowest first.

Commands: demo, plan, doctor, prepare, records, segment, tune_crf, evaluate, submit; others are in `trainer`.
Parts: runner, inputs, entries, scores, crf, masks, pages; each may import those before it.
"""

__version__ = "0.38.0"

"""The upper half: commands, each a folder, and the parts they share, lowest first.

Commands: demo, doctor, prepare, records, segment, tune_crf, evaluate (and train, weights in `trainer`).
Parts: runner, inputs, scores, crf, masks, pages; each may import those before it.
"""

__version__ = "0.33.0"

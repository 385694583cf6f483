"""The lower half: palettes, records, the model and its training. Imports no Beam."""

"""The upper half: Beam jobs that prepare records, segment collections and evaluate masks."""

__version__ = "0.1.0"

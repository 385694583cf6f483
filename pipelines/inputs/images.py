"""BRIDGE: the old name of collection."""

from pipelines.inputs.collection import *  # noqa: F403

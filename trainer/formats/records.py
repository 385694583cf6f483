"""BRIDGE: old names until everyone has moved to frames, examples and dataset."""

from trainer.accounts import Reject  # noqa: F401
from trainer.formats.dataset import *  # noqa: F403
from trainer.formats.examples import *  # noqa: F403
from trainer.formats.frames import *  # noqa: F403

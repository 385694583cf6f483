"""The layouts of raw sets by name, for the options of commands; `layouts` says what each of them looks like."""

from __future__ import annotations

LAYOUTS = ("auto", "manifest", "voc", "cityscapes", "camvid", "paired")
"""What --layout takes."""

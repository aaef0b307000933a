"""`tfc-fast report`: figures and a self-contained page of a run."""

from __future__ import annotations

import argparse

from tfc_fast.cli.command import Command

__all__ = ["COMMAND"]

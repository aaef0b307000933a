"""The command line `tfc-fast`."""

from tfc_fast.cli.main import main

__all__ = ["main"]

"""`python -m tfc_fast` is `tfc-fast`, also under torchrun: then the processes train together."""

from __future__ import annotations

import contextlib
import os
import sys

import torch.distributed as distributed

from tfc_fast.cli.main import main


def _main() -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return main()
    distributed.init_process_group("gloo")
    try:
        with contextlib.ExitStack() as stack:
            if distributed.get_rank() > 0:  # the first one speaks for all
                null = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(null))
            return main()
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(_main())

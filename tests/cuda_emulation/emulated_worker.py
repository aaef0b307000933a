"""`processes/worker.py` by the ops for CUDA, emulated: `torchrun emulated_worker.py FOLDER`."""

import cuda_emulation.use_emulated_extension  # noqa: F401  (before anything imports tfc_fast)
from processes import worker

if __name__ == "__main__":
    # A GPU refuses masks and compiled models, and tells of wrong labels later.
    worker.main(
        left_out=("masked tokens", "refused labels", "compiled", "compiled, no labels"),
    )

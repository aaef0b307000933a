"""Training of an MLP, or of a model of your own, with the probe at every step.

`TrainConfig` holds the settings, `Trainer` runs them into a run directory, `Trainer.resume` goes on
with a run that stopped.
"""

from tfc_fast.trainer.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from tfc_fast.trainer.config import TrainConfig
from tfc_fast.trainer.trainer import Trainer, TrainResult

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "load_checkpoint",
]

"""The paper's findings as commands: each trains several seeds and judges one claim by them.

`experiment` says what an experiment is; `dose`, `course`, `trajectory`, `directions` and
`architectures` hold them; `job` is one run, `sweep` trains them, side by side and as far as they
are not there yet; `observation` looks at features and weight updates meanwhile; `measurement` reads
a run back; `output` writes tables, pictures and verdicts. `reproduce` does all of it:

    reproduce(["depth", "momentum"], "runs/reproduce", seeds=2, quick=True)
"""

from __future__ import annotations

try:
    import joblib  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"reproducing needs joblib and matplotlib, and {error.name} is not installed: "
        "pip install 'tfc_fast[reproduce]'"
    ) from error

from tfc_fast.reproduce.experiment import Experiment, Judgement, Setting
from tfc_fast.reproduce.job import Job
from tfc_fast.reproduce.measurement import Measurement
from tfc_fast.reproduce.runner import EXPERIMENTS, Outcome, reproduce
from tfc_fast.reproduce.sweep import train_all

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Job",
    "Judgement",
    "Measurement",
    "Outcome",
    "Setting",
    "reproduce",
    "train_all",
]

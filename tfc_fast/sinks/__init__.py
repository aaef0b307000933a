"""Sinks: where the records of a probe go.

`MemorySink` keeps them for `history`, `ParquetSink` puts them on disk, `TensorBoardSink` shows them
live. Any class with the methods of `tfc_fast.records.Sink` can stand beside them. Importing this
package loads neither pyarrow nor tensorboard: the sink that needs one loads it when it is made.
"""

from tfc_fast.sinks.memory import MemorySink
from tfc_fast.sinks.parquet import ParquetSink, read_parquet, truncate_parquet
from tfc_fast.sinks.tensorboard import TensorBoardSink

__all__ = [
    "MemorySink",
    "ParquetSink",
    "TensorBoardSink",
    "read_parquet",
    "truncate_parquet",
]

"""Measures the memory of one provider in this process; `peers.py` starts it.

Reads a request from standard input and writes one line per case: MiB, or what went wrong, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peer_base import Provider
from peer_measure import Case, input_of
from peer_providers import PROVIDERS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from memory import peak_mib

_FEW_ROWS = 48


def _peak_mib(provider: type[Provider], case: Case, threads: int) -> float:
    # Libraries load and compile on the first call. Its rows are as many as no input is wide, or the
    # compiler would take the two numbers for one.
    provider(input_of((*case[1:3], _FEW_ROWS, case.width)), threads).call(case.task)()
    return peak_mib(provider(input_of(case[1:]), threads).call(case.task))


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    provider = next(each for each in PROVIDERS if each.name == request["provider"])
    torch.set_num_threads(request["threads"])
    for case in (Case(*fields) for fields in request["cases"]):
        print(json.dumps(_peak_mib(provider, case, request["threads"])), flush=True)


if __name__ == "__main__":
    main()

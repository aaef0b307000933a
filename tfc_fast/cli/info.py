"""`tfc-fast info`: versions, instruction set, CUDA yes or no and why, optional packages."""

from __future__ import annotations

import argparse
import json
import platform
import re
from importlib import metadata
from typing import Any

import torch

from tfc_fast import _extension
from tfc_fast.cli.command import Command
from tfc_fast.environment import checked_device, environment

__all__ = ["COMMAND", "collect"]

_PACKAGE = "tfc_fast"
# As in `pyarrow>=14; extra == "train"`.
_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*;.*extra\s*==\s*["']([\w-]+)["']""")


def collect() -> dict[str, Any]:
    """Return what the program knows of itself and of the machine.

    Returns:
        `build` (of the compiled part: instruction set, CUDA and why, compiler), versions, platform,
        CPU, threads, the CUDA devices that torch sees, and for each extra its packages with their
        versions, None where one is not installed.
    """
    build = dict(_extension._C.build_info())
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        **environment(checked_device("cpu")),
        "build": build,
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(devices)],
        "extras": _extras(),
    }


def _extras() -> dict[str, dict[str, str | None]]:
    """Packages of each extra, as the metadata of this package list them."""
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires(_PACKAGE) or []:
        match = _REQUIREMENT.match(requirement)
        if match and re.sub("[-.]", "_", match[1]).lower() != _PACKAGE:
            extras.setdefault(match[2], {})[match[1]] = _version(match[1])
    return extras


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print as JSON")


def _run(arguments: argparse.Namespace) -> int:
    found = collect()
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(_lines(found)))
    return 0


def _lines(found: dict[str, Any]) -> list[str]:
    build, versions = found["build"], found["versions"]
    devices = ", ".join(found["cuda_devices"]) or "none"
    pairs = {
        "tfc_fast": versions["tfc_fast"],
        "torch": f"{versions['torch']} (built with {build['torch_built_with']})",
        "numpy": versions["numpy"],
        "python": f"{versions['python']} on {found['platform']}",
        "compiler": build["compiler"],
        "CPU": f"{found['device_name']} ({platform.machine()}), {found['threads']} threads",
        "instruction set": f"{build['instruction_set']} "
        f"(available: {build['instruction_sets_available']})",
        "CUDA": f"{build['cuda']}: {build['cuda_reason']}",
        "CUDA devices": devices,
    }
    for name, packages in found["extras"].items():
        pairs[f"extra {name}"] = _extra_line(name, packages)
    width = max(map(len, pairs))
    return [f"{name:<{width}}  {value}" for name, value in pairs.items()]


def _extra_line(name: str, packages: dict[str, str | None]) -> str:
    missing = [package for package, version in packages.items() if version is None]
    if missing:
        return f"{', '.join(missing)} not installed: pip install '{_PACKAGE}[{name}]'"
    return ", ".join(f"{package} {version}" for package, version in packages.items())


COMMAND = Command(
    name="info",
    help="versions, instruction set in use, CUDA yes or no and why",
    description=(
        "Prints versions, the instruction set that the CPU kernels use, whether there are CUDA\n"
        "kernels and why, and which optional packages are installed."
    ),
    examples=("tfc-fast info", "tfc-fast info --json"),
    configure=_configure,
    run=_run,
)

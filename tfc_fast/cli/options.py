"""Errors of the library in the words of the command line: options instead of arguments."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

__all__ = ["OptionError", "errors_in_options", "flag", "in_options"]

# What names nothing that the command line has: what is said there, and what is said here. `{name}`
# is the option of that name.
_PHRASES = (
    ("; set the other to None", "; leave the other out"),
    (
        "name modules by glob, or use tap(x, name) in its forward and Probe(sites=[])",
        "give a {depth} of 2 or more, name other modules with {sites}, or leave the probe out "
        "with --no-probe",
    ),
    (
        "model.named_modules() lists all",
        "{sites} takes relu, or paths and globs such as 'hidden.*.linear' or output",
    ),
    ("unknown data set ", "{dataset}: unknown data set "),
)
_LIST = re.compile(r"\[('[^']*'(?:, '[^']*')*)\]")
_UNKNOWN_OPTION = re.compile(r"unknown option '(\w+)' for ('[^']*'); its options are: .*")
# An argument where a message begins, alone or with others; `folder` also before its value.
_HEAD = re.compile(r"(folder\b|\w+(?:, \w+)*(?=: | must be given| has no meaning))")
# Elsewhere only where it cannot be an English word or a part of a path.
_BEFORE, _AFTER = r"(?:(?<=[\s(])|^)", r"(?=[\s,;:.)]|$)(?!\.\w)"
_ASSIGNMENT = re.compile(_BEFORE + r"""(\w+)=("[^"]*"|'[^']*'|[\w.]*\w)""" + _AFTER)
_COMPOUND = re.compile(_BEFORE + r"(\w+_\w+)" + _AFTER)


class OptionError(ValueError):
    """An error of the user, told in options of the command line."""


def flag(name: str) -> str:
    """The option of a setting.

    Example:
        >>> flag("batch_size")
        '--batch-size'
    """
    return "--" + name.replace("_", "-")


@contextlib.contextmanager
def errors_in_options(options: Mapping[str, str]) -> Iterator[None]:
    """Tell errors of the user that are raised inside in options.

    Args:
        options: As for `in_options`.

    Raises:
        OptionError: In place of a ValueError, TypeError, OSError or ImportError.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise OptionError(in_options(str(error), options)) from error


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message of the library, with the options that the user gave in place of arguments.

    Args:
        message: It names arguments where it begins (`steps, epochs: ...`), as `name=value`, or
            anywhere if the name has an underscore.
        options: Name of an argument to option; other names stay.

    Example:
        >>> options = {name: flag(name) for name in ("batch_size", "batch_norm")}
        >>> in_options("batch_size: 1 given; set batch_norm=False", options)
        '--batch-size: 1 given; give --no-batch-norm'
    """
    for phrase, ours in _PHRASES:
        if phrase in message:
            names = re.findall(r"\{(\w+)\}", ours)
            if all(name in options for name in names):
                message = message.replace(phrase, ours.format_map(options))
    message = _LIST.sub(lambda match: match[1].replace("'", ""), message)
    unknown = _UNKNOWN_OPTION.fullmatch(message)
    if unknown and unknown[1] in options:
        return f"{options[unknown[1]]} has no meaning for {unknown[2]}; leave it out"
    head = _HEAD.match(message)
    if head and all(name in options for name in head[1].split(", ")):
        named = ", ".join(options[name] for name in head[1].split(", "))
        message = named + message[head.end() :]
    message = _ASSIGNMENT.sub(lambda match: _assigned(match, options), message)
    message = _COMPOUND.sub(lambda match: options.get(match[1], match[0]), message)
    return re.sub(r"\bset (?=--)", "give ", message)


def _assigned(match: re.Match[str], options: Mapping[str, str]) -> str:
    if match[1] not in options:
        return match[0]
    option, value = options[match[1]], match[2].strip("\"'")
    if value == "True":
        return option
    if value == "False":
        return "--no-" + option.removeprefix("--")
    return f"{option} {value}"

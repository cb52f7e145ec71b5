"""The command line: parse, call the library, print. A user's mistake ends in one line and an exit code. There is one
file per command. No package imports it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper

import fedrobust
from fedrobust.cli.arguments import Parser, refuse_unknown
from fedrobust.errors import ConfigError, UserError

# command → module that has add_arguments(parser) and main(arguments) -> exit code; imported when needed
COMMANDS = {
    "run": ("fedrobust.cli.run", "run a federation: a preset, with any setting as a flag"),
    "central": ("fedrobust.cli.central", "train on all the data in one place: the reference for a federation"),
    "sweep": (
        "fedrobust.cli.sweep",
        "carry out all runs of a study, several at once",
    ),
    "partition": ("fedrobust.cli.partition", "show which client would hold which labels, as a table and a figure"),
    "convex": (
        "fedrobust.cli.convex",
        "train two-layer networks to a proven optimum: certified, attacked and clean accuracy against the radius",
    ),
    "evaluate": (
        "fedrobust.cli.evaluate",
        "measure how robust a model is: strong attacks, the worst case, and warnings",
    ),
    "runs": ("fedrobust.cli.runs", "list runs, their progress and their errors"),
    "pack": ("fedrobust.cli.pack", "write the measurements of runs to a few files, without models"),
    "report": ("fedrobust.cli.report", "summarise runs over their seeds: tables, figures, a page"),
    "certs": (
        "fedrobust.cli.certs",
        "make the keys of a deployment: an authority, the server's certificate, a bundle per client",
    ),
    "deploy": (
        "fedrobust.cli.deploy",
        "carry out a preset's runs on real SuperNodes: submit, follow, and an exit code",
    ),
    "pool": ("fedrobust.cli.pool", "write the shared pool to a file, for clients that hold no public data set"),
    "doctor": (
        "fedrobust.cli.doctor",
        "check whether this machine can be a client of a server, and say what to do if not",
    ),
    "list": ("fedrobust.cli.listing", "list strategies, attacks, models, presets, settings ..."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fedrobust COMMAND ...` and return the exit code: 0 done, 1 the run failed, 2 wrong settings, 130
    interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding has not is shown all the same
    try:
        try:
            return _command(list(sys.argv[1:] if argv is None else argv))
        finally:  # also of `--help`, which ends in SystemExit
            _flush()
    except OSError as raised:
        if isinstance(raised, PermissionError) and raised.filename:
            _complain(f"error: {raised.filename}: {raised.strerror}")
            return 1
        if not (error := _output_error()):
            raise
        if not isinstance(error, BrokenPipeError):  # `| head`: as rich does, for what is printed without it
            _complain(f"error: standard output cannot be written ({error.strerror})")
        return 1


def _command(argv: list[str]) -> int:
    """Parse and carry out the command; return its exit code. If that is not 0, print lines on standard error."""
    parser = Parser(prog="fedrobust", description=(fedrobust.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=fedrobust.__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen, run = parser, None
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if argv[:1] == [name]:
            loaded = import_module(module)
            loaded.add_arguments(sub)
            chosen, run = sub, loaded.main
    if not argv:
        parser.print_help()
        return 2
    try:
        arguments, rest = parser.parse_known_args(argv)
        refuse_unknown(rest, chosen)
        if run is None:
            raise ConfigError(f"no command is given; known: {', '.join(COMMANDS)}")
        return run(arguments)
    except KeyboardInterrupt:  # before there was anything to resume
        _complain("stopped")
        return 130
    except UserError as error:
        for line in str(error).splitlines():
            _complain(f"error: {line}")
        return error.exit_code


def _complain(line: str) -> None:
    """Print a line on standard error; if that is closed, only the exit code reports the error."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def _flush() -> None:
    if sys.stdout:  # None if the shell has closed it
        sys.stdout.flush()


def _output_error() -> OSError | None:
    """Return why standard output cannot be written, or None; unwritten output is then dropped."""
    try:
        print(flush=True)  # unbuffered, what could not be written is forgotten
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        return error
    return None

"""`fedrobust central`: train a preset's model with all the data in one place, displayed and recorded like any run."""

from __future__ import annotations

import argparse

from fedrobust.cli.arguments import given_settings
from fedrobust.cli.run import add_run_arguments, carry_out
from fedrobust.presets import preset_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust central`."""
    parser.usage = (
        "fedrobust central PRESET [--tensorboard] [--mlflow [URI]] [--SETTING VALUE ...]\n"
        "       fedrobust central --resume FOLDER"
    )
    add_run_arguments(parser, preset_names("central"))
    parser.set_defaults(engine="auto")


def main(arguments: argparse.Namespace) -> int:
    """Run, and end with a short table and the folder's path; a federated preset is also trained centrally."""
    settings = given_settings(arguments)
    return carry_out(arguments, settings if arguments.resume else {**settings, "kind": "central"})

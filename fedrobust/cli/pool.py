"""`fedrobust pool`: write the shared pool of a run to a file, for clients that hold no public data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedrobust.cli.arguments import add_settings, complete, given_settings
from fedrobust.errors import ConfigError
from fedrobust.storage.files import writing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust pool`."""
    parser.usage = "fedrobust pool [PRESET] --out FILE [--SETTING VALUE ...]"
    parser.add_argument("preset", nargs="?", default="", help="preset with the settings to start from [the defaults]")
    parser.add_argument("--out", type=Path, required=True, help="file to write, ending in .safetensors")
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Write the pool; print its size."""
    from fedrobust.data import Split, load_data
    from fedrobust.data.own import save_pool
    from fedrobust.data.split import make_split

    out = arguments.out
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: must end in .safetensors")
    cfg = complete(arguments.preset, given_settings(arguments))
    if not cfg.pool.fraction:
        raise ConfigError("pool.fraction = 0: there is no pool; set pool.fraction above 0, at most 0.4")
    train = load_data(cfg.data).train
    chosen = make_split(cfg.replace(data__own=True), train.labels).pool
    with writing(f"--out {out}"):
        save_pool(out, cfg, Split(train.images[chosen], train.labels[chosen]))
    size = out.stat().st_size / 2**20
    print(f"wrote {out}: {len(chosen)} raw images of {cfg.data.name}, {size:.1f} MiB")
    return 0

"""The folder of an evaluation: intermediate results, complete at every moment, so an interruption loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation.verdicts import ROBUST
from fedrobust.storage.files import read_json, write_atomically, writing


@dataclass
class AttackState:
    """The progress of one attack.

    `verdicts`: int16 [n], see `evaluation.verdicts`; `steps`: number of batches done; `seconds`: time spent so far.
    """

    verdicts: np.ndarray
    steps: int = 0
    seconds: float = 0.0
    complete: bool = False

    @property
    def stands(self) -> np.ndarray:
        """Mask of the images that are classified correctly without and under the attack, bool [n]."""
        return self.verdicts == ROBUST


class EvaluationFolder:
    """The files of an evaluation: settings.json, a file per attack below attacks/, and examples.npy with one
    adversarial example per image.

    An example is the first one of the suite that succeeded on its image, or the last attempt if none did.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], num_images: int, image_shape: tuple[int, ...]) -> None:
        """Open a folder, or resume from its content.

        Raises:
            ConfigError: it holds an evaluation with other settings.
            RunFailed: it cannot be written, or its settings are damaged.
        """
        self.path = path
        self._check(settings)
        with writing(path, "name another folder"):
            (path / "attacks").mkdir(parents=True, exist_ok=True)
            write_atomically(path / "settings.json", (json.dumps(dict(settings), indent=2) + "\n").encode())
            file, shape = path / "examples.npy", (num_images, *image_shape)
            if not file.exists():
                np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape).flush()
            self.examples = np.lib.format.open_memmap(file, mode="r+")

    def _check(self, settings: Mapping[str, Any]) -> None:
        path = self.path / "settings.json"
        if not path.exists():
            return
        found = read_json(path)
        for key, value in settings.items():
            if found.get(key) != value:
                there = f"{self.path}: holds an evaluation with {key} = {found.get(key)}"
                raise ConfigError(f"{there}, not {value}; name another folder with --out")

    def attack(self, name: str) -> AttackState | None:
        """Return the progress of an attack; None if it has not begun. Raise RunFailed for a corrupt file."""
        path = self._file(name)
        if not path.exists():
            return None
        try:
            with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
                verdicts = file["verdicts"]
                steps, seconds, complete = int(file["steps"]), float(file["seconds"]), bool(file["complete"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise RunFailed(f"{path}: corrupt ({error}); remove it and run again") from error
        return AttackState(verdicts, steps, seconds, complete)

    def save(self, name: str, state: AttackState) -> None:
        """Write the progress of an attack, the examples first."""
        self.examples.flush()
        buffer = BytesIO()
        np.savez(buffer, verdicts=state.verdicts, steps=state.steps, seconds=state.seconds, complete=state.complete)
        write_atomically(self._file(name), buffer.getvalue())

    def _file(self, name: str) -> Path:
        return self.path / "attacks" / f"{name.replace('/', 'of')}.npz"

"""A checkpoint: everything a run needs to resume from a round, in one file that is complete or absent.

The file is a safetensors file (no pickle: nothing in it is ever executed). Its metadata has the scalars and a digest
over the whole content, so that a truncated or bit-flipped file is reported as corrupt and never loaded. Random streams
are derived from the seed and the round (`fedrobust.seeding`), so the seed is their whole state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedrobust.errors import RunFailed
from fedrobust.storage.files import write_atomically

Arrays = dict[str, np.ndarray]
Fact = str | int | float | list[float]
FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """The scalars of a checkpoint."""

    server_round: int
    seed: int
    best_round: int
    best_score: float
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of each metrics file that belong to the rounds so far; bytes after this offset were written by an
    interrupted round.
    """
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a round: last and best global model, the state of the strategy or of a central run's
    optimiser, each client's `context.state` (protobuf), and progress.
    """

    progress: Progress
    last: Arrays
    best: Arrays
    state: Arrays = field(default_factory=dict)
    clients: dict[int, bytes] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically. If the best model is the last one, it is stored once."""
    groups = {"last": checkpoint.last, "strategy": checkpoint.state}
    if checkpoint.best is not checkpoint.last:
        groups["best"] = checkpoint.best
    groups["client"] = {str(k): np.frombuffer(v, np.uint8) for k, v in checkpoint.clients.items()}
    tensors = {f"{group}/{key}": array for group, arrays in groups.items() for key, array in arrays.items()}
    _write(path, tensors, json.dumps(asdict(checkpoint.progress)))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        RunFailed: the file is missing, corrupt, or of another format.
    """
    tensors, text = _read(path)
    facts = json.loads(text)
    if facts.get("format") != FORMAT:
        raise RunFailed(f"{path}: not a checkpoint of format {FORMAT} (its format: {facts.get('format')})")
    progress = Progress(**facts)
    groups: dict[str, Arrays] = {"last": {}, "best": {}, "strategy": {}, "client": {}}
    for name, array in tensors.items():
        group, key = name.split("/", 1)
        groups[group][key] = array
    clients = {int(key): array.tobytes() for key, array in groups["client"].items()}
    return Checkpoint(progress, groups["last"], groups["best"] or groups["last"], groups["strategy"], clients)


def save_model(path: Path, arrays: Arrays, **facts: Fact) -> None:
    """Write a model's weights with a few facts about it (round, model name, mean and std), atomically.

    Equal weights and facts give equal bytes.
    """
    _write(path, arrays, json.dumps(facts))


def load_model(path: Path, *, foreign: bool = False) -> tuple[Arrays, dict[str, Fact]]:
    """Return weights and facts of `save_model`; with `foreign` also of a safetensors file by another program, without
    facts.

    Raises:
        RunFailed: the file is missing or corrupt.
    """
    tensors, text = _read(path, foreign=foreign)
    return tensors, json.loads(text)


def _write(path: Path, tensors: Arrays, text: str) -> None:
    # not ascontiguousarray: it gives an array without axes, such as batch norm's counter, one
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_atomically(
        path,
        _with_metadata(save(tensors), {"digest": _digest(tensors, text), "fedrobust": text}),
    )


def _with_metadata(data: bytes, metadata: dict[str, str]) -> bytes:
    """Return a safetensors file with this metadata, in this order: the library writes it in a new order each time."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(data[8:begin])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # as the format wants it: tensors begin at a multiple of 8
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(data)[begin:]))


def as_array(tensor: Any) -> np.ndarray:
    """Return a PyTorch tensor as an array, in float32 if NumPy does not know its type, such as bfloat16; return an
    array unchanged.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.float().numpy()


def _read(path: Path, *, foreign: bool = False) -> tuple[Arrays, str]:
    if not path.exists():
        raise RunFailed(f"{path}: no such file")
    try:
        with safe_open(path, "pt" if foreign else "np") as file:
            metadata = file.metadata() or {}
            tensors = {name: as_array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (SafetensorError, OSError, ValueError) as error:
        raise RunFailed(f"{path}: corrupt or not a safetensors file ({error}); not loaded") from error
    text = metadata.get("fedrobust")
    if text is None and foreign:
        return tensors, "{}"
    if text is None or metadata.get("digest") is None:
        raise RunFailed(f"{path}: not a file of fedrobust's (no digest in its metadata); not loaded")
    if metadata["digest"] != _digest(tensors, text):
        raise RunFailed(f"{path}: corrupt (its digest does not match); not loaded")
    return tensors, text


def _digest(tensors: Arrays, text: str) -> str:
    return weights_digest(dict(sorted(tensors.items())), text)


def weights_digest(weights: Mapping[str, Any], text: str = "") -> str:
    """Compute a digest of arrays or PyTorch tensors, in their order: names, types, shapes and bytes, after `text`."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, value in weights.items():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        if not isinstance(value, np.ndarray):
            import torch  # a tensor is there, so it is loaded; as bytes, because NumPy does not know bfloat16

            value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(np.asarray(value, order="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()

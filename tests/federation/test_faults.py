"""Clients that fail or poison, and a run in which all do."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from clients.app import app
from fedrobust.errors import RunFailed
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder
from strategies.federation import absentees


def but_client(partition, misbehave):
    """The ClientApp, but what this client does when it is to train."""

    def client(message, context):
        if context.node_config["partition-id"] == partition and message.metadata.message_type == "train":
            return misbehave(message, context)
        return app(message, context)

    return client


def fail(message, context):
    raise RuntimeError("out of memory")


def poison(message, context):
    reply = app(message, context)
    arrays = {key: array.numpy() for key, array in reply.content["arrays"].items()}
    arrays["network.linear.bias"] = arrays["network.linear.bias"] * np.float32(np.nan)
    reply.content["arrays"] = ArrayRecord({key: Array(array) for key, array in arrays.items()})
    return reply


@pytest.mark.parametrize(
    ("misbehave", "status", "reason"),
    [
        (fail, "failed", "RuntimeError: out of memory"),
        (poison, "rejected", "array 'network.linear.bias' holds NaN"),
    ],
)
def test_the_others_go_on_without_a_client(quick, federate, misbehave, status, reason):
    folder = federate(quick(num_rounds=1), but_client(1, misbehave))
    (row,) = folder.read("rounds.jsonl")
    assert (row["ok"], row[status], folder.record()[status]) == (2, 1, 1)
    (client,) = [c for c in folder.read("clients.jsonl") if c["phase"] == "train" and c["client"] == 1]
    assert (client["status"], reason in client["reason"]) == (status, True)
    assert all(np.isfinite(array).all() for array in load_model(folder.last)[0].values())
    (warning,) = folder.record()["warnings"]
    assert warning == (
        f"client 1: no usable update in 1 of the 1 rounds it was asked in ({status}: {client['reason']})"
    )


def test_who_is_missed_in_half_of_the_rounds_is_named():
    def rows(client, phase, *answers):
        return [
            {"client": client, "phase": phase, "status": "failed" if why else "ok", **({"reason": why} if why else {})}
            for why in answers
        ]

    found = absentees(
        [
            *rows(0, "train", "", "", ""),
            *rows(2, "train", "x", "y\nand more", ""),
            *rows(2, "evaluate", "z", "z", "z"),
            *rows(3, "train", "x", "", ""),
            *rows(3, "evaluate", "", "z"),
            *rows(1, "train", "out of luck"),
        ]
    )
    assert found == [
        "client 1: no usable update in 1 of the 1 rounds it was asked in (failed: out of luck)",
        "client 2: no usable update in 2 of the 3 rounds it was asked in (failed: y)",
        "client 3: no usable evaluation in 1 of the 2 rounds it was asked in (failed: z)",
    ]


def test_when_every_client_fails_the_run_fails_with_the_reason(quick, federate):
    cfg = quick(local__learning_rate=1e20)
    with pytest.raises(RunFailed, match=r"round 1: 0 usable updates of 3 clients.*client 0 failed: FloatingPointError"):
        federate(cfg)
    folder = RunFolder(cfg.run_dir)
    assert folder.record()["state"] == "failed"
    assert "lower local.learning-rate" in folder.record()["error"]
    assert not folder.last.exists()
    assert not folder.checkpoint.exists()

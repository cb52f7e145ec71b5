"""All settings of a run, defined once: typed, frozen, validated, and flat for Flower.

A setting is one field here. Its flat key (`local.learning-rate`) is what presets, flags, `--run-config` and
`[tool.flwr.app.config]` all write; after adding one, `make config` rewrites the table in pyproject.toml.
Names from a registry (strategy, attack ...) are checked by `fedrobust.running.preflight.check_names`, because
some of those registries lie in packages that import this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from fedrobust.config.flat import FlatValue, Ratio, Section, nest, one_line, set_keys, walk
from fedrobust.config.names import split_list
from fedrobust.errors import ConfigError

WORST_CASE = "worst-case"  # all attacks of a suite of more than one: an image stands if none of them broke it

# A radius in [0, 1] pixel units, written "8/255"; "" if the field may be unset.
Radius = Annotated[Ratio, BeforeValidator(Ratio)]
Fraction01 = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Data(Section, frozen=True):
    name: str = Field(
        default="digits", description="data set that the run trains and evaluates on (names: `fedrobust list datasets`)"
    )
    dir: str = Field(
        default="",
        description="folder with the data set in the Hub's parquet layout (unset: the folder in "
        "FEDROBUST_DATA; without that, a download)",
    )
    classes: str = Field(
        default="",
        description="classes to keep, by name or number, separated by commas, such as 3,8 or cat,dog (unset: "
        "all classes)",
    )
    own: bool = Field(
        default=False,
        description="clients train on images of their own, each in the folder that its FEDROBUST_OWN names "
        "(real machines only)",
    )
    train_images: int = Field(
        default=0, ge=0, description="number of training images to keep, drawn with equal class counts (0 = all)"
    )
    test_images: int = Field(
        default=0, ge=0, description="number of test images to keep, drawn with equal class counts (0 = all)"
    )
    validation_fraction: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="share of the training images that the server holds out to choose the best round, 0 to "
        "0.5 (0 = none; the last round is then the best)",
    )


class Partition(Section, frozen=True):
    scheme: str = Field(
        default="dirichlet",
        description="how the training images are divided among the clients (names: `fedrobust list partitions`)",
    )
    concentration: float = Field(
        default=0.5,
        gt=0,
        description="concentration of the Dirichlet distribution, above 0; smaller values skew the labels "
        "more (dirichlet schemes)",
    )
    min_samples: int = Field(
        default=10, ge=1, description="fewest training images that a client may hold, at least 1 (dirichlet schemes)"
    )
    classes_per_client: int = Field(
        default=2,
        ge=1,
        description="number of classes per client, at least 1 (shards) or of its dominant classes (dominant)",
    )
    dominant_share: float = Field(
        default=0.92,
        gt=0,
        le=1,
        description="share of a class's images that the clients dominant in it hold, above 0, at most 1 (dominant)",
    )
    held_out: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="share of each client's own images held out for the client's evaluation, 0 to 0.5",
    )
    legacy_seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of NumPy's RandomState for the partition, as published splits use it; CalFAT: 2021 "
        "with dirichlet-balanced (0 = a stream of the run's seed)",
    )


class Pool(Section, frozen=True):
    fraction: float = Field(
        default=0.0,
        ge=0,
        le=0.4,
        description="size of the shared pool as a share of the whole training set, 0 to 0.4 (0 = no pool)",
    )
    share: float = Field(
        default=1.0, gt=0, le=1, description="share of the pool that each client receives, above 0, at most 1"
    )
    mode: Literal["add", "replace", "control"] = Field(
        default="add",
        description="what a client does with its share: add it to its own images, replace own images by it, "
        "or ignore it and draw as many of its own images again (control)",
    )


class Model(Section, frozen=True):
    name: str = Field(default="small-cnn", description="architecture of the model (names: `fedrobust list models`)")
    activation: str = Field(
        default="relu", description="activation function of the model (names: `fedrobust list activations`)"
    )
    activation_alpha: float = Field(
        default=0.0,
        ge=0,
        description="α of the activation function (0 = the activation's default; refused for activations without α)",
    )
    backward_activation: str = Field(
        default="",
        description="smooth activation whose derivative replaces that of relu in the backward pass (unset: "
        "the derivative of relu)",
    )
    backward_phase: Literal["attack", "update", "both"] = Field(
        default="both",
        description="when the derivative of model.backward-activation is used: while attacking, while "
        "updating the weights, or both",
    )
    width: float = Field(
        default=1.0,
        gt=0,
        le=16,
        description="factor on the number of channels of every layer, above 0, at most 16 (residual networks)",
    )
    input_size: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="side in pixels that images are resized to inside the model, at most 1024 (0 = no resizing)",
    )


class Objective(Section, frozen=True):
    name: str = Field(
        default="",
        description="training objective (names: `fedrobust list objectives`; unset: the default of the strategy)",
    )
    trades_beta: float = Field(default=6.0, ge=0, description="β, the weight of TRADES' KL term, at least 0 (trades)")
    adversarial_fraction: Fraction01 = Field(
        default=0.5, description="share of each batch that is attacked, 0 to 1 (mixed)"
    )
    temperature: float = Field(
        default=0.1, ge=0, description="τ of CalFAT, the factor on the log class counts, at least 0 (calfat)"
    )
    scale: float = Field(
        default=10.0, gt=0, description="s of CalFAT, the factor on the calibrated logits, above 0 (calfat)"
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability mass spread evenly over all classes, 0 to below 1 (natural, at, mixed, trades)",
    )
    noise_sigma: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="standard deviation of the Gaussian noise added to the natural part of a batch, 0 to 1, "
        "with pixels in [0, 1] (mixed)",
    )
    awp_gamma: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="γ of adversarial weight perturbation: the norm of each layer's perturbation relative to "
        "its weights, 0 to below 1 (0 = none)",
    )
    attack_mode: Literal["eval", "train"] = Field(
        default="eval",
        description="mode of the model while it is attacked during training: eval (running batch statistics) "
        "or train (those of the batch)",
    )


class Attack(Section, frozen=True):
    name: str = Field(
        default="pgd", description="attack that makes the training examples (names: `fedrobust list attacks`)"
    )
    epsilon: Radius = Field(
        default=Ratio("8/255"),
        description="radius of the perturbation, at least 0, with pixels in [0, 1], such as 8/255; at most 1 for linf",
        ge=0,
    )
    norm: Literal["linf", "l2"] = Field(default="linf", description="norm that bounds the perturbation: linf or l2")
    step_size: Radius = Field(
        default=Ratio("2/255"),
        description="step size of the training attack, above 0, with pixels in [0, 1], such as 2/255",
        gt=0,
    )
    steps: int = Field(default=10, ge=1, description="steps of the training attack, at least 1")
    restarts: Count = Field(
        default=1, description="runs of the training attack, at least 1; the strongest example is kept"
    )
    random_start: Literal["zero", "uniform", "gaussian", "n-fgsm"] = Field(
        default="uniform",
        description="starting point of the training attack: the image (zero), a uniform or Gaussian draw, or "
        "N-FGSM's noise (fgsm only)",
    )


class Local(Section, frozen=True):
    epochs: int = Field(default=1, ge=1, description="passes over a client's training images per round, at least 1")
    steps: int = Field(default=0, ge=0, description="training steps per round (0 = count epochs instead)")
    batch_size: Count = Field(default=128, description="training batch size in images, at least 1")
    learning_rate: float = Field(default=0.01, gt=0, description="SGD learning rate, above 0")
    momentum: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="SGD momentum, 0 to below 1; the buffer starts at zero in each round of a federation",
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="SGD weight decay, at least 0")
    augment: bool = Field(
        default=True, description="augment the training images as the data set prescribes (CIFAR: random crop and flip)"
    )


class Central(Section, frozen=True):
    images: Literal["all", "pool"] = Field(
        default="all",
        description="training images of a central run: all except the validation slice, or only the shared "
        "pool (pool.fraction)",
    )
    schedule: Literal["constant", "piecewise", "cosine", "cyclic"] = Field(
        default="constant", description="learning rate schedule, applied step by step over the whole run"
    )
    milestones: str = Field(
        default="0.5,0.75",
        description="piecewise schedule: shares of the run after which the learning rate falls, ascending "
        "between 0 and 1, separated by commas",
    )
    decay: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="piecewise schedule: factor applied to the learning rate at each milestone, between 0 and 1",
    )
    peak: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="cyclic schedule: share of the run at which the learning rate reaches "
        "local.learning-rate, between 0 and 1",
    )
    average: Literal["none", "ema", "swa"] = Field(
        default="none",
        description="average of the weights that becomes the model: exponential after each step (ema), plain "
        "after each round (swa), or none",
    )
    average_decay: float = Field(
        default=0.999, gt=0, lt=1, description="ema: weight of the old average at each step, between 0 and 1"
    )
    average_start: Fraction01 = Field(default=0.0, description="share of the run before averaging begins, 0 to 1")
    awp_start: Fraction01 = Field(
        default=0.0, description="share of the run before objective.awp-gamma takes effect, 0 to 1"
    )
    patience: int = Field(
        default=0, ge=0, description="rounds without a better validation score after which the run stops (0 = never)"
    )
    overfitting: Literal["warn", "stop", "ignore"] = Field(
        default="warn",
        description="action on catastrophic overfitting (PGD-5 training accuracy falls by more than 20 points)",
    )

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, milestones: str) -> str:
        try:
            shares = [float(share) for share in split_list(milestones)]
        except ValueError:
            shares = [math.nan]
        if not all(low < high for low, high in pairwise([0.0, *shares, 1.0])):
            raise ValueError("must be ascending shares between 0 and 1, such as 0.5,0.75")
        return milestones


class Strategy(Section, frozen=True):
    name: str = Field(
        default="fedavg", description="aggregation strategy of the server (names: `fedrobust list strategies`)"
    )
    fraction_train: float = Field(
        default=1.0, gt=0, le=1, description="share of the clients that train in each round, above 0, at most 1"
    )
    fraction_evaluate: Fraction01 = Field(
        default=1.0, description="share of the clients that take part in an evaluation by clients, 0 to 1"
    )
    min_replies: Count = Field(
        default=1, description="fewest accepted updates per round, at least 1; with fewer the run ends with an error"
    )
    timeout: float = Field(
        default=3600.0,
        gt=0,
        description="seconds to wait for the clients' replies in one phase, training or evaluation, above 0",
    )
    min_clients: int = Field(default=0, ge=0, description="fewest SuperNodes with which a run begins (0 = num-clients)")
    node_timeout: float = Field(default=60.0, gt=0, description="seconds to wait for missing SuperNodes, above 0")
    proximal_mu: float = Field(
        default=0.01,
        ge=0,
        description="μ of FedProx, the weight of the distance to the global model, at least 0 (0 = FedAvg)",
    )
    trim_fraction: float = Field(
        default=0.2, ge=0, lt=0.5, description="share of the values cut from each end, 0 to below 0.5 (trimmed-mean)"
    )
    num_malicious: int = Field(default=1, ge=0, description="number of clients assumed malicious, at least 0 (krum)")


class Evaluation(Section, frozen=True):
    every: int = Field(
        default=1, ge=0, description="rounds between two evaluations on the server (0 = only after the last round)"
    )
    probe_images: int = Field(
        default=0,
        ge=0,
        description="number of a client's training images on which it measures, after its training, the natural and "
        "adversarial accuracy that its objective does not compute; 0 measures neither",
    )
    clients_every: int = Field(
        default=0, ge=0, description="rounds between two evaluations by the clients (0 = only after the last round)"
    )
    attacks: str = Field(
        default="fgsm,pgd-20",
        description="evaluation attacks within attack.epsilon, separated by commas, such as fgsm,pgd-20 "
        "(names: `fedrobust list suite`)",
    )
    select_by: str = Field(
        default="pgd-20",
        description="accuracy that chooses the best round: one of evaluation.attacks, worst-case (with "
        "several attacks) or natural",
    )
    step_size: Radius = Field(
        default=Ratio("2/255"),
        description="step size of the evaluation's iterated attacks (PGD, BIM, MIM), above 0, with pixels in [0, 1]",
        gt=0,
    )
    validation_images: int = Field(
        default=0, ge=0, description="number of validation images evaluated per round (0 = all)"
    )
    test_images: int = Field(
        default=0,
        ge=0,
        description="number of test images evaluated per round (0 = the test set is evaluated only at the end)",
    )
    batch_size: Count = Field(default=500, description="evaluation batch size in images, at least 1")


class Workers(Section, frozen=True):
    num: int = Field(
        default=0,
        ge=0,
        description="number of clients that train at once under engines ray and flwr (0 = as many as fit the machine)",
    )
    threads: int = Field(
        default=0, ge=0, description="CPU threads per client (0 = the cores divided by the clients at once)"
    )
    num_gpus: float = Field(
        default=0.0,
        ge=0,
        description="GPUs per client, may be a fraction (0 = the CUDA devices, if there are any, are shared evenly)",
    )
    address: str = Field(
        default="", description="address of the Ray cluster to join (unset: a private cluster on this machine)"
    )


class RunConfig(Section, frozen=True):
    """The complete settings of one run: a frozen tree of sections, checked when it is made.

    Each field's description has its unit and its limits; `fedrobust list settings` prints them. `to_flat` and
    `from_flat` are inverse.
    """

    kind: Literal["federated", "central"] = Field(
        default="federated",
        description="federated (clients and a server) or central (one model trained on all the data by "
        "fedrobust central)",
    )
    num_clients: int = Field(
        default=5, ge=1, le=100_000, description="number of clients, 1 to 100,000; equal to the number of SuperNodes"
    )
    num_rounds: int = Field(
        default=10,
        ge=1,
        description="number of communication rounds, at least 1; in a central run a round is local.epochs "
        "passes over the data",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="seed from which every random stream of the run is derived, at least 0"
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="device that computes: auto, cpu, cuda, cuda:N or mps",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="number format of the forward and backward pass; auto is float32, or bfloat16 for models and "
        "objectives that were measured to be as accurate with it",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="on CUDA, capture the training step in CUDA graphs; false runs it operation by operation",
    )
    init: str = Field(
        default="",
        description="initial weights: the folder of a run (its best model) or a safetensors file (unset: "
        "random weights)",
    )
    run_dir: str = Field(default="", description="folder that the run writes (unset: a new folder in runs/)")
    resume: bool = Field(default=False, description="resume the run from the checkpoint in run-dir")
    data: Data = Data()
    partition: Partition = Partition()
    pool: Pool = Pool()
    model: Model = Model()
    objective: Objective = Objective()
    attack: Attack = Attack()
    local: Local = Local()
    central: Central = Central()
    strategy: Strategy = Strategy()
    evaluation: Evaluation = Evaluation()
    workers: Workers = Workers()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Check settings that depend on each other."""
        if self.attack.norm == "linf" and self.attack.epsilon > 1:
            raise ValueError(
                f"attack.epsilon = {self.attack.epsilon}: must be at most 1 for linf (pixels lie in [0, 1]; "
                "write 8/255, not 8)"
            )
        if self.attack.random_start == "n-fgsm" and self.attack.name != "fgsm":
            raise ValueError("attack.random-start = 'n-fgsm': allowed only with attack.name fgsm")
        if self.data.own and self.data.classes:
            raise ValueError(f"data.classes = {self.data.classes!r}: cannot be combined with data.own; leave it unset")
        if self.kind == "central" and (self.central.images == "pool") != (self.pool.fraction > 0):
            raise ValueError(
                f"pool.fraction = {self.pool.fraction:g}, central.images = {self.central.images!r}: a central run uses "
                "all the data and no pool, or only the pool (central.images pool, pool.fraction above 0)"
            )
        if self.central.patience and not self.data.validation_fraction:
            raise ValueError(
                f"central.patience = {self.central.patience}: needs validation images; set data.validation-fraction "
                "above 0, or central.patience 0"
            )
        if self.kind == "central" and self.strategy.name != "fedavg":
            raise ValueError(f"strategy.name = {self.strategy.name!r}: a central run uses no strategy; leave it unset")
        return self

    @property
    def given(self) -> frozenset[str]:
        """The flat keys that were set when this config was made; empty for a complete config, which no user typed."""
        keys = frozenset(set_keys(self))
        return frozenset() if keys == FIELDS.keys() else keys

    def to_flat(self) -> dict[str, FlatValue]:
        """Return flat scalars by kebab-case key, as Flower's run config takes them."""
        flat: dict[str, FlatValue] = {}
        for key, _, value in walk(self):
            flat[key] = str(value) if isinstance(value, Ratio) else value
        return flat

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> RunConfig:
        """Return the config with these keys set and all others at their defaults.

        Raises:
            ConfigError: one line per unknown key (with the nearest known one) and per value out of range.
        """
        try:
            return cls.model_validate(nest(flat, FIELDS))
        except ValidationError as error:
            raise ConfigError("\n".join(map(one_line, error.errors()))) from error

    def replace(self, **flat: FlatValue) -> RunConfig:
        """Return a copy with some flat keys changed; a key is written with `__` for "." and `_` for "-"."""
        changes = {key.replace("__", ".").replace("_", "-"): value for key, value in flat.items()}
        return RunConfig.from_flat(self.to_flat() | changes)


DEFAULTS = RunConfig.model_validate({})
FIELDS: dict[str, Any] = {key: field for key, field, _ in walk(DEFAULTS)}

RENAMED = {"strategy.patience": "strategy.node-timeout"}
"""Flat keys of earlier versions, with their names today."""


def todays_meaning(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a config that an earlier version wrote, converted to their current meaning.

    Settings in RENAMED had other names. Before `partition.legacy-seed` was introduced, `pool.fraction` was a share of
    the training set without the validation slice; now it is a share of the whole training set. An equal pool has a
    smaller number now: 0.4 beside a slice of 0.1 is 0.36.
    """
    flat = {RENAMED.get(key, key): value for key, value in flat.items()}
    if "partition.legacy-seed" in flat or not flat.get("pool.fraction"):
        return flat
    validation = flat.get("data.validation-fraction", DEFAULTS.data.validation_fraction)
    return flat | {"pool.fraction": round(flat["pool.fraction"] * (1 - validation), 12)}

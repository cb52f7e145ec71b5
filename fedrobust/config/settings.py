"""Every setting of a run, once: typed, frozen, validated, and flat for Flower.

A setting is one field here. Its flat key (`local.learning-rate`) is what presets, flags, `--run-config` and
`[tool.flwr.app.config]` all write; after adding one, `make config` rewrites the table in pyproject.toml.
Names from a registry (strategy, attack ...) are checked by `fedrobust.running.preflight.check_names`, because
some of those registries lie in the layers above.
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

# A radius in [0, 1] pixel units, written "8/255"; "" where the field may be unset.
Radius = Annotated[Ratio, BeforeValidator(Ratio)]
Fraction01 = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Data(Section, frozen=True):
    name: str = Field(default="digits", description="data set: see `fedrobust list datasets`")
    dir: str = Field(
        default="", description="folder in the Hub's parquet layout; unset: FEDROBUST_DATA, else a download"
    )
    classes: str = Field(
        default="", description="of the data set that are kept, by name or number, such as 3,8 or cat,dog; unset: all"
    )
    own: bool = Field(
        default=False, description="clients train on folders of their own (real machines): FEDROBUST_OWN on each"
    )
    train_images: int = Field(default=0, ge=0, description="class-balanced subset of the training images; 0 takes all")
    test_images: int = Field(default=0, ge=0, description="class-balanced subset of the test images; 0 takes all")
    validation_fraction: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="share of the training images held out on the server to choose the best round; 0: the best round "
        "is the last",
    )


class Partition(Section, frozen=True):
    scheme: str = Field(default="dirichlet", description="how labels are spread: see `fedrobust list partitions`")
    concentration: float = Field(default=0.5, gt=0, description="Dirichlet parameter; small is skewed")
    min_samples: int = Field(default=10, ge=1, description="fewest images of a client (dirichlet schemes)")
    classes_per_client: int = Field(default=2, ge=1, description="classes of a client (shards, dominant)")
    dominant_share: float = Field(
        default=0.92, gt=0, le=1, description="part of a client's data in those classes (dominant)"
    )
    held_out: float = Field(
        default=0.1, ge=0, le=0.5, description="part of each client's own images kept for its own evaluation"
    )
    legacy_seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of NumPy's RandomState for the partition, as published splits use it (CalFAT: 2021 with "
        "dirichlet-balanced); 0: a stream of the run's seed",
    )


class Pool(Section, frozen=True):
    fraction: float = Field(
        default=0.0, ge=0, le=0.4, description="pool size as a share of the whole training set, 0 to 0.4"
    )
    share: float = Field(default=1.0, gt=0, le=1, description="part of the pool that each client gets")
    mode: Literal["add", "replace", "control"] = Field(
        default="add", description="add the pool, replace own images by it, or as many own images again (control)"
    )


class Model(Section, frozen=True):
    name: str = Field(default="small-cnn", description="see `fedrobust list models`")
    activation: str = Field(default="relu", description="see `fedrobust list activations`")
    activation_alpha: float = Field(default=0.0, ge=0, description="its parameter, where it takes one; 0: its own")
    backward_activation: str = Field(
        default="", description="for relu: a smooth activation whose derivative the backward pass takes; unset: relu's"
    )
    backward_phase: Literal["attack", "update", "both"] = Field(default="both", description="where it does")
    width: float = Field(default=1.0, gt=0, le=16, description="residual networks: times as many channels everywhere")
    input_size: int = Field(
        default=0, ge=0, le=1024, description="side that images are resized to inside the model; 0: theirs"
    )

    def shape(self) -> dict[str, Any]:
        """What `fedrobust.models.build_model` is told beside a name: of activations, width and size of images."""
        return {**self.activations(), "width": self.width, "input_size": self.input_size}

    def activations(self) -> dict[str, Any]:
        """What `fedrobust.models.activation_maker` is told of them."""
        return {
            "activation": self.activation,
            "alpha": self.activation_alpha or None,
            "backward": self.backward_activation,
            "phase": self.backward_phase,
        }


class Objective(Section, frozen=True):
    name: str = Field(default="", description="see `fedrobust list objectives`; unset: the strategy's own")
    trades_beta: float = Field(default=6.0, ge=0, description="weight of TRADES' KL term")
    adversarial_fraction: Fraction01 = Field(default=0.5, description="adversarial part of a batch (mixed)")
    temperature: float = Field(default=0.1, ge=0, description="CalFAT's tau, on the log class counts")
    scale: float = Field(default=10.0, gt=0, description="CalFAT's s, on the calibrated logits")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="soft labels (natural, at, mixed, trades)")
    noise_sigma: float = Field(
        default=0.0, ge=0, le=1, description="Gaussian noise on the natural part of a batch, in pixel units (mixed)"
    )
    awp_gamma: float = Field(
        default=0.0, ge=0, lt=1, description="adversarial weight perturbation over the layer's norm; 0: none"
    )
    attack_mode: Literal["eval", "train"] = Field(default="eval", description="the model's mode while it is attacked")


class Attack(Section, frozen=True):
    name: str = Field(default="pgd", description="training attack: see `fedrobust list attacks`")
    epsilon: Radius = Field(default=Ratio("8/255"), description="radius, in units where pixels lie in [0, 1]", ge=0)
    norm: Literal["linf", "l2"] = Field(default="linf", description="of the ball")
    step_size: Radius = Field(default=Ratio("2/255"), description="of one PGD step", gt=0)
    steps: int = Field(default=10, ge=1, description="PGD steps")
    restarts: Count = Field(default=1, description="PGD restarts; the strongest is kept")
    random_start: Literal["zero", "uniform", "gaussian", "n-fgsm"] = Field(
        default="uniform", description="where the attack begins; n-fgsm for FGSM only"
    )


class Local(Section, frozen=True):
    epochs: int = Field(default=1, ge=1, description="passes over a client's data per round")
    steps: int = Field(default=0, ge=0, description="steps per round instead of epochs; 0: epochs count")
    batch_size: Count = Field(default=128, description="images")
    learning_rate: float = Field(default=0.01, gt=0, description="of SGD")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD, fresh each round")
    weight_decay: float = Field(default=5e-4, ge=0, description="of SGD")
    augment: bool = Field(default=True, description="the data set's augmentation (CIFAR: random crop and flip)")


class Central(Section, frozen=True):
    images: Literal["all", "pool"] = Field(
        default="all", description="trained on: all but the validation slice, or the shared pool alone (pool.fraction)"
    )
    schedule: Literal["constant", "piecewise", "cosine", "cyclic"] = Field(
        default="constant", description="of the learning rate, step by step over the whole run"
    )
    milestones: str = Field(
        default="0.5,0.75", description="piecewise: comma-separated shares of the run after which the rate falls"
    )
    decay: float = Field(default=0.1, gt=0, lt=1, description="piecewise: what it is multiplied by there")
    peak: float = Field(default=0.4, gt=0, lt=1, description="cyclic: share of the run at which the rate is reached")
    average: Literal["none", "ema", "swa"] = Field(
        default="none", description="the model is the average of the weights: exponential per step, plain per epoch"
    )
    average_decay: float = Field(default=0.999, gt=0, lt=1, description="ema: weight of the average at each step")
    average_start: Fraction01 = Field(default=0.0, description="share of the run before averaging begins")
    awp_start: Fraction01 = Field(default=0.0, description="share of the run before objective.awp-gamma counts")
    patience: int = Field(default=0, ge=0, description="rounds without a better score that end the run; 0: none do")
    overfitting: Literal["warn", "stop", "ignore"] = Field(
        default="warn", description="what a fall of PGD-5 accuracy on training images by over 20 points does"
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
    name: str = Field(default="fedavg", description="see `fedrobust list strategies`")
    fraction_train: float = Field(default=1.0, gt=0, le=1, description="clients that train per round")
    fraction_evaluate: Fraction01 = Field(default=1.0, description="clients that evaluate, when they do")
    min_replies: Count = Field(default=1, description="accepted updates without which the run ends with an error")
    timeout: float = Field(default=3600.0, gt=0, description="seconds to wait for the replies of one phase")
    min_clients: int = Field(default=0, ge=0, description="SuperNodes without which a run does not begin; 0: all")
    patience: float = Field(default=60.0, gt=0, description="seconds to wait for SuperNodes that are not there")
    proximal_mu: float = Field(
        default=0.01, ge=0, description="FedProx' mu: pull of the global weights on the local ones; 0 is FedAvg"
    )
    trim_fraction: float = Field(default=0.2, ge=0, lt=0.5, description="cut from each tail (trimmed-mean)")
    num_malicious: int = Field(default=1, ge=0, description="clients assumed malicious (krum)")


class Evaluation(Section, frozen=True):
    every: int = Field(default=1, ge=0, description="rounds between evaluations on the server; 0: after the last only")
    clients_every: int = Field(
        default=0, ge=0, description="rounds between evaluations by the clients; 0: after the last only"
    )
    attacks: str = Field(default="fgsm,pgd-20", description="comma-separated: fgsm, pgd-K; within attack.epsilon")
    select_by: str = Field(
        default="pgd-20",
        description="one of evaluation.attacks, worst-case (of more than one) or natural: chooses the best round",
    )
    step_size: Radius = Field(default=Ratio("2/255"), description="of evaluation's PGD steps", gt=0)
    validation_images: int = Field(default=0, ge=0, description="images of the validation slice used per round; 0: all")
    test_images: int = Field(default=0, ge=0, description="test images evaluated per round; 0: none before the end")
    batch_size: Count = Field(default=500, description="images")


class Workers(Section, frozen=True):
    num: int = Field(default=0, ge=0, description="clients at once under ray and flwr; 0: as many as fit the machine")
    threads: int = Field(default=0, ge=0, description="CPU threads per client; 0: the cores divided by the workers")
    num_gpus: float = Field(
        default=0.0, ge=0, description="GPUs per worker, may be a fraction; 0 with CUDA there: shared evenly"
    )
    address: str = Field(default="", description="Ray cluster to join; unset: a private one on this machine")


class RunConfig(Section, frozen=True):
    """One run, complete. `to_flat` and `from_flat` are inverse."""

    kind: Literal["federated", "central"] = Field(
        default="federated", description="clients and a server, or one training on all the data (fedrobust central)"
    )
    num_clients: int = Field(default=5, ge=1, le=100_000, description="clients; equals the number of SuperNodes")
    num_rounds: int = Field(
        default=10, ge=1, description="communication rounds; of a central run: rounds of local.epochs passes"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="root of every random stream")
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N, mps"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the forward and backward pass"
    )
    init: str = Field(
        default="", description="a run's folder, for its best model, or a safetensors file: the weights to begin with"
    )
    run_dir: str = Field(default="", description="folder of the run; unset: a new one below runs/")
    resume: bool = Field(default=False, description="go on from the checkpoint in run-dir")
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
        """Settings that only make sense together."""
        if self.attack.norm == "linf" and self.attack.epsilon > 1:
            raise ValueError(
                f"attack.epsilon = {self.attack.epsilon}: must be at most 1 for linf (pixels lie in [0, 1]; "
                "write 8/255, not 8)"
            )
        if self.attack.random_start == "n-fgsm" and self.attack.name != "fgsm":
            raise ValueError("attack.random-start = 'n-fgsm': is for attack.name fgsm only")
        if self.data.own and self.data.classes:
            raise ValueError(f"data.classes = {self.data.classes!r}: is not for data.own; leave it unset")
        if self.kind == "central" and (self.central.images == "pool") != (self.pool.fraction > 0):
            raise ValueError(
                f"pool.fraction = {self.pool.fraction:g}, central.images = {self.central.images!r}: a central run has "
                "all the data and no pool, or the pool alone (central.images pool, pool.fraction above 0)"
            )
        if self.central.patience and not self.data.validation_fraction:
            raise ValueError(
                f"central.patience = {self.central.patience}: needs validation images; set data.validation-fraction "
                "above 0, or central.patience 0"
            )
        if self.kind == "central" and self.strategy.name != "fedavg":
            raise ValueError(f"strategy.name = {self.strategy.name!r}: a central run has no strategy; leave it unset")
        return self

    @property
    def given(self) -> frozenset[str]:
        """The flat keys that were set when this config was made; none of a complete one, which nobody typed."""
        keys = frozenset(set_keys(self))
        return frozenset() if keys == FIELDS.keys() else keys

    def to_flat(self) -> dict[str, FlatValue]:
        """Flat scalars by kebab-case key, as Flower's run config wants them."""
        flat: dict[str, FlatValue] = {}
        for key, _, value in walk(self):
            flat[key] = str(value) if isinstance(value, Ratio) else value
        return flat

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> RunConfig:
        """The config with these keys set and all others at their defaults.

        Raises:
            ConfigError: one line per unknown key (with the nearest known one) and per value out of range.
        """
        try:
            return cls.model_validate(nest(flat, FIELDS))
        except ValidationError as error:
            raise ConfigError("\n".join(map(one_line, error.errors()))) from error

    def replace(self, **flat: FlatValue) -> RunConfig:
        """A copy with some flat keys changed; a key is written with `__` for "." and `_` for "-"."""
        changes = {key.replace("__", ".").replace("_", "-"): value for key, value in flat.items()}
        return RunConfig.from_flat(self.to_flat() | changes)


DEFAULTS = RunConfig.model_validate({})
FIELDS: dict[str, Any] = {key: field for key, field, _ in walk(DEFAULTS)}


def todays_meaning(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a config that a run wrote, as they are meant today.

    Until `partition.legacy-seed` came, `pool.fraction` was a share of the training set less the validation slice; it
    is one of the whole training set now. The same pool is then a smaller number: 0.4 beside a slice of 0.1 is 0.36.
    """
    if "partition.legacy-seed" in flat or not flat.get("pool.fraction"):
        return flat
    validation = flat.get("data.validation-fraction", DEFAULTS.data.validation_fraction)
    return flat | {"pool.fraction": round(flat["pool.fraction"] * (1 - validation), 12)}

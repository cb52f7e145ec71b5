"""The local training loop: what it visits, how often, from which streams, and its closed forms."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from fedrobust.attacks import make_attack
from fedrobust.data.device import DeviceImages, random_crop_flip, unchanged
from fedrobust.data.spec import Split
from fedrobust.errors import RunFailed
from fedrobust.objectives import ObjectiveOutput, make_objective
from fedrobust.training import step
from fedrobust.training.loop import SGDSettings, train
from fedrobust.training.sgd import SGD

SIZE = 10  # images, each a single pixel whose value is its number
DATA = DeviceImages(
    Split(np.arange(SIZE, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(SIZE, dtype=np.int64) % 3), "cpu"
)
EVERYTHING = torch.arange(SIZE)


class Point(nn.Module):
    """A model that is a point: each image has its weights for logits."""

    def __init__(self, start=(0.0, 0.0, 0.0)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))

    def forward(self, x):
        return self.w.expand(len(x), -1)


def fit(model, schedule, *, index=EVERYTHING, objective=None, stream=("test",), augmentation=unchanged, **settings):
    return train(
        model,
        settings.pop("data", DATA),
        index,
        objective or make_objective("natural"),
        schedule,
        augmentation=augmentation,
        precision=settings.pop("precision", torch.float32),
        seed=settings.pop("seed", 0),
        stream=stream,
        capture=settings.pop("capture", True),
        **settings,
    )


def visits(schedule, **settings):
    """The numbers of the images in each batch."""
    seen = []

    def objective(model, x, y, generator):
        seen.append([round(value * 255) for value in x.flatten().tolist()])
        return ObjectiveOutput(model.w.sum(), None, None)

    return seen, fit(Point(), schedule, objective=objective, **settings)


def test_an_epoch_visits_every_image_once_in_a_new_order_with_a_ragged_last_batch():
    batches, summary = visits(SGDSettings(epochs=2, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [*chain(*batches[:3])], [*chain(*batches[3:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(SIZE))] * 2
    assert epochs[0] != epochs[1]
    assert (summary.steps, summary.images) == (6, 20)


def test_steps_take_the_place_of_epochs():
    batches, summary = visits(SGDSettings(epochs=7, steps=5, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4]
    assert (summary.steps, summary.images) == (5, 18)


def test_fewer_steps_than_an_epoch_has():
    assert [len(batch) for batch in visits(SGDSettings(steps=2, batch_size=4))[0]] == [4, 4]


def test_a_batch_larger_than_the_data_is_the_data():
    assert [sorted(batch) for batch in visits(SGDSettings(batch_size=500))[0]] == [list(range(SIZE))]


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [(9, 4, [4, 5]), (5, 4, [5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (3, 2, [3])],
)
def test_a_single_image_that_is_left_joins_the_batch_before(images, batch, sizes):
    schedule = SGDSettings(epochs=2, batch_size=batch)
    batches, summary = visits(schedule, index=torch.arange(images))
    assert [len(visited) for visited in batches] == sizes * 2
    assert summary.steps == schedule.num_steps(images) == 2 * len(sizes)
    assert summary.images == 2 * images


def normalised_maps():
    """Batch norm on maps of one pixel, as behind the last stages of a residual network."""
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def test_batch_norm_on_maps_of_one_pixel_trains_whatever_is_left():
    assert fit(normalised_maps(), SGDSettings(batch_size=9)).images == SIZE
    assert fit(normalised_maps(), SGDSettings(batch_size=3)).images == SIZE


def test_a_lone_image_under_batch_norm_is_a_line_that_says_what_to_raise():
    with pytest.raises(RunFailed, match=r"raise local\.batch-size .* or give each client more images"):
        fit(normalised_maps(), SGDSettings(batch_size=1))


def test_only_the_index_is_visited_and_repeats_count():
    batches, summary = visits(SGDSettings(batch_size=2), index=torch.tensor([3, 3, 8]))
    assert sorted(chain(*batches)) == [3, 3, 8]
    assert summary.images == 3


def test_the_order_is_the_streams():
    schedule = SGDSettings(batch_size=4)
    assert visits(schedule)[0] == visits(schedule)[0] != visits(schedule, stream=("other",))[0]


def test_another_seed_is_another_order():
    schedule = SGDSettings(batch_size=4)
    assert visits(schedule, seed=1)[0] == visits(schedule, seed=1)[0] != visits(schedule, seed=2)[0]


def test_another_seed_draws_augmentation_noise_and_random_layers_anew():
    def draws(seed):
        seen = []

        def draw(x, generator):
            seen.extend((torch.rand((), generator=generator).item(), torch.rand(()).item()))
            return x

        def objective(model, x, y, generator):
            draw(x, generator)
            return ObjectiveOutput(model.w.sum(), None, None)

        fit(Point(), SGDSettings(steps=1), objective=objective, augmentation=draw, seed=seed)
        return seen

    assert draws(1) == draws(1)
    assert len({*draws(1), *draws(2)}) == 2 * len(draws(1)) == 8


def trained(stream):
    """Weights after two epochs with every random part in use: order, augmentation, noise."""
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    data = DeviceImages(Split(pixels, np.arange(50, dtype=np.int64) % 3), "cpu")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def objective(model, x, y, generator):
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        return make_objective("natural")(model, noisy, y, generator)

    torch.seed()  # what anyone else draws plays no part
    schedule = SGDSettings(epochs=2, batch_size=16, learning_rate=0.05)
    fit(
        model,
        schedule,
        data=data,
        index=torch.arange(50),
        objective=objective,
        stream=stream,
        augmentation=random_crop_flip,
    )
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_the_same_stream_gives_the_same_bits():
    with torch.random.fork_rng():
        first, again, other = (trained(("client", 0, server_round)) for server_round in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def to_target(model, x, y, generator):
    return ObjectiveOutput(0.5 * (model.w - torch.tensor([1.0, -2.0, 4.0])).square().sum(), None, None)


@pytest.fixture(params=["made anew", "kept"])
def steps(request, monkeypatch):
    """Steps as on a CPU, and kept from call to call as on CUDA."""
    monkeypatch.setattr(step, "_keeps", lambda device: request.param == "kept")
    yield
    step._kept_step.cache_clear()


def test_a_kept_step_serves_one_client_after_another(monkeypatch):
    """Learning rate, FedProx' anchor, momenta, seed and sums of each: the same bits as with a step for each."""
    natural, outcomes = make_objective("natural"), []
    for keep in (False, True):
        monkeypatch.setattr(step, "_keeps", lambda device, keep=keep: keep)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
        for number, rate in enumerate((0.5, 0.1)):
            schedule = SGDSettings(epochs=2, batch_size=4, learning_rate=rate, proximal_mu=0.7)
            summary = fit(model, schedule, objective=natural, stream=("client", number))
        outcomes.append((torch.cat([p.detach().flatten() for p in model.parameters()]), replace(summary, seconds=0)))
    step._kept_step.cache_clear()
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0])
def test_the_proximal_term_settles_between_start_and_target(mu):
    start = (3.0, 3.0, 3.0)
    model = Point(start)
    schedule = SGDSettings(
        steps=400, batch_size=SIZE, learning_rate=0.1, momentum=0.0, weight_decay=0.0, proximal_mu=mu
    )
    fit(model, schedule, objective=to_target)
    expected = (torch.tensor([1.0, -2.0, 4.0]) + mu * torch.tensor(start)) / (1 + mu)
    torch.testing.assert_close(model.w.detach(), expected, rtol=0, atol=1e-5)


def test_momentum_starts_afresh(steps):
    schedule = SGDSettings(steps=1, batch_size=SIZE, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    model = Point()
    fit(model, schedule, objective=to_target)
    fit(model, schedule, objective=to_target)
    torch.testing.assert_close(model.w.detach(), 0.19 * torch.tensor([1.0, -2.0, 4.0]))


def test_weight_decay_shrinks():
    model = Point((1.0, 1.0, 1.0))
    schedule = SGDSettings(steps=1, batch_size=SIZE, learning_rate=0.1, momentum=0.0, weight_decay=0.5)
    fit(model, schedule, objective=lambda m, x, y, g: ObjectiveOutput(0 * m.w.sum(), None, None))
    torch.testing.assert_close(model.w.detach(), torch.full((3,), 0.95))


def test_loss_and_accuracies_are_means_over_images():
    """Labels are 0 1 2 0 1 2 0 1 2 0 and class 0 always has the largest logit; naturally it sees one image a batch."""
    last = []

    def split_batch(model, x, y, generator):
        logits = torch.tensor([1.0, 0.0, 0.0]).expand(len(x), -1)
        last.append(int(y[-1]))
        return ObjectiveOutput(model.w.sum() * 0 + y.float().mean(), logits[-1:], logits)

    summary = fit(Point(), SGDSettings(batch_size=4), objective=split_batch)
    assert summary.loss == pytest.approx(0.9)
    assert summary.adversarial_accuracy == pytest.approx(0.4)
    assert summary.natural_accuracy == pytest.approx(last.count(0) / 3)


def test_accuracies_that_the_objective_does_not_see_are_none():
    summary = visits(SGDSettings(batch_size=4))[1]
    assert (summary.natural_accuracy, summary.adversarial_accuracy) == (None, None)


@pytest.mark.parametrize(
    "schedule", [SGDSettings(steps=50, learning_rate=1e30), SGDSettings(steps=1, learning_rate=1e30)]
)
def test_divergence_is_named(schedule):
    def steep(model, x, y, generator):
        return ObjectiveOutput(model.w.square().sum() if schedule.steps > 1 else model.w.sum() * math.inf, None, None)

    with pytest.raises(FloatingPointError, match=r"training diverged: mean loss .* lower local\.learning-rate"):
        fit(Point((1.0, 1.0, 1.0)), schedule, objective=steep)


def test_bfloat16_leaves_the_weights_in_float32():
    kinds = []

    def objective(model, x, y, generator):
        kinds.append(nn.functional.linear(x.flatten(1), model.w[:1, None]).dtype)
        return make_objective("natural")(model, x, y, generator)

    model = Point()
    fit(model, SGDSettings(), objective=objective, precision=torch.bfloat16)
    assert (set(kinds), model.w.dtype) == ({torch.bfloat16}, torch.float32)


def test_sgd_is_torchs_bit_for_bit():
    expected, ours = (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(2))
    unused = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    ours.load_state_dict(expected.state_dict())
    for momentum, decay in ((0.9, 5e-4), (0.0, 0.1), (0.5, 0.0)):
        theirs = torch.optim.SGD([*expected.parameters(), unused[0]], lr=0.1, momentum=momentum, weight_decay=decay)
        parameters = [*ours.parameters(), unused[1]]
        optimizer = SGD(parameters, learning_rate=0.1, momentum=momentum, weight_decay=decay)
        for number in range(4):
            theirs.param_groups[0]["lr"] = optimizer.learning_rate = 0.1 / (1 + number)
            x = torch.full((5, 4), float(number + 1))
            theirs.zero_grad()
            expected(x).square().sum().backward()
            theirs.step()
            gradients = torch.autograd.grad(ours(x).square().sum(), parameters, allow_unused=True)
            optimizer.step(gradients)
            for one, other in zip(expected.parameters(), ours.parameters(), strict=True):
                assert torch.equal(one, other)
    assert torch.equal(*unused)
    optimizer.forget()
    assert not any(buffer.any() for buffer in optimizer.momenta)


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing is captured on a CPU")


def on_cuda(
    objective, capture, *, clients=((50, 0.05), (37, 0.02)), proximal_mu=0.0, norm=True, precision=torch.float32
):
    """The weights after each of several clients, who differ in images, rate and class counts, with one model."""
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    data = DeviceImages(Split(pixels, np.arange(50, dtype=np.int64) % 3), "cuda")
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)] if norm else [nn.Conv2d(3, 8, 3), nn.RReLU(), nn.Dropout(0.2)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).cuda()
    counts = torch.zeros(3, dtype=torch.int64, device="cuda")
    attack = make_attack("pgd", epsilon=0.1, step_size=0.03, steps=3, random_start="gaussian")
    bound = make_objective(objective, attack=attack, class_counts=counts, awp_gamma=0.01 * (objective == "trades"))
    found = []
    for number, (images, rate) in enumerate(clients):
        counts.copy_(torch.tensor([images, 7, number]))
        schedule = SGDSettings(epochs=3, batch_size=16, learning_rate=rate, proximal_mu=proximal_mu)
        summary = fit(
            model,
            schedule,
            data=data,
            index=torch.arange(images),
            objective=bound,
            stream=("client", number),
            augmentation=random_crop_flip,
            precision=precision,
            capture=capture,
        )
        found.append(torch.cat([value.flatten().double() for value in model.state_dict().values()]))
    return torch.stack(found), summary


@CUDA
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("objective", ["natural", "at", "mixed", "trades", "calfat"])
def test_on_cuda_a_captured_step_is_the_step(objective, precision, monkeypatch):
    """Batch norm, class counts, another learning rate, FedProx' anchor and a smaller last batch included."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    eager, expected = on_cuda(objective, False, proximal_mu=0.3, precision=precision)
    captured, summary = on_cuda(objective, True, proximal_mu=0.3, precision=precision)
    torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-4)
    assert summary.loss == pytest.approx(expected.loss, rel=1e-3)
    assert (summary.images, summary.steps) == (expected.images, expected.steps)
    if objective != "natural":
        assert summary.adversarial_accuracy == pytest.approx(expected.adversarial_accuracy, abs=0.03)


@CUDA
def test_on_cuda_random_layers_draw_anew_in_each_replay():
    first, second = (on_cuda("natural", True, norm=False)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    eager, _ = on_cuda("natural", False, norm=False)
    torch.testing.assert_close(first, eager, rtol=1e-3, atol=1e-4)


WAITS = """
import numpy as np, torch
from torch import nn
from fedrobust.data.device import DeviceImages, unchanged
from fedrobust.data.spec import Split
from fedrobust.errors import RunFailed
from fedrobust.objectives import ObjectiveOutput
from fedrobust.training.loop import SGDSettings, train

def waits(model, x, y, generator):
    return ObjectiveOutput(model(x).sum() * float(y.sum().item() > -1), None, None)

data = DeviceImages(Split(np.zeros((64, 8, 8, 3), np.uint8), np.zeros(64, np.int64)), "cuda")
model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).cuda()
settings = dict(augmentation=unchanged, precision=torch.float32, seed=0, stream=("test",))
given = (model, data, torch.arange(64), waits, SGDSettings(batch_size=8))
assert train(*given, **settings, capture=False).steps == 8
try:
    train(*given, **settings)
except RunFailed as error:
    print(error)
"""


@CUDA
def test_on_cuda_a_step_that_waits_for_the_device_is_refused_in_a_line():
    """In a process of its own: a capture that failed leaves PyTorch's generators unusable."""
    found = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(
        r"the training step cannot be captured in a CUDA graph \(.*\); set cuda-graphs = false\n", found
    )


@CUDA
@pytest.mark.parametrize("capture", [True, False])
def test_on_cuda_nothing_is_read_back_inside_an_epoch(capture):
    data = DeviceImages(Split(np.zeros((64, 8, 8, 3), np.uint8), np.zeros(64, np.int64)), "cuda")
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).cuda()
    steps = []

    def watch():
        steps.append(1)
        # the capture, in the second step, synchronises once
        torch.cuda.set_sync_debug_mode("error" if 2 <= len(steps) < 8 else "default")

    settings = {"data": data, "index": torch.arange(64), "augmentation": random_crop_flip, "after_step": watch}
    try:
        fit(model, SGDSettings(batch_size=8), capture=capture, **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 8


def test_layers_that_are_random_draw_from_the_runs_stream():
    """RReLU draws from the global generator: the same stream gives the same weights, whatever that was before."""
    weights = []
    for at, stream in enumerate((("a",), ("a",), ("b",))):
        torch.manual_seed(at)
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 4), nn.RReLU(), nn.Linear(4, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        before = torch.get_rng_state()
        fit(model, SGDSettings(epochs=2, batch_size=4, learning_rate=0.5), stream=stream, index=torch.arange(4))
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

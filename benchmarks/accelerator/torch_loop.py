"""A plain PyTorch loop of the same training on the same card, as people write it: one seed, eager, concatenated rows.

The step is that of `benchmarks.throughput`: a batch of the Gaussian task, a critic on all n² pairs, the logistic objective,
Adam, and SMILE's read-out. Needs PyTorch, which the project does not install.
"""

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.lib import machine, rows, runner
from benchmarks.lib.rows import Row
from mi_jax import tasks

DIM, MI, WIDTH, EMBED, LEARNING_RATE, TAU = 20, 2.0, 256, 32, 5e-4, 5.0
DEPTHS = {"joint 2x256": 2, "joint 3x256": 3, "separable 2x256": 2}
SECONDS = 1.0  # a round
ROUNDS = 5


@dataclass(frozen=True)
class Loop:
    """A critic, trained on batches of n."""

    critic: str
    n: int

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"PyTorch, {self.critic}, n = {self.n}"

    def measure(self) -> Row:
        """The row: the seconds of a step, round by round."""
        import torch

        step, wait = make_step(self.critic, self.n)
        for _ in range(10):
            step()
        wait()
        started = time.perf_counter()
        _run(step, wait, 10)
        number = max(10, int(10 * SECONDS / (time.perf_counter() - started)))
        seconds = [_run(step, wait, number) for _ in range(ROUNDS)]
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        results = {"step_seconds": rows.rounded(seconds), "steps": number, "torch": torch.__version__, "device": device}
        return Row("torch", asdict(self), machine.environment(), 0, {}, results)


def _run(step: Callable[[], Any], wait: Callable[[], None], number: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    for _ in range(number):
        step()
    wait()
    return (time.perf_counter() - started) / number


def make_step(critic: str, n: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A training step, which returns SMILE's estimate, and what waits for the card."""
    import torch
    from torch import nn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False

    def mlp(inputs: int, outputs: int) -> Any:
        widths = [inputs, *[WIDTH] * DEPTHS[critic]]
        layers = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(WIDTH, outputs)).to(device)

    if critic.startswith("joint"):
        networks = [mlp(2 * DIM, 1)]

        def scores(x: Any, y: Any) -> Any:
            pairs = torch.cat([x[:, None, :].expand(n, n, DIM), y[None, :, :].expand(n, n, DIM)], dim=-1)
            return networks[0](pairs.reshape(n * n, 2 * DIM)).reshape(n, n)
    else:
        networks = [mlp(DIM, EMBED), mlp(DIM, EMBED)]

        def scores(x: Any, y: Any) -> Any:
            return networks[0](x) @ networks[1](y).T

    optimizer = torch.optim.Adam([weight for network in networks for weight in network.parameters()], lr=LEARNING_RATE)
    rho = float(tasks.mi_to_rho(MI, DIM))

    def step() -> Any:
        x, noise = torch.randn(2, n, DIM, device=device)
        table = scores(x, rho * x + (1 - rho**2) ** 0.5 * noise)
        joint = table.diagonal()
        product = table.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()  # off the diagonal, without waiting for the card
        loss = nn.functional.softplus(-joint).mean() + nn.functional.softplus(product).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            return joint.mean() - torch.logsumexp(product.clamp(-TAU, TAU), 0) + math.log(len(product))

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    return step, wait


def cells() -> list[Loop]:
    """Every critic at the paper's batch size and a larger one; none where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return []
    return [Loop(critic, n) for critic in DEPTHS for n in (64, 256)]


def experiment(wanted: Iterable[Loop]) -> runner.Experiment:
    """The loops, for the runner."""
    return runner.Experiment(
        name="torch",
        wanted=dict.fromkeys(wanted, 1),
        covers=lambda config: (Loop(**config), [0]),
        predict=_predict,
        run=runner.measuring(Loop.measure),
        unit="",
        describe=lambda made: "; ".join(f"{1 / _median(row):.3g} seed-steps a second" for row in made),
    )


def _predict(on_disk: Sequence[Row]) -> Callable[[Any], float]:
    del on_disk
    seconds = (ROUNDS + 2) * SECONDS
    return lambda _: seconds


def _median(row: Row) -> float:
    return sorted(row.results["step_seconds"])[ROUNDS // 2]

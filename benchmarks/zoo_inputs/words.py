"""English text: the sentences of Python's own manual, which come with every Python; and fonts to write them in."""

import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ImageFont

from zoo_inputs.request import Missing

FONTS = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/dejavu-sans-fonts"), Path("/Library/Fonts"))
LONGEST = 26
SENTENCE = re.compile(r"[A-Z][a-z]+(?: [\w'“”()-]+,?){4,24}[.:?]")


@cache
def sentences() -> list[str]:
    """Some thousand sentences, each once, in the order of the manual."""
    from pydoc_data.topics import topics

    texts = (" ".join(text.replace("*", "").replace('"', "").split()) for _, text in sorted(topics.items()))
    return list(dict.fromkeys(found for text in texts for found in SENTENCE.findall(text)))


def snippet(held: list[str], rng: np.random.Generator) -> str:
    """A few words of a sentence, or now and then a number, a date or a price."""
    if rng.random() < 0.2:
        number = int(rng.integers(1, 10 ** int(rng.integers(2, 7))))
        forms = ("{0}", "No. {0}", "${0}.99", "{0:,} km", "{1:04d}-{2:02d}-{3:02d}", "{3}:{2:02d} pm")
        year, month, day = (int(rng.integers(*bounds)) for bounds in ((1900, 2100), (1, 13), (1, 13)))
        return forms[rng.integers(len(forms))].format(number, year, month, day)
    words = held[rng.integers(len(held))].split()
    first, count = int(rng.integers(len(words) - 2)), int(rng.integers(1, 5))
    text = words[first]
    for word in words[first + 1 : first + count]:
        if len(text) + len(word) < LONGEST:
            text = f"{text} {word}"
    return text[:LONGEST]


def font(size: int, rng: np.random.Generator) -> ImageFont.FreeTypeFont:
    """One of the DejaVu fonts. Raises Missing."""
    files = _font_files()
    return ImageFont.truetype(files[rng.integers(len(files))], size)


@cache
def _font_files() -> list[Path]:
    found = [path for folder in FONTS if folder.exists() for path in sorted(folder.glob("DejaVu*.ttf"))]
    if not found:
        raise Missing("text is rendered in the DejaVu fonts: apt install fonts-dejavu")
    return found

"""Rendered text: single lines and whole pages, in several fonts and sizes, on uneven paper."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zoo_inputs.photos import photographs
from zoo_inputs.request import Array, Request
from zoo_inputs.words import font, sentences, snippet

IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
LINE_HEIGHT, LINE_WIDTH = 48, 320
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DETECTOR_SIDE = 320


def recogniser_lines(request: Request) -> Array:
    """(N, 3, 48, 320), −1 to 1, BGR, padded with 0."""
    return np.stack([recognisable(line) for _, line in lines(request)])


def turned_lines(request: Request) -> Array:
    """(N, 3, 48, 192): a recogniser's lines, half of them upside down."""
    drawn = [line.rotate(180) if request.rng.random() < 0.5 else line for _, line in lines(request)]
    return np.stack([recognisable(line, 192) for line in drawn])


def captchas(request: Request) -> Array:
    """(N, 1, 64, 160) grey, 0 to 1: four to six letters."""
    rng = request.rng
    texts = ["".join(rng.choice(list(LETTERS), rng.integers(4, 7))) for _ in range(request.count)]
    drawn = [draw_line(text, rng).convert("L").resize((160, 64)) for text in texts]
    return np.stack([np.asarray(image, np.float32)[None] / 255 for image in drawn])


def captcha_scenes(request: Request) -> Array:
    """(N, 3, 416, 416) BGR, 0 to 255: words scattered over photographs."""
    held = request.mine(photographs())
    made = []
    for index in range(request.count):
        scene = held[index % len(held)].resize((416, 416))
        for _ in range(int(request.rng.integers(2, 7))):
            word = draw_line("".join(request.rng.choice(list(LETTERS), 3)), request.rng)
            scene.paste(word, tuple(int(x) for x in request.rng.integers(0, 340, 2)))
        made.append(np.asarray(scene, np.float32)[..., ::-1].transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(made))


def page_parts(request: Request) -> Array:
    """(N, 3, 320, 320), parts of pages for a detector of text."""
    drawn = [draw_page(request, 640, 640) for _ in range(request.count)]
    corners = request.rng.integers(0, 640 - DETECTOR_SIDE, (request.count, 2))
    parts = [p.crop((x, y, x + DETECTOR_SIDE, y + DETECTOR_SIDE)) for p, (x, y) in zip(drawn, corners, strict=True)]
    return np.stack([_imagenet(part) for part in parts])


def pages(request: Request) -> Array:
    """(N, 3, 800, 608), whole pages."""
    return np.stack([_imagenet(draw_page(request, 608, 800)) for _ in range(request.count)])


def turned_pages(request: Request) -> Array:
    """(N, 3, 224, 224), parts of pages, each turned by a multiple of 90°."""
    drawn = [draw_page(request, 448, 448).rotate(90 * int(request.rng.integers(4))) for _ in range(request.count)]
    return np.stack([_imagenet(page.resize((224, 224))) for page in drawn])


def lines(request: Request) -> list[tuple[str, Image.Image]]:
    """What is written, and how it looks."""
    held = request.mine(sentences())
    texts = [snippet(held, request.rng) for _ in range(request.count)]
    return [(text, draw_line(text, request.rng)) for text in texts]


def recognisable(line: Image.Image, width: int = LINE_WIDTH) -> Array:
    """(3, 48, width): as tall as the recogniser wants it, squeezed where it is too wide."""
    wide = min(width, -(-LINE_HEIGHT * line.width // line.height))
    pixels = np.asarray(line.resize((wide, LINE_HEIGHT), Image.Resampling.BILINEAR), np.float32)[..., ::-1]
    padded = np.zeros((3, LINE_HEIGHT, width), np.float32)
    padded[:, :, :wide] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return padded


def draw_line(text: str, rng: np.random.Generator) -> Image.Image:
    """One line, dark on light or light on dark, a little blurred and noisy."""
    face = font(int(rng.integers(22, 44)), rng)
    left, top, right, bottom = (int(x) for x in face.getbbox(text))
    margin = int(rng.integers(2, 9))
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ink, paper = (light, dark) if rng.random() < 0.2 else (dark, light)
    image = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), tuple(int(c) for c in paper))
    ImageDraw.Draw(image).text((margin - left, margin - top), text, tuple(int(c) for c in ink), face)
    return _worn(image, rng)


def draw_page(request: Request, width: int, height: int) -> Image.Image:
    """A heading, paragraphs in one or two columns, and now and then a picture."""
    rng, held = request.rng, request.mine(sentences())
    page = Image.new("RGB", (width, height), tuple(int(c) for c in rng.integers(225, 256, 3)))
    columns, body = int(rng.integers(1, 3)), font(int(rng.integers(11, 18)), rng)
    draw, ink = ImageDraw.Draw(page), tuple(int(c) for c in rng.integers(0, 70, 3))
    draw.text((20, 16), snippet(held, rng), ink, font(int(rng.integers(22, 36)), rng))
    room = (width - 40) // columns
    for column in range(columns):
        y = 70
        if rng.random() < 0.4:
            held_photos = request.mine(photographs())
            page.paste(held_photos[rng.integers(len(held_photos))].resize((room - 20, 110)), (20 + column * room, y))
            y += 125
        while y < height - 40:
            text = held[rng.integers(len(held))][: max(8, int(1.7 * room / body.size))]
            draw.text((20 + column * room, y), text, ink, body)
            y += int(body.size * (1.4 if rng.random() < 0.85 else 2.6))
    return _worn(page, rng)


def _imagenet(image: Image.Image) -> Array:
    mean, std = IMAGENET
    return ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)


def _worn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    noise = rng.normal(0, rng.uniform(0, 10), (image.height, image.width, 1))
    return Image.fromarray(np.uint8(np.clip(np.asarray(image) + noise, 0, 255)))

"""Speech, said by espeak-ng in several voices over noise, and notes; and what networks want to see of it."""

import io
import shutil
import subprocess
import wave
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly, stft

from zoo_inputs.request import Array, Feeds, Missing, Request
from zoo_inputs.words import sentences

RATE = 16_000
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m5", "en-us+f5", "en-gb+f2")
WAVE = 144_160
CHUNK, CONTEXT = 512, 64
MUSIC_RATE, MUSIC = 22_050, 43_844
AEC_FRAMES = 200


def waves(request: Request) -> Array:
    """(N, 144160): nine seconds."""
    return np.stack([clip(request, WAVE) for _ in range(request.count)])


def log_power(request: Request) -> Array:
    """(N, 901, 161): the logarithm of the power spectrum, a frame every 10 ms."""
    return np.stack([np.log10(np.maximum(_power(wave, 320, 160), 1e-12))[:901] for wave in _nine_seconds(request)])


def mels(request: Request) -> Array:
    """(N, 900, 120): mel bands in decibel under the loudest."""
    return np.stack([_mel(wave[:-160], RATE, 320, 160, 120)[:900] for wave in _nine_seconds(request)])


def three_mels(request: Request) -> Feeds:
    """(N, 3, frames, 160): the far end, the microphone and what is left of the near end; and a state of zeros."""
    state = [int(size) for size in request.dims("h0")]
    high = state[-1] == 96  # the 48 kHz model
    rate, size = (48_000, 1536) if high else (RATE, 512)
    made = []
    for _ in range(request.count):
        far, near = (resample_poly(clip(request, (AEC_FRAMES + 1) * 256), rate // RATE, 1) for _ in range(2))
        heard = (far * request.rng.uniform(0, 0.6), near + far * request.rng.uniform(0.1, 0.6), near)
        made.append([_mel(wave, rate, size, size // 2, 160)[:AEC_FRAMES] for wave in heard])
    return {"input": np.array(made, np.float32), "h0": np.zeros(state, np.float32)}


def power_frames(request: Request) -> Feeds:
    """(N, 1, 250, 257) logarithms of power, and the taste of a rater."""
    frames = [
        np.log(np.maximum(_power(clip(request, 64_000), 512, 256), 1e-12))[:250] / 20 for _ in range(request.count)
    ]
    raters = request.rng.standard_normal((request.count, 64)).astype(np.float32)
    return {"degraded_audio": np.array(frames, np.float32)[:, None], "rater_embed": raters}


def music(request: Request) -> Array:
    """(N, 43844, 1) at 22 kHz: chords of notes with overtones, now and then with a voice."""
    made = []
    for _ in range(request.count):
        voice = resample_poly(clip(request, 32_000), 441, 320)[:MUSIC]
        made.append(_chords(request.rng) + voice * (request.rng.random() < 0.3))
    return np.array(made, np.float32)[..., None]


def chunks(request: Request) -> Feeds:
    """Pieces of 36 ms with what went before; the state is the original's where each sample has one of its own."""
    whole = clip(request, request.count * CHUNK + CONTEXT)
    pieces = np.stack([whole[at * CHUNK : at * CHUNK + CHUNK + CONTEXT] for at in range(request.count)])
    feeds: dict[str, Array] = {"input": pieces}
    for name in request.inputs.keys() & {"h", "c", "state"}:
        feeds[name] = np.zeros(
            [size if isinstance(size, int) and size else 1 for size in request.dims(name)], np.float32
        )
    if "sr" in request.inputs:
        feeds["sr"] = np.array(RATE, np.int64)
    return _with_states(request, feeds) if "state" in feeds and "batch" in request.dims("state") else feeds


def clip(request: Request, length: int) -> Array:
    """So many samples of speech at 16 kHz, with pauses, at some loudness, over some noise."""
    rng, held = request.rng, request.mine(sentences())
    parts: list[Array] = []
    while sum(map(len, parts)) < length:
        parts += [said(held[rng.integers(len(held))], VOICES[rng.integers(len(VOICES))], int(rng.integers(130, 200)))]
        parts += [np.zeros(int(RATE * rng.uniform(0.1, 0.9)), np.float32)]
    speech = np.concatenate(parts)[:length] * rng.uniform(0.2, 1.0)
    noise = rng.standard_normal(length) * 10 ** rng.uniform(-4, -1.3)
    return np.clip(speech + noise, -1, 1).astype(np.float32)


def said(text: str, voice: str, speed: int) -> Array:
    """A sentence at 16 kHz, −1 to 1. Raises Missing."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise Missing("speech is made by espeak-ng: apt install espeak-ng")
    spoken = subprocess.run([program, "-v", voice, "-s", str(speed), "--stdout", text], capture_output=True, check=True)
    with wave.open(io.BytesIO(spoken.stdout)) as held:
        rate, pcm = held.getframerate(), np.frombuffer(spoken.stdout[44:], "<i2")
    ratio = Fraction(RATE, rate)
    return np.float32(resample_poly(pcm / 32768, ratio.numerator, ratio.denominator))


def _with_states(request: Request, feeds: dict[str, Array]) -> Feeds:
    import onnxruntime as ort

    session = ort.InferenceSession(str(request.path), providers=["CPUExecutionProvider"])
    state, states = feeds["state"], []
    for piece in feeds["input"]:
        states.append(state)
        state = session.run(None, {**feeds, "input": piece[None], "state": state})[1]
    return {**feeds, "state": np.concatenate(states, 1)}


def _nine_seconds(request: Request) -> list[Array]:
    return [clip(request, WAVE) for _ in range(request.count)]


def _power(samples: Array, size: int, hop: int) -> Array:
    """(frames, size // 2 + 1)."""
    _, _, spectrum = stft(samples, nperseg=size, noverlap=size - hop, scaling="spectrum")
    return np.float32(np.abs(spectrum.T * size / 2) ** 2)


def _mel(samples: Array, rate: int, size: int, hop: int, bands: int) -> Array:
    """(frames, bands): (decibel under the loudest + 40) / 40."""
    power = _power(samples, size, hop)
    frequencies = np.linspace(0, rate / 2, power.shape[1])
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    rising = (frequencies[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies[None]) / np.diff(edges)[1:, None]
    mel = power @ np.maximum(0, np.minimum(rising, falling)).T * 1e-3
    decibel = 10 * np.log10(np.maximum(mel, 1e-10) / max(float(mel.max()), 1e-10))
    return np.float32((np.maximum(decibel, -80) + 40) / 40)


def _chords(rng: np.random.Generator) -> Array:
    time = np.arange(MUSIC) / MUSIC_RATE
    heard = np.zeros(MUSIC)
    for _ in range(int(rng.integers(4, 14))):
        pitch, start = 440 * 2 ** (rng.integers(-24, 25) / 12), rng.uniform(-0.3, 1.8)
        envelope = np.where(time > start, np.exp(-(time - start).clip(0) * rng.uniform(1, 6)), 0)
        heard += envelope * sum(np.sin(2 * np.pi * pitch * k * time) / k ** rng.uniform(1, 2) for k in range(1, 7))
    return np.float32(0.6 * heard / max(np.abs(heard).max(), 1e-6))

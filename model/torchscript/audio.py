"""The schema of a request and of a prediction, and the reading of a WAV file."""

import io
import wave
from typing import TypedDict

from task import BadInstance

SAMPLE_RATE = 16_000


class Audio(TypedDict):
    """A WAV file, 16 bit, mono, 16 kHz."""

    b64: str


class Parameters(TypedDict, total=False):
    """The probability from which a chunk counts as speech."""

    threshold: float


class Segment(TypedDict):
    """A part of the audio with speech."""

    start_s: float
    end_s: float


def read_wav(content: bytes, max_s: int) -> bytes:
    """Return the samples, two bytes each, of at most `max_s` seconds; raise BadInstance."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            shape = file.getsampwidth(), file.getnchannels(), file.getframerate()
            samples = file.readframes(max_s * SAMPLE_RATE)
    except (wave.Error, EOFError) as error:
        raise BadInstance(f"not a WAV file: {error}") from error
    if shape != (2, 1, SAMPLE_RATE):
        width, channels, rate = shape
        got = f"{8 * width} bit, {channels} channels, {rate} Hz"
        raise BadInstance(f"expected a WAV file, 16 bit, mono, {SAMPLE_RATE} Hz; got {got}")
    return samples

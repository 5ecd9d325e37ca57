"""Find speech in audio with a TorchScript model that keeps a state, which each pass has to reset."""

import itertools
from pathlib import Path
from typing import Any

import torch
from audio import SAMPLE_RATE, Audio, Parameters, Segment, read_wav
from torch import Tensor

from task import BadInstance, pad
from task.images import decode_base64

CHUNK, CHUNK_S = 512, 0.032
MAX_S = 60


def load(folder: Path, device: torch.device) -> "SpeechDetector":
    """Load the TorchScript file from a folder onto a device."""
    return SpeechDetector(torch.jit.load(folder / "silero_vad.jit", map_location=device).eval())


class SpeechDetector:
    """Finds the parts of a recording in which there is speech."""

    accepts = ("audio/wav", "audio/x-wav")
    collate = staticmethod(pad)

    def __init__(self, model: Any) -> None:
        self.model = model

    def preprocess(self, instance: Audio | bytes) -> dict[str, Any]:
        """Return the audio as (chunks, 512) 16-bit samples, and the number of chunks."""
        file = instance if isinstance(instance, bytes) else decode_base64(instance["b64"])
        content = read_wav(file, MAX_S)
        count = len(content) // (2 * CHUNK)
        if not count:
            raise BadInstance("expected 32 ms of audio or more")
        samples = torch.frombuffer(bytearray(content), dtype=torch.int16)
        return {"chunks": samples[: count * CHUNK].view(count, CHUNK), "count": count}

    def size(self, sample: dict[str, Any]) -> int:
        """Return the number of chunks: recordings of like length share a pass."""
        return int(sample["count"])

    def inference(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return for each recording the probability of speech in its chunks, without the padding."""
        self.model.reset_states()
        chunks = (batch["chunks"] / 32768).unbind(1)
        rows = torch.cat([self.model(chunk, SAMPLE_RATE) for chunk in chunks], 1)
        return [row[:count] for row, count in zip(rows, batch["count"], strict=True)]

    def postprocess(self, output: Tensor, parameters: Parameters) -> list[Segment]:
        """Return the start and the end of each part with speech, in seconds."""
        speech = (output >= parameters.get("threshold", 0.5)).tolist()
        edges = enumerate(itertools.pairwise([False, *speech, False]))
        times = [round(index * CHUNK_S, 3) for index, (before, after) in edges if before != after]
        return [{"start_s": a, "end_s": b} for a, b in zip(times[::2], times[1::2], strict=True)]

"""The parameters of a request, and their ranges."""

from typing import TypedDict

from task import BadParameter

MAX_TOKENS, MAX_TEMPERATURE = 1000, 2


class Parameters(TypedDict, total=False):
    """How to continue a text. Temperature 0 takes the most probable character every time."""

    max_tokens: int
    temperature: float
    seed: int


def read_parameters(parameters: Parameters) -> tuple[int, float, int]:
    """Return the number of tokens, the temperature and the seed; raise BadParameter."""
    count, temperature = parameters.get("max_tokens", 100), parameters.get("temperature", 0.5)
    if not 1 <= count <= MAX_TOKENS:
        raise BadParameter(f"max_tokens: expected 1 to {MAX_TOKENS}; got {count}")
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise BadParameter(f"temperature: expected 0 to {MAX_TEMPERATURE}; got {temperature}")
    return count, temperature, parameters.get("seed", 0) % 2**32

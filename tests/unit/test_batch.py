"""Requests of a batch share a pass; a failure affects only the instance that caused it."""

import json
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from handler import batch, collation, envelope, preprocessing
from handler.envelope import Request, Response
from handler.errors import RequestError
from task import JSON, BadInstance, BadParameter, Golden
from task.adapter import adapt
from tests.images import request_body


class Doubler:
    """A task that doubles numbers, and fails for some."""

    golden = Golden(2, 4.0)

    def __init__(self) -> None:
        self.passes: list[int] = []

    def preprocess(self, instance: JSON) -> Tensor:
        if instance == "bug":
            raise RuntimeError("an internal message")
        if not isinstance(instance, int):
            raise BadInstance(f"expected an integer, got {instance!r}")
        return torch.tensor([float(instance)])

    def inference(self, batch: Tensor) -> Tensor:
        self.passes.append(len(batch))
        if (batch == 13).any():
            raise RuntimeError("13 fails the pass")
        return batch * 2

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> Any:
        if "unknown" in parameters:
            raise BadParameter("unknown: unknown parameter")
        return float("nan") if row.item() == 10 else row.item()


def parse(body: bytes) -> Request | RequestError:
    try:
        return envelope.parse_body(body)
    except RequestError as error:
        return error


def predict(task: Any, *bodies: bytes) -> list[Response]:
    return batch.predict_batch(adapt(task), [parse(body) for body in bodies])


def predictions(response: Response) -> Any:
    assert response.code == 200, response.body
    return json.loads(response.body)["predictions"]


def error(response: Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.body)["error"]
    assert found["code"] == response.code
    return found


def test_all_instances_of_all_requests_share_one_pass() -> None:
    task = Doubler()
    first, second = predict(task, request_body(1, 2), request_body(3))
    assert task.passes == [3]
    assert predictions(first) == [2, 4]
    assert predictions(second) == [6]


def test_large_batch_takes_several_passes_of_like_size() -> None:
    task = Doubler()
    (response,) = predict(task, request_body(*[1] * (collation.MAX_SAMPLES_PER_PASS + 1)))
    assert task.passes == [257, 256]
    assert predictions(response) == [2] * (collation.MAX_SAMPLES_PER_PASS + 1)


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        ({1: 40, 8: 276, 32: 1122}, [7, 7, 6]),
        ({1: 40, 8: 276, 32: 900}, [20]),
        ({1: 0.1, 8: 0.2, 32: 0.4}, [20]),
        ({1: 40}, [20]),
        ({}, [20]),
    ],
    ids=["8 are as fast as 32", "32 are faster", "small model", "one size", "not measured"],
)
def test_pass_has_no_more_samples_than_are_faster_together(
    times_ms: dict[int, float], expected: list[int]
) -> None:
    plain = Doubler()
    task = adapt(plain)
    task.max_samples = collation.find_max_samples(times_ms)
    predict(task, request_body(*[1] * 20))
    assert plain.passes == expected


def test_bad_instances_get_400_with_their_indexes_and_other_requests_get_200() -> None:
    responses = predict(
        Doubler(), request_body(1), b"garbage", request_body("a", 1, "b"), request_body(2)
    )
    assert [response.code for response in responses] == [200, 400, 400, 200]
    assert predictions(responses[3]) == [4]
    assert error(responses[2])["message"] == (
        "instances[0]: expected an integer, got 'a'; instances[2]: expected an integer, got 'b'"
    )


def test_error_of_thousands_of_bad_instances_is_short() -> None:
    (response,) = predict(Doubler(), request_body(*["x"] * 4000, 1, *["x"] * 90))
    message = error(response)["message"]
    assert "instances[19]: " in message
    assert "and 4070 more: 20-3999, 4001-4090" in message
    assert len(message) < 10_000


def test_slow_preprocessing_gets_429_unless_the_request_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocessing, "SHARED_PREPROCESS_TIMEOUT_S", 0.0)
    (alone,) = predict(Doubler(), request_body(1, 2, 3))
    assert predictions(alone) == [2, 4, 6]
    large, small = predict(Doubler(), request_body(1, 2, 3), request_body(4))
    assert large.code == 429
    assert "not preprocessed within the time limit" in error(large)["message"]
    assert predictions(small) == [8]


def test_error_truncates_the_text_of_the_client() -> None:
    (response,) = predict(Doubler(), request_body("é" * 1_000_000))
    assert response.code == 400
    assert len(response.body) < 100_000


def test_on_error_return_replaces_the_prediction_of_a_bad_instance() -> None:
    (response,) = predict(Doubler(), request_body(1, "x", 2, on_error="return"))
    one, bad, two = predictions(response)
    assert (one, two) == (2, 4)
    assert bad["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (request_body(1, 13), 500, "instances[1]: inference failed"),
        (request_body("bug"), 500, "instances[0]: preprocessing failed"),
        (request_body(5), 500, "instances[0]: the prediction is NaN, which JSON cannot represent"),
        (request_body(1, unknown=1), 400, "parameters.unknown: unknown parameter"),
    ],
)
def test_exception_of_a_task_fails_only_its_request_and_is_not_disclosed(
    body: bytes, code: int, message: str
) -> None:
    bad, good = predict(Doubler(), body, request_body(2))
    status = "INTERNAL" if code == 500 else "INVALID_ARGUMENT"
    assert error(bad) == {"code": code, "status": status, "message": message}
    assert predictions(good) == [4]


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError("Unable to allocate 8.00 PiB for an array"),
)
OTHER_FAULTS = (
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    ValueError("out of memory"),
)


class SmallDevice(Doubler):
    """A task whose device has memory for a sum of 12 in one pass, if no other pass keeps its tensors."""

    def __init__(self, error: Exception = NO_MEMORY[0]) -> None:
        super().__init__()
        self.error = error
        self.activations: list[weakref.ref[Tensor]] = []

    def inference(self, batch: Tensor) -> Tensor:
        self.passes.append(len(batch))
        assert not any(each() is not None for each in self.activations)
        activations = batch * 2
        self.activations.append(weakref.ref(activations))
        if batch.sum() > 12:
            raise self.error
        return activations


@pytest.mark.parametrize("raised", NO_MEMORY, ids=str)
def test_pass_that_needs_too_much_memory_runs_in_halves_and_later_ones_are_smaller(
    raised: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = SmallDevice(raised)
    adapted = adapt(task)
    (response,) = predict(adapted, request_body(*[3] * 8))
    assert predictions(response) == [6] * 8
    assert task.passes == [8, 4, 4]
    assert "a pass of 8 samples needs more memory" in caplog.text
    predict(adapted, request_body(*[3] * 8))
    assert task.passes[3:] == [4, 4]


def test_instance_that_needs_too_much_memory_alone_gets_a_503_that_says_so() -> None:
    task = adapt(SmallDevice())
    bad, good = predict(task, request_body(1, 20), request_body(3, 4))
    assert predictions(good) == [6, 8]
    assert bad.code == 503
    found = error(bad)
    assert found["status"] == "UNAVAILABLE"
    assert "instances[1]: inference needs more memory than the device has" in found["message"]


@pytest.mark.parametrize("raised", OTHER_FAULTS, ids=str)
def test_other_fault_of_the_device_is_an_internal_error_and_later_passes_stay_as_large(
    raised: Exception,
) -> None:
    task = adapt(SmallDevice(raised))
    (response,) = predict(task, request_body(20))
    assert error(response)["message"] == "instances[0]: inference failed"
    assert task.max_samples is None


def test_missing_row_is_an_internal_error() -> None:
    class RowDropper(Doubler):
        def inference(self, batch: Tensor) -> Tensor:
            return batch[:-1]

    (response,) = predict(RowDropper(), request_body(1, 2))
    assert error(response)["status"] == "INTERNAL"


@pytest.mark.parametrize("sample", [{"x": 0.0}, (0.0,), [0.0], "text", None, object()])
def test_sample_of_any_type_reaches_the_model(sample: object) -> None:
    class Broken(Doubler):
        def preprocess(self, *_: object) -> Any:
            return sample

        def inference(self, *_: object) -> Tensor:
            raise RuntimeError("broken")

    (response,) = predict(Broken(), request_body(1))
    assert error(response)["message"] == "instances[0]: inference failed"

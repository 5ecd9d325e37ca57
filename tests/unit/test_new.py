"""`make new`: copies of examples, and models written for TorchScript files and Hugging Face folders."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from authoring import huggingface, new, torchscript
from authoring.errors import NewModelError
from authoring.examples import read_example
from handler import batch, envelope
from handler.loading import load_model
from project.environment import find_python
from project.model_folder import find_model
from tests.images import ROOT, TOY
from tests.programs import Result, run_main, run_program

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class TwoInputs(nn.Module):
    """Has two tensors of one length, a number, and two outputs."""

    def forward(self, ids: Tensor, mask: Tensor, scale: float) -> dict[str, Tensor]:
        kept = ids * mask
        return {"kept": kept, "sum": kept.sum(1) * scale}


class Counter(nn.Module):
    """Has a state, which changes with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = torch.zeros(1)

    @torch.jit.export
    def reset_states(self) -> None:
        self.calls = torch.zeros(1)

    def forward(self, x: Tensor, rate: int = 8000) -> Tensor:
        self.calls = self.calls + rate / 8000
        return x + self.calls


class ListInput(nn.Module):
    """Takes a list of tensors."""

    def forward(self, x: list[Tensor]) -> Tensor:
        return x[0]


class OneSample(nn.Module):
    """Takes no batch: it adds up all that it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten().cumsum(0)


class Picture(nn.Module):
    """Takes pictures of 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with one example."""
    shutil.copytree(TOY, tmp_path / "model" / "toy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def save(folder: Path, module: nn.Module) -> Path:
    """Save a module as TorchScript."""
    path = folder / "network.pt"
    torch.jit.script(module.eval()).save(str(path))  # type: ignore[no-untyped-call]
    return path


def write_json(folder: Path, value: Any) -> Path:
    path = folder / "example.json"
    path.write_text(json.dumps(value))
    return path


def predict(folder: Path, *instances: Any) -> Any:
    """Return the predictions, or the error, of the model in a folder."""
    task = load_model(folder, torch.device("cpu"))
    request = envelope.parse_document({"instances": list(instances)})
    [response] = batch.predict_batch(task, [request])
    document = json.loads(response.body)
    return document.get("predictions") or document["error"]["message"]


def write(folder: Path, module: nn.Module, example: Any) -> tuple[Path, list[str]]:
    """Write a model for a module; return its folder and the notes."""
    requests = read_example(write_json(folder, example))
    notes = torchscript.write_model(folder / "written", save(folder, module), requests)
    return folder / "written", notes


def test_example_is_copied_without_its_tests_and_caches(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for left_out in ("tests", "__pycache__", ".git"):
        (checkout / "model/toy" / left_out).mkdir(exist_ok=True)
    done = run_main(new.main, "flowers --from toy", capsys)
    names = {path.name for path in (checkout / "model/flowers").iterdir()}
    assert (done.code, names) == (
        0,
        {"model.py", "requests.json", "labels.json", "weights.safetensors"},
    )
    commands = re.findall(r"make [\w-]+ MODEL=\S+", done.out)
    assert commands == [
        "make check MODEL=flowers",
        "make serve MODEL=flowers",
        "make deploy-endpoint MODEL=flowers",
    ]
    assert find_model("flowers").predict_route == "/predictions/flowers"


def test_new_model_may_be_anywhere(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_main(new.main, "elsewhere/flowers --from toy", capsys)
    assert "make check MODEL=elsewhere/flowers" in done.out
    assert (checkout / "elsewhere/flowers/model.py").is_file()


def test_deleted_examples_are_said_to_be_in_git(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(checkout / "model")
    done = run_main(new.main, "flowers --from tabular", capsys)
    assert "expected a TorchScript file, or a Hugging Face folder; the deleted examples" in str(
        done.code
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("toy --from toy", "model/toy exists already; use another NAME, or delete it"),
        ("Flowers --from toy", "NAME=Flowers: expected 2 to 40 lowercase letters"),
        ("'' --from toy", "NAME is not set; expected 2 to 40 lowercase letters"),
        ("f --from toy", "NAME=f: expected 2 to 40"),
        ("bench --from toy", "NAME=bench: build/bench has other files"),
        ("flowers", "FROM is not set; expected toy, a TorchScript file"),
        ("flowers --from tulips", "FROM=tulips: neither an example nor a file; expected toy"),
        ("flowers --from toy --example x", "EXAMPLE= is for a TorchScript file"),
        ("flowers --from model", "model has no config.json"),
        ("flowers --from model/toy/labels.json", "neither TorchScript nor a file of torch.save"),
        ("flowers --from state.pt", "a state_dict, weights without a network"),
        ("flowers --from module.pt", "a pickled module of torch.save(model), which is code"),
        ("flowers --from model/toy/weights.safetensors", "weights without a network"),
        (
            "flowers --from two.pt",
            "forward(Tensor ids, Tensor mask, float scale) -> Dict(str, Tensor)",
        ),
        ("flowers --from two.pt --example none.json", "EXAMPLE=none.json: the file does not exist"),
        (
            "flowers --from two.pt --example module.pt",
            "EXAMPLE=module.pt: expected JSON, a PNG or a JPEG",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    checkout: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    network = nn.Linear(2, 2)
    torch.save(network, checkout / "module.pt")
    torch.save(network.state_dict(), checkout / "state.pt")
    save(checkout, TwoInputs()).rename(checkout / "two.pt")
    done = run_main(new.main, line, capsys)
    assert str(done.code).startswith("authoring.new: ")
    assert expected in str(done.code)
    assert "\n" not in str(done.code)
    assert not (checkout / "model/flowers").exists()


def test_vector_network_needs_no_example_and_gets_expected_predictions(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(checkout, nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)))
    done = run_main(new.main, f"flowers --from {path}", capsys)
    assert done.code == 0, done
    requests = json.loads((checkout / "model/flowers/requests.json").read_text())
    assert [len(each["instance"]) for each in requests] == [4, 4]
    assert [sum(each["expected"]) for each in requests] == pytest.approx([1, 1], rel=1e-3)
    assert "Note" not in done.out


def test_instance_of_another_shape_gets_the_expected_one(tmp_path: Path) -> None:
    folder, notes = write(tmp_path, nn.Linear(3, 2), {"instances": [[1.0, 2, 3]]})
    assert not notes
    assert "expected the shape (3,); got (2,)" in predict(folder, [1, 2])
    assert "expected an array of numbers" in predict(folder, ["a", "b", "c"])


def test_example_with_a_dimension_for_the_batch_loses_it(tmp_path: Path) -> None:
    folder, notes = write(tmp_path, nn.Linear(3, 2), {"instances": [[[1.0, 2, 3]]]})
    requests = json.loads((folder / "requests.json").read_text())
    assert [each["instance"] for each in requests] == [[1.0, 2, 3]] * 2
    assert notes == ["the instances lost their first dimension, that of the batch"]


def test_whole_numbers_become_the_floats_that_the_network_takes(tmp_path: Path) -> None:
    folder, _ = write(tmp_path, nn.Linear(3, 2).double(), {"instances": [[1, 2, 3]]})
    assert '"x": (torch.float64, (3,))' in (folder / "model.py").read_text().replace("input", "x")
    assert len(predict(folder, [0.5, 1, 2])[0]) == 2


def test_several_inputs_are_an_object_and_numbers_become_constants(tmp_path: Path) -> None:
    example = [
        {"instance": {"ids": [1, 2, 3], "mask": [1, 1, 0], "scale": 2.0}},
        {"instance": {"ids": [4, 5], "mask": [1, 1], "scale": 2.0}},
    ]
    folder, notes = write(tmp_path, TwoInputs(), example)
    assert not notes
    predictions = predict(folder, *(each["instance"] for each in example))
    assert predictions == [{"kept": [1, 2, 0], "sum": 6.0}, {"kept": [4, 5], "sum": 18.0}]
    assert "mask: missing" in predict(folder, {"ids": [1]})


def test_state_is_reset_before_each_pass(tmp_path: Path) -> None:
    folder, notes = write(tmp_path, Counter(), {"x": [1.0, 2.0], "rate": 16000})
    assert not notes
    assert [predict(folder, {"x": [1.0, 2.0]}) for _ in range(2)] == [[[3.0, 4.0]]] * 2


def test_network_that_takes_no_batch_gets_one_sample_at_a_time(tmp_path: Path) -> None:
    folder, notes = write(tmp_path, OneSample(), [1.0, 2.0, 3.0])
    assert notes == ["the model does not take a batch: inference runs one sample at a time"]
    assert predict(folder, [1, 2, 3], [4, 5, 6]) == [[1, 3, 6], [4, 9, 15]]


def test_network_for_pictures_gets_the_size_that_it_accepts(tmp_path: Path) -> None:
    pictures = [{"image": each} for each in huggingface.make_pictures()]
    folder, notes = write(tmp_path, Picture(), {"instances": pictures})
    assert "resizes pictures to 32 x 32" in notes[0]
    assert "set SIDE, MEAN and STD" in notes[0]
    assert "SIDE, CHANNELS = 32, 3" in (folder / "model.py").read_text()
    assert [len(each) for each in predict(folder, *pictures)] == [2, 2]
    assert "not a PNG" in predict(folder, {"b64": "iVBORw0KGgo="})


def test_example_may_be_a_picture(tmp_path: Path) -> None:
    (tmp_path / "leaf.jpg").write_bytes(b"\xff\xd8...")
    assert read_example(tmp_path / "leaf.jpg") == [{"instance": {"b64": "/9guLi4="}}] * 2


def test_text_for_a_network_of_numbers_names_the_example_with_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NewModelError, match=r"the instance is a text.*FROM=text"):
        write(tmp_path, nn.Linear(3, 2), {"instances": ["hello"]})


def test_network_with_a_list_of_tensors_is_refused_with_its_signature(tmp_path: Path) -> None:
    with pytest.raises(NewModelError, match=r"List\[Tensor\] is not supported; copy an example"):
        write(tmp_path, ListInput(), [[1.0]])


@pytest.mark.parametrize("instance", [[["a"]], None, {}, [[]], {"x": 1, "y": 2}])
def test_instance_without_numbers_is_refused(tmp_path: Path, instance: Any) -> None:
    with pytest.raises(NewModelError):
        write(tmp_path, nn.Linear(3, 2), {"instances": [instance]})


def test_instances_with_different_inputs_are_refused(tmp_path: Path) -> None:
    full = {"ids": [1], "mask": [1], "scale": 2.0}
    with pytest.raises(NewModelError, match="an instance lacks one of ids, mask"):
        write(tmp_path, TwoInputs(), {"instances": [full, {"ids": [1], "scale": 2.0}]})


def test_instance_that_the_network_rejects_is_reported_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(NewModelError, match=r"does not accept the instance of EXAMPLE: .*shapes"):
        write(tmp_path, nn.Linear(3, 2), {"instances": [[1.0, 2.0]]})


@pytest.fixture
def hub(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder as transformers does, with empty weights."""

    def write_folder(architecture: str, *names: str) -> Path:
        folder = tmp_path / "hub"
        folder.mkdir()
        config = {"architectures": [architecture], "model_type": "bert"}
        for name in ("config.json", *names):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(config))
        return folder

    return write_folder


@pytest.mark.parametrize(
    ("architecture", "template"),
    [
        ("BertForSequenceClassification", "text_classification"),
        ("DistilBertForTokenClassification", "token_classification"),
        ("LlamaForCausalLM", "text_generation"),
        ("GPT2LMHeadModel", "text_generation"),
        ("T5ForConditionalGeneration", "text_to_text"),
        ("BertForMaskedLM", "fill_mask"),
        ("BertModel", "embedding"),
    ],
)
def test_architecture_selects_the_template(
    tmp_path: Path, hub: Callable[..., Path], architecture: str, template: str
) -> None:
    source = hub(architecture, "model.safetensors", "tokenizer.json", "trainer_state.json")
    huggingface.write_model(tmp_path / "written", source, [])
    text = (huggingface.TEMPLATES / f"{template}.py").read_text()
    assert (tmp_path / "written/model.py").read_text() == text
    assert re.fullmatch(
        r"transformers==[\d.]+\n", (tmp_path / "written/requirements.txt").read_text()
    )
    assert {path.name for path in (tmp_path / "written").iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json"),
        *("model.py", "requests.json", "requirements.txt"),
    }


@pytest.mark.parametrize(
    ("architecture", "names", "expected"),
    [
        ("BertForQuestionAnswering", (), "no template for BertForQuestionAnswering; expected"),
        ("BertModel", ("tokenizer.json",), "no *.safetensors, which BertModel needs"),
        ("BertModel", ("model.safetensors",), "no tokenizer*, which BertModel needs"),
        ("ViTForImageClassification", ("model.safetensors",), "no preprocessor_config.json"),
    ],
)
def test_incomplete_hugging_face_folder_is_refused(
    tmp_path: Path,
    hub: Callable[..., Path],
    architecture: str,
    names: tuple[str, ...],
    expected: str,
) -> None:
    with pytest.raises(NewModelError, match=re.escape(expected)):
        huggingface.write_model(tmp_path / "written", hub(architecture, *names), [])


@pytest.mark.parametrize(
    ("pooling", "text"),
    [("pooling_mode_mean_tokens", "mask.sum(1)"), ("pooling_mode_cls_token", "hidden[:, 0]")],
)
def test_embedding_is_pooled_as_sentence_transformers_does(
    tmp_path: Path, hub: Callable[..., Path], pooling: str, text: str
) -> None:
    source = hub("BertModel", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")
    (source / "1_Pooling/config.json").write_text(json.dumps({pooling: True}))
    huggingface.write_model(tmp_path / "written", source, [])
    assert text in (tmp_path / "written/model.py").read_text()


def test_other_pooling_of_sentence_transformers_is_refused(
    tmp_path: Path, hub: Callable[..., Path]
) -> None:
    source = hub("BertModel", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")
    (source / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(NewModelError, match="expected the mean or the first token"):
        huggingface.write_model(tmp_path / "written", source, [])


HUB = """
import json, sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification, BertModel,
    GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration,
    ViTConfig, ViTForImageClassification, YolosConfig, YolosForObjectDetection,
)
torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[END]", "the", "first", "text", "is", "longer", "than", "[MASK]"]
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
sizes = dict(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
bert = BertConfig(**sizes, num_labels=3)
gpt = GPT2Config(vocab_size=10, n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=2)
vit = ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)
yolos = YolosConfig(**sizes, image_size=[16, 16], patch_size=8, num_detection_tokens=3, num_labels=3)
t5 = T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
              eos_token_id=2)
for network in (BertForSequenceClassification(bert), BertForTokenClassification(bert), BertModel(bert),
                BertForMaskedLM(bert), GPT2LMHeadModel(gpt), T5ForConditionalGeneration(t5),
                ViTForImageClassification(vit), YolosForObjectDetection(yolos)):
    folder = Path(sys.argv[1]) / type(network).__name__
    network.save_pretrained(folder)
    if folder.name.startswith(("ViT", "Yolos")):
        size = {"height": 16, "width": 16}
        if folder.name.startswith("Yolos"):
            size = {"shortest_edge": 16, "longest_edge": 16}
        processor = {"image_processor_type": folder.name.split("For")[0] + "ImageProcessor", "size": size}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        continue
    names = dict(pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]", mask_token="[MASK]")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
"""


@pytest.mark.full
def test_hugging_face_folder_of_each_task_is_served_without_a_failed_check(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one name, and so one environment, for all."""
    flowers = checkout / "model/flowers"
    shutil.copytree(TOY, flowers)
    (flowers / "requirements.txt").write_text(f"transformers=={huggingface.find_version()}\n")
    python = find_python(find_model("flowers"))
    made = run_program([str(python), "-c", HUB, str(checkout / "hub")], timeout_s=200)
    assert made.code == 0, made.err
    for source in sorted((checkout / "hub").iterdir()):
        shutil.rmtree(flowers)
        done: Result = run_main(new.main, f"flowers --from {source}", capsys)
        assert done.code == 0, done.code
        assert "Note" not in done.out, done.out
        requests = json.loads((flowers / "requests.json").read_text())
        assert all(each["expected"] is not None for each in requests)

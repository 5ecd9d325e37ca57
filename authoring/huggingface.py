"""Write model.py for a Hugging Face folder: from the task that its config.json names."""

import base64
import io
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image

from authoring.errors import NewModelError
from authoring.examples import write_requests

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_BY_SUFFIX = {
    "ForSequenceClassification": "text_classification.py",
    "ForTokenClassification": "token_classification.py",
    "ForImageClassification": "image_classification.py",
    "ForObjectDetection": "object_detection.py",
    "ForMaskedLM": "fill_mask.py",
    "ForConditionalGeneration": "text_to_text.py",
    "ForCausalLM": "text_generation.py",
    "LMHeadModel": "text_generation.py",
    "Model": "embedding.py",
}
"""The template for an architecture by how its name ends; "Model" is the one without a head."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
COPIED = (*WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja", "1_Pooling")
NOT_COPIED = ("training_args.json", "trainer_state.json", "all_results.json", "README*")
TRANSFORMERS = "5.24.0"
"""The version that is required if none is installed; the tests use it."""
TEXTS = (
    "The first example of a text.",
    "Another text, which is somewhat longer than the first one.",
)


def write_model(folder: Path, source: Path, requests: list[dict[str, Any]]) -> list[str]:
    """Write a model's folder for a Hugging Face folder; return what its author has to know.

    Raises NewModelError if the folder is none, or its task has no template.
    """
    architecture = read_architecture(source)
    endings = [each for each in TEMPLATE_BY_SUFFIX if architecture.endswith(each)]
    if not endings:
        expected = ", ".join(f"...{each}" for each in TEMPLATE_BY_SUFFIX)
        raise NewModelError(f"{source}: no template for {architecture}; expected {expected}")
    template = TEMPLATE_BY_SUFFIX[endings[0]]
    is_picture = template.startswith(("image", "object"))
    check_files(source, "preprocessor_config.json" if is_picture else "tokenizer*", architecture)
    folder.mkdir(parents=True)
    for pattern in COPIED:
        for path in source.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            elif not any(path.match(each) for each in NOT_COPIED):
                shutil.copyfile(path, folder / path.name)
    text = (TEMPLATES / template).read_text()
    (folder / "model.py").write_text(set_pooling(text, source) if endings[0] == "Model" else text)
    (folder / "requirements.txt").write_text(f"transformers=={find_version()}\n")
    instances = make_pictures() if is_picture else list(TEXTS)
    if template.startswith("fill_mask"):
        instances = [text.replace("text", read_mask(source)) for text in TEXTS]
    write_requests(folder, requests or [{"instance": instance} for instance in instances])
    return []


def read_architecture(source: Path) -> str:
    """Return the class of the network, such as "BertForSequenceClassification"; raise NewModelError."""
    path = source / "config.json"
    if not path.is_file():
        expected = "an example, a TorchScript file, or a Hugging Face folder with a config.json"
        raise NewModelError(f"{source} has no config.json; expected {expected}")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise NewModelError(f"{path}: expected JSON: {error}") from None
    names = config.get("architectures") if isinstance(config, dict) else None
    if not names or "model_type" not in config:
        raise NewModelError(
            f'{path}: expected "architectures" and "model_type", as transformers writes'
        )
    return str(names[0])


def check_files(source: Path, pattern: str, architecture: str) -> None:
    """Raise NewModelError if the folder lacks weights, or the files that read an instance."""
    for needed in (WEIGHTS, (pattern,)):
        if not any(any(source.glob(each)) for each in needed):
            raise NewModelError(f"{source}: no {needed[0]}, which {architecture} needs")


def read_mask(source: Path) -> str:
    """Return the token that stands for a masked word."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = source / name
        token = json.loads(path.read_bytes()).get("mask_token") if path.is_file() else None
        if token:
            return str(token["content"] if isinstance(token, dict) else token)
    return "[MASK]"


def set_pooling(text: str, source: Path) -> str:
    """Return the template with the pooling of sentence-transformers' configuration; raise NewModelError."""
    path = source / "1_Pooling" / "config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    modes = [
        key for key, value in config.items() if key.startswith("pooling_mode_") and value is True
    ]
    if modes in ([], ["pooling_mode_mean_tokens"]):
        return text
    if modes != ["pooling_mode_cls_token"]:
        raise NewModelError(f"{path}: expected the mean or the first token; got {', '.join(modes)}")
    start = text.index("        mask = batch")
    end = text.index("    def postprocess")
    text = f"{text[:start]}        return hidden[:, 0]\n\n{text[end:]}"
    mean = "the mean over the tokens of each text, without the padding"
    return text.replace(mean, "the first token of each text").replace(
        "the mean over the tokens of a text", "the first token of a text"
    )


def find_version() -> str:
    """Return the version of transformers that is installed, or the one that is tested."""
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return TRANSFORMERS


def make_pictures() -> list[dict[str, str]]:
    """Return instances with two small pictures, of a gradient."""
    gradient = Image.linear_gradient("L").resize((32, 32))
    pictures = []
    for image in (gradient, gradient.rotate(90)):
        file = io.BytesIO()
        Image.merge("RGB", (image, image.rotate(90), image.rotate(180))).save(file, "PNG")
        pictures.append({"b64": base64.b64encode(file.getvalue()).decode()})
    return pictures

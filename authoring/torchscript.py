"""Write model.py for a TorchScript file: from the schema of its `forward`, and from what it accepts."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from authoring.errors import NewModelError
from authoring.examples import write_requests
from authoring.interface import Interface, find_interface

TEMPLATES = Path(__file__).parent / "templates"


def write_model(folder: Path, source: Path, requests: list[dict[str, Any]]) -> list[str]:
    """Write a model's folder for a TorchScript file; return what its author has to know.

    Raises NewModelError if the file is none, or the requests do not fit it.
    """
    module = load_module(source)
    schema = re.sub(r"^[^(]*\(\S+ \w+(?:, )?", "(", str(module.forward.schema))
    arguments = module.forward.schema.arguments[1:]
    requests = requests or guess_requests(module, arguments, schema)
    instances = [request["instance"] for request in requests]
    interface = find_interface(module, arguments, instances, schema)
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / source.name)
    (folder / "model.py").write_text(format_model(source.name, schema, interface))
    write_requests(
        folder, [{**each, "instance": i} for each, i in zip(requests, instances, strict=True)]
    )
    return interface.notes


def load_module(source: Path) -> Any:
    """Load a TorchScript file; raise NewModelError with what the file is instead."""
    try:
        return torch.jit.load(str(source), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise NewModelError(f"{source}: {_describe_file(source)}") from error


def _describe_file(source: Path) -> str:
    if source.suffix == ".safetensors":
        return (
            "weights without a network; expected TorchScript: copy an example and load them there"
        )
    script = "torch.jit.script(model).save(FILE)"
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  any file may be given
        if "Unsupported global" in str(error):
            return (
                f"a pickled module of torch.save(model), which is code; save it by {script} instead"
            )
        is_program = zipfile.is_zipfile(source) and source.suffix == ".pt2"
        kind = (
            "an exported program" if is_program else "neither TorchScript nor a file of torch.save"
        )
        return f"{kind}; expected a file of {script}"
    if isinstance(content, dict):
        return (
            f"a state_dict, weights without a network; save the model by {script}, or copy an "
            "example (FROM=tabular), put the network's class there, and load the weights in load"
        )
    return f"a saved {type(content).__name__}; expected a file of {script}"


def guess_requests(module: Any, arguments: list[Any], schema: str) -> list[dict[str, Any]]:
    """Return requests for a module whose first layer takes a vector; raise NewModelError for others."""
    first = next((each for each in module.parameters() if each.dim() > 1), None)
    if len(arguments) == 1 and first is not None and first.dim() == 2:
        width = first.shape[1]
        instances = [[0.5] * width, [round(index / width, 3) for index in range(width)]]
        try:
            find_interface(module, arguments, list(instances), schema)
        except NewModelError:
            pass
        else:
            return [{"instance": instance} for instance in instances]
    names = ", ".join(f'"{each.name}": ...' for each in arguments)
    shape = "a picture or numbers" if len(arguments) == 1 else f"{{{names}}}"
    raise NewModelError(
        f"forward{schema} does not show what an instance is: give one with EXAMPLE=FILE, "
        f'{{"instances": [...]}} with {shape}, without the dimension of the batch'
    )


def format_model(file: str, schema: str, found: Interface) -> str:
    """Return the text of model.py."""
    name = "torchscript_picture.py" if found.side else "torchscript_numbers.py"
    text = (TEMPLATES / name).read_text()
    constants = "".join(f", {key}={json.dumps(value)}" for key, value in found.constants.items())
    constants = constants.replace("true", "True").replace("false", "False")
    is_single = found.side or not found.is_object
    batch = "batch" if is_single else "**batch"
    sample = "sample[None]" if is_single else "**{key: each[None] for key, each in sample.items()}"
    row = "[0]" if found.has_row else ""
    reset = f"        self.model.{found.reset}()\n" if found.reset else ""
    if found.is_batched:
        call = f"{reset}        return self.model({batch}{constants})\n"
    elif found.reset:
        call = (
            "        outputs = []\n        for sample in batch:\n"
            f"            self.model.{found.reset}()\n"
            f"            outputs.append(self.model({sample}{constants}){row})\n        return outputs\n"
        )
    else:
        call = f"        return [self.model({sample}{constants}){row} for sample in batch]\n"
    inputs = ", ".join(
        f'"{name}": ({dtype}, {_format_shape(found.shapes[name])})'
        for name, dtype in found.dtypes.items()
    )
    if not found.is_batched:
        call += _COLLATE
    for old, new in (
        ('"model.pt"', json.dumps(file)),
        ("forward(x: Tensor)", f"forward{schema}"),
        ('{"x": (torch.float32, (None,))}', f"{{{inputs}}}"),
        ("SIDE, CHANNELS = 224, 3", f"SIDE, CHANNELS = {found.side}, {found.channels}"),
        ("        return self.model(batch)\n", call),
    ):
        text = text.replace(old, new)
    if found.is_object:
        text = text.replace(_ONE_INPUT, _INPUTS).replace(
            "batch: Tensor", "batch: dict[str, Tensor]"
        )
    if not found.is_batched:
        text = re.sub("batch: [^)]*", "batch: list[Any]", text)
    return text


def _format_shape(shape: list[int | None]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


_ONE_INPUT = '''    def preprocess(self, instance: list[Any]) -> Tensor:
        """Return the input for one instance; raise BadInstance."""
        (name,) = INPUTS
        return read_tensor(name, instance)
'''
_INPUTS = '''    def preprocess(self, instance: dict[str, Any]) -> dict[str, Tensor]:
        """Return the inputs for one instance; raise BadInstance."""
        if missing := INPUTS.keys() - instance.keys():
            raise BadInstance(f"{min(missing)}: missing; expected {', '.join(INPUTS)}")
        return {name: read_tensor(name, instance[name]) for name in INPUTS}
'''
_COLLATE = '''
    def collate(self, samples: list[Any]) -> list[Any]:
        """Keep the samples apart: the model takes one at a time."""
        return samples
'''

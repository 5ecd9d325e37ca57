"""The pipeline: train → evaluate → gate → export → archive → build → contract → upload → canary → promote.

kfp copies the source of each step function below into the compiled YAML and runs it in a container, or by the
local runner in a process, with kfp and this repository installed. Each function therefore only calls the function
of the same name in `steps.py`. `python -m pipeline compile` writes pipeline/pipeline.yaml.
"""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Input, Metrics, Model, Output

from pipeline.steps import CACHED, STEPS

IMAGE = "pipeline-steps:python"
"""A placeholder in the committed YAML: `submit` sets the real image, and the local runner uses none."""


def train(
    weights: str,
    data: str,
    training_pictures: int,
    epochs: int,
    seed: int,
    source_hash: str,
    model: Output[Model],
    training_report: Output[Artifact],
) -> None:
    from pipeline import steps

    options = {"pictures": training_pictures, "epochs": epochs, "seed": seed}
    steps.train(
        model, training_report, weights=weights, data=data, options=options, source_hash=source_hash
    )


def evaluate(
    model: Input[Model],
    serving: str,
    data: str,
    eval_pictures: int,
    tolerance: float,
    min_accuracy: float,
    project: str,
    region: str,
    report: Output[HTML],
    report_files: Output[Artifact],
    metrics: Output[Metrics],
    confusion_matrix: Output[ClassificationMetrics],
    passed: dsl.OutputPath(bool),  # type: ignore[valid-type]
    message: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    from pathlib import Path

    from pipeline import steps

    limits = {"eval_pictures": eval_pictures, "tolerance": tolerance, "min_accuracy": min_accuracy}
    target = {"project": project, "region": region}
    result = steps.evaluate(
        model, report, report_files, serving=serving, data=data, limits=limits, target=target
    )
    for name, value in result["metrics"].items():
        metrics.log_metric(name, value)
    confusion_matrix.log_confusion_matrix(result["labels"], result["confusion"])
    Path(passed).write_text("true" if result["passed"] else "false")
    Path(message).write_text(result["message"])


def gate(passed: bool, message: str) -> None:
    from pipeline import steps

    steps.gate(passed, message)


def export(model: Input[Model], exported_model: Output[Model]) -> None:
    from pipeline import steps

    steps.export(model, exported_model)


def archive(exported_model: Input[Model], archive_file: Output[Artifact]) -> None:
    from pipeline import steps

    steps.archive(exported_model, archive_file)


def build(
    exported_model: Input[Model],
    archive_file: Input[Artifact],
    builder: str,
    project: str,
    region: str,
) -> str:
    from pipeline import steps

    target = {"project": project, "region": region, "builder": builder}
    return steps.build(exported_model, archive_file, builder=builder, target=target)


def contract(
    exported_model: Input[Model],
    archive_file: Input[Artifact],
    image: str,
    builder: str,
    project: str,
    region: str,
) -> None:
    from pipeline import steps

    target = {"project": project, "region": region, "builder": builder}
    steps.contract(exported_model, archive_file, image, builder=builder, target=target)


def upload(
    exported_model: Input[Model],
    archive_file: Input[Artifact],
    builder: str,
    project: str,
    region: str,
) -> str:
    from pipeline import steps

    target = {"project": project, "region": region, "builder": builder}
    return steps.upload(exported_model, archive_file, target=target)


def canary(
    version: str,
    traffic: int,
    watch: str,
    max_error_rate: str,
    max_p95: str,
    project: str,
    region: str,
) -> None:
    from pipeline import steps

    limits = {"watch": watch, "max_error_rate": max_error_rate, "max_p95": max_p95}
    target = {"project": project, "region": region}
    steps.canary(version, target=target, traffic=traffic, limits=limits)


def promote(version: str, project: str, region: str) -> None:
    from pipeline import steps

    steps.promote(version, target={"project": project, "region": region})


def build_pipeline(
    until: str = STEPS[-1], image: str = IMAGE, cached: Collection[str] = CACHED
) -> Any:
    """Return the kfp pipeline with the steps up to `until`, run in `image`, with caching on for `cached`."""
    included = STEPS[: STEPS.index(until) + 1]

    def create_component(function: Callable[..., Any]) -> Any:
        return dsl.component(func=function, base_image=image, install_kfp_package=False)

    @dsl.pipeline(
        name="digits",
        description="From training data, or trained weights, to a Vertex AI endpoint.",
    )
    def pipeline(
        weights: str = "",
        data: str = "",
        pictures: int = 60_000,
        epochs: int = 5,
        seed: int = 0,
        source_hash: str = "",
        serving: str = "none",
        eval_pictures: int = 0,
        tolerance: float = 0.01,
        min_accuracy: float = 0.9,
        builder: str = "cloud",
        project: str = "",
        region: str = "",
        traffic: int = 10,
        watch: str = "",
        max_error_rate: str = "1%",
        max_p95: str = "",
    ) -> None:
        """Connect the steps; each step runs after the previous one."""
        tasks: dict[str, Any] = {}
        google = {"project": project, "region": region}

        def add(function: Callable[..., Any], **inputs: Any) -> None:
            name = function.__name__
            if name in included:
                task = create_component(function)(**inputs)
                task.set_caching_options(enable_caching=name in cached)
                if tasks:
                    task.after(list(tasks.values())[-1])
                tasks[name] = task

        def get_output(step: str, output: str) -> Any:
            return tasks[step].outputs[output] if step in tasks else None

        training = {"training_pictures": pictures, "epochs": epochs, "seed": seed}
        add(train, weights=weights, data=data, **training, source_hash=source_hash)
        model = get_output("train", "model")
        limits = {
            "eval_pictures": eval_pictures,
            "tolerance": tolerance,
            "min_accuracy": min_accuracy,
        }
        add(evaluate, model=model, serving=serving, data=data, **limits, **google)
        result = {name: get_output("evaluate", name) for name in ("passed", "message")}
        add(gate, **result)
        add(export, model=model)
        exported_model = get_output("export", "exported_model")
        add(archive, exported_model=exported_model)
        files = {
            "exported_model": exported_model,
            "archive_file": get_output("archive", "archive_file"),
        }
        add(build, **files, builder=builder, **google)
        add(contract, **files, image=get_output("build", "Output"), builder=builder, **google)
        add(upload, **files, builder=builder, **google)
        version = get_output("upload", "Output")
        canary_limits = {"watch": watch, "max_error_rate": max_error_rate, "max_p95": max_p95}
        add(canary, version=version, traffic=traffic, **canary_limits, **google)
        add(promote, version=version, **google)

    return pipeline


def main() -> None:
    """Compile the pipeline to YAML; the output depends only on the sources and the options."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.definition", description="Compile the pipeline to YAML."
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the YAML file to write")
    add("--until", choices=STEPS, default=STEPS[-1], help="the last step")
    add("--image", default=IMAGE, help="the image that the steps run in")
    add("--cached", choices=CACHED, nargs="*", default=CACHED, help="steps with caching on")
    args = parser.parse_args()
    compiler.Compiler().compile(build_pipeline(args.until, args.image, args.cached), str(args.out))


if __name__ == "__main__":
    main()

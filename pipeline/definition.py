"""The pipeline: train → archive → evaluate → gate → build → contract → upload → canary → promote.

kfp copies the source of each step function below into the compiled YAML and runs it in a container, or by the
local runner in a process, with kfp and this repository installed. Each function therefore only passes its inputs to
the function of the same name in `steps.py`. `python -m pipeline compile` writes pipeline/pipeline.yaml.
"""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Input, Metrics, Model, Output

from pipeline.steps import CACHED, STEPS

NAME = "model"
"""The name of the committed pipeline, which is of no particular model."""
IMAGE = "pipeline-steps:python"
"""A placeholder in the committed YAML: `submit` sets the real image, and the local runner uses none."""


def train(
    model: str,
    weights: str,
    data: str,
    train_options: str,
    source_hash: str,
    trained: Output[Model],
) -> None:
    inputs = dict(locals())
    from pipeline import steps

    steps.train(**inputs)


def archive(model: str, trained: Input[Model], archive_hash: str, packed: Output[Model]) -> None:
    inputs = dict(locals())
    from pipeline import steps

    steps.archive(**inputs)


def evaluate(
    model: str,
    packed: Input[Model],
    serving: str,
    eval_instances: int,
    tolerance: float,
    min_score: float,
    project: str,
    region: str,
    report: Output[HTML],
    report_files: Output[Artifact],
    metrics: Output[Metrics],
    confusion_matrix: Output[ClassificationMetrics],
    passed: dsl.OutputPath(bool),  # type: ignore[valid-type]
    message: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    inputs = dict(locals())
    from pathlib import Path

    from pipeline import steps

    for name in ("metrics", "confusion_matrix", "passed", "message"):
        del inputs[name]
    result = steps.evaluate(**inputs)
    for name, value in result["metrics"].items():
        metrics.log_metric(name, value)
    if result["labels"]:
        confusion_matrix.log_confusion_matrix(result["labels"], result["confusion"])
    Path(passed).write_text("true" if result["passed"] else "false")
    Path(message).write_text(result["message"])


def gate(model: str, packed: Input[Model], passed: bool, message: str) -> None:
    inputs = dict(locals())
    from pipeline import steps

    steps.gate(**inputs)


def build(model: str, packed: Input[Model], builder: str, project: str, region: str) -> str:
    inputs = dict(locals())
    from pipeline import steps

    return steps.build(**inputs)


def contract(
    model: str, packed: Input[Model], image: str, builder: str, project: str, region: str
) -> None:
    inputs = dict(locals())
    from pipeline import steps

    steps.contract(**inputs)


def upload(model: str, packed: Input[Model], builder: str, project: str, region: str) -> str:
    inputs = dict(locals())
    from pipeline import steps

    return steps.upload(**inputs)


def canary(
    model: str,
    version: str,
    traffic: int,
    watch: str,
    max_error_rate: str,
    max_p95: str,
    project: str,
    region: str,
) -> None:
    inputs = dict(locals())
    from pipeline import steps

    steps.canary(**inputs)


def promote(model: str, version: str, project: str, region: str) -> None:
    inputs = dict(locals())
    from pipeline import steps

    steps.promote(**inputs)


def build_pipeline(
    name: str = NAME,
    until: str = STEPS[-1],
    image: str = IMAGE,
    cached: Collection[str] = CACHED,
) -> Any:
    """Return the kfp pipeline with the steps up to `until`, run in `image`, with caching on for `cached`."""
    included = STEPS[: STEPS.index(until) + 1]

    def create_component(function: Callable[..., Any]) -> Any:
        return dsl.component(func=function, base_image=image, install_kfp_package=False)

    @dsl.pipeline(
        name=name,
        description="From training data, or trained weights, to a Vertex AI endpoint.",
    )
    def pipeline(
        model: str,
        weights: str = "",
        data: str = "",
        train_options: str = "",
        source_hash: str = "",
        archive_hash: str = "",
        serving: str = "none",
        eval_instances: int = 0,
        tolerance: float = 0.01,
        min_score: float = 0.0,
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
            step = function.__name__
            if step in included:
                task = create_component(function)(model=model, **inputs)
                task.set_caching_options(enable_caching=step in cached)
                if tasks:
                    task.after(list(tasks.values())[-1])
                tasks[step] = task

        def get_output(step: str, output: str) -> Any:
            return tasks[step].outputs[output] if step in tasks else None

        training = {"data": data, "train_options": train_options, "source_hash": source_hash}
        add(train, weights=weights, **training)
        add(archive, trained=get_output("train", "trained"), archive_hash=archive_hash)
        packed = {"packed": get_output("archive", "packed")}
        limits = {"eval_instances": eval_instances, "tolerance": tolerance, "min_score": min_score}
        add(evaluate, **packed, serving=serving, **limits, **google)
        result = {each: get_output("evaluate", each) for each in ("passed", "message")}
        add(gate, **packed, **result)
        add(build, **packed, builder=builder, **google)
        add(contract, **packed, image=get_output("build", "Output"), builder=builder, **google)
        add(upload, **packed, builder=builder, **google)
        version = {"version": get_output("upload", "Output")}
        watched = {"watch": watch, "max_error_rate": max_error_rate, "max_p95": max_p95}
        add(canary, **version, traffic=traffic, **watched, **google)
        add(promote, **version, **google)

    return pipeline


def main() -> None:
    """Compile the pipeline to YAML; the output depends only on the sources and the options."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.definition", description="Compile the pipeline to YAML."
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the YAML file to write")
    add("--name", default=NAME, help="the pipeline's name (default: %(default)s)")
    add("--until", choices=STEPS, default=STEPS[-1], help="the last step")
    add("--image", default=IMAGE, help="the image that the steps run in")
    add("--cached", choices=CACHED, nargs="*", default=CACHED, help="steps with caching on")
    args = parser.parse_args()
    pipeline = build_pipeline(args.name, args.until, args.image, args.cached)
    compiler.Compiler().compile(pipeline, str(args.out))


if __name__ == "__main__":
    main()

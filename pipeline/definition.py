"""The pipeline: train → evaluate → gate → export → archive → build → contract → upload → canary → promote.

Each function below is a step as kfp wants it: its text goes into the compiled YAML and runs in a
container, or here in a process, where this repository and kfp are. So it says no more than which of
`steps.py` it is. Compile it with: python -m pipeline compile
"""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Input, Metrics, Model, Output

from pipeline.steps import CACHED, STEPS

IMAGE = "pipeline-steps:python"
"""Stands for the steps' image in the YAML that is kept; `submit` names the real one. Here none is used."""


def train(
    weights: str,
    data: str,
    pictures_drawn: int,
    epochs: int,
    seed: int,
    code: str,
    model: Output[Model],
    pictures: Output[Artifact],
) -> None:
    from pipeline import steps

    options = {"pictures": pictures_drawn, "epochs": epochs, "seed": seed}
    steps.train(model, pictures, weights=weights, data=data, options=options, code=code)


def evaluate(
    model: Input[Model],
    serving: str,
    data: str,
    examined: int,
    tolerance: float,
    least: float,
    project: str,
    region: str,
    report: Output[HTML],
    pictures: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    passes: dsl.OutputPath(bool),  # type: ignore[valid-type]
    message: dsl.OutputPath(str),  # type: ignore[valid-type]
) -> None:
    from pathlib import Path

    from pipeline import steps

    rule = {"examined": examined, "tolerance": tolerance, "least": least}
    where = {"project": project, "region": region}
    found = steps.evaluate(
        model, report, pictures, serving=serving, data=data, rule=rule, where=where
    )
    for name, value in found["metrics"].items():
        metrics.log_metric(name, value)
    confusion.log_confusion_matrix(found["labels"], found["confusion"])
    Path(passes).write_text("true" if found["passes"] else "false")
    Path(message).write_text(found["message"])


def gate(passes: bool, message: str) -> None:
    from pipeline import steps

    steps.gate(passes, message)


def export(model: Input[Model], exported: Output[Model]) -> None:
    from pipeline import steps

    steps.export(model, exported)


def archive(exported: Input[Model], packed: Output[Artifact]) -> None:
    from pipeline import steps

    steps.archive(exported, packed)


def build(
    exported: Input[Model], packed: Input[Artifact], builder: str, project: str, region: str
) -> str:
    from pipeline import steps

    where = {"project": project, "region": region, "builder": builder}
    return steps.build(exported, packed, builder=builder, where=where)


def contract(
    exported: Input[Model],
    packed: Input[Artifact],
    image: str,
    builder: str,
    project: str,
    region: str,
) -> None:
    from pipeline import steps

    where = {"project": project, "region": region, "builder": builder}
    steps.contract(exported, packed, image, builder=builder, where=where)


def upload(
    exported: Input[Model], packed: Input[Artifact], builder: str, project: str, region: str
) -> str:
    from pipeline import steps

    where = {"project": project, "region": region, "builder": builder}
    return steps.upload(exported, packed, where=where)


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
    where = {"project": project, "region": region}
    steps.canary(version, where=where, traffic=traffic, limits=limits)


def promote(version: str, project: str, region: str) -> None:
    from pipeline import steps

    steps.promote(version, where={"project": project, "region": region})


def story(until: str = STEPS[-1], image: str = IMAGE, cached: Collection[str] = CACHED) -> Any:
    """Return the pipeline up to a step, its steps in an image."""
    wanted = STEPS[: STEPS.index(until) + 1]

    def step(function: Callable[..., Any]) -> Any:
        return dsl.component(func=function, base_image=image, install_kfp_package=False)

    @dsl.pipeline(
        name="digits", description="From data, or trained weights, to a Vertex AI endpoint."
    )
    def pipeline(
        weights: str = "",
        data: str = "",
        pictures: int = 60_000,
        epochs: int = 5,
        seed: int = 0,
        code: str = "",
        serving: str = "none",
        examined: int = 0,
        tolerance: float = 0.01,
        least: float = 0.9,
        builder: str = "cloud",
        project: str = "",
        region: str = "",
        traffic: int = 10,
        watch: str = "",
        max_error_rate: str = "1%",
        max_p95: str = "",
    ) -> None:
        """Say which step gets what of which. Each step waits for the one before."""
        made: dict[str, Any] = {}
        google = {"project": project, "region": region}

        def add(function: Callable[..., Any], **inputs: Any) -> None:
            name = function.__name__
            if name in wanted:
                task = step(function)(**inputs)
                task.set_caching_options(enable_caching=name in cached)
                if made:
                    task.after(list(made.values())[-1])
                made[name] = task

        def of(name: str, output: str) -> Any:
            return made[name].outputs[output] if name in made else None

        drawn = {"pictures_drawn": pictures, "epochs": epochs, "seed": seed}
        add(train, weights=weights, data=data, **drawn, code=code)
        model = of("train", "model")
        asked = {"serving": serving, "data": data, "examined": examined}
        add(evaluate, model=model, **asked, tolerance=tolerance, least=least, **google)
        add(gate, passes=of("evaluate", "passes"), message=of("evaluate", "message"))
        add(export, model=model)
        exported = of("export", "exported")
        add(archive, exported=exported)
        files = {"exported": exported, "packed": of("archive", "packed")}
        add(build, **files, builder=builder, **google)
        add(contract, **files, image=of("build", "Output"), builder=builder, **google)
        add(upload, **files, builder=builder, **google)
        version = of("upload", "Output")
        limits = {"watch": watch, "max_error_rate": max_error_rate, "max_p95": max_p95}
        add(canary, version=version, traffic=traffic, **limits, **google)
        add(promote, version=version, **google)

    return pipeline


def main() -> None:
    """Compile the pipeline; the same sources give the same bytes."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.definition", description="Compile the pipeline."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--image", default=IMAGE)
    parser.add_argument("--cached", choices=CACHED, nargs="*", default=CACHED)
    args = parser.parse_args()
    compiler.Compiler().compile(story(args.until, args.image, args.cached), str(args.out))


if __name__ == "__main__":
    main()

"""Print the name, the archive, the predict route or another property of the model that MODEL selects."""

import argparse

from project import cli
from project.model_folder import add_model_option, find_model


def main() -> None:
    """Print one property; exit with the error if MODEL names no model."""
    parser = argparse.ArgumentParser(prog="python -m project", description=__doc__)
    choices = ("name", "path", "build", "archive", "request", "requests", "predict_route")
    parser.add_argument("property", choices=choices)
    add_model_option(parser)
    args = parser.parse_args()
    cli.run("project", lambda: print(getattr(find_model(args.model), args.property)))


if __name__ == "__main__":
    main()

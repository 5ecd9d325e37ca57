"""Run a script with Google's SDK (google-cloud-aiplatform) directed to the emulator.

The script uses `from google.cloud import aiplatform` as it would with Google. In a program or a notebook, call
`emulator.sdk.init()` in place of `aiplatform.init()`. Both need the variables of `make emulator-env`.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

URL = "DEPLOY_API_ENDPOINT"


def init(project: str | None = None, location: str = "us-central1") -> None:
    """Initialize the SDK for the emulator whose variables are set; raise KeyError without them.

    A later call of aiplatform.init() with another project or location keeps the rest.
    """
    aiplatform.init(
        project=project or os.environ["CLOUDSDK_CORE_PROJECT"],
        location=location,
        api_endpoint=os.environ[URL],
        api_transport="rest",
        credentials=AnonymousCredentials(),
    )


def main() -> None:
    """Run a script with the SDK directed to the emulator."""
    parser = argparse.ArgumentParser(
        prog="python -m emulator.sdk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", help="Python file to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args()
    if not Path(args.script).is_file():
        parser.error(f"{args.script} is not a file")
    if URL not in os.environ:
        sys.exit(f'emulator.sdk: {URL} is not set; run: eval "$(make emulator-env)"')
    init()
    sys.argv = [args.script, *args.arguments]
    sys.path.insert(0, str(Path(args.script).parent.resolve()))  # as Python does for a script
    runpy.run_path(args.script, run_name="__main__")


if __name__ == "__main__":
    main()

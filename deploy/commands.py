"""What each command of the command line does: google and the parsed arguments in, words out."""

import argparse

from deploy import ask, image, release, teardown, versions, watch
from deploy import status as state_of_things
from deploy.errors import Stop
from deploy.google import Google as Google  # noqa: PLC0414  __main__ makes one
from deploy.google import Wanted

Args = argparse.Namespace


def endpoint(google: Google, args: Args) -> None:
    """Do all that is missing."""
    release.everything(google, args.request)


def build(google: Google, args: Args) -> None:
    """Build and push the image, unless it is there."""
    if args.serve:
        image.build_in_cloud(google, args.serve)
    else:
        image.ensure(google)


def upload(google: Google, _: Args) -> None:
    """Register the image that is meant."""
    print(versions.upload(google))


def deploy(google: Google, args: Args) -> None:
    """Let a version serve everything."""
    release.deploy(google, _version(google, args))


def canary(google: Google, args: Args) -> None:
    """Let a version serve a part."""
    limits = None
    if args.watch:
        p95 = watch.milliseconds(args.max_p95) if args.max_p95 else float("inf")
        limits = watch.Limits(watch.minutes(args.watch), watch.rate(args.max_error_rate), p95)
    release.canary(google, _version(google, args), args.traffic, limits)


def promote(google: Google, _: Args) -> None:
    """Let the canary serve everything."""
    release.promote(google)


def rollback(google: Google, _: Args) -> None:
    """Let the version before serve everything again."""
    release.rollback(google)


def predict(google: Google, args: Args) -> None:
    """Send one request."""
    ask.predict(google, args.source)


def batch_predict(google: Google, args: Args) -> None:
    """Send a bucket full of instances."""
    s, parameters = google.settings, ask.parameters(args.parameters)
    model = f"{s.model}@{_version(google, args)}"
    wanted = Wanted(model, args.input, args.output, parameters, s.machine_type, args.replicas)
    ask.batch(google, wanted)


def status(google: Google, _: Args) -> None:
    """Say what there is."""
    state_of_things.status(google)


def undeploy(google: Google, args: Args) -> None:
    """End what is deployed."""
    teardown.undeploy(google, args.version or "", idle=args.idle, yes=args.yes)


def teardown_(google: Google, args: Args) -> None:
    """Delete everything that costs."""
    teardown.teardown(google, keep_images=args.keep_images, yes=args.yes)


def _version(google: Google, args: Args) -> str:
    """Return the version that is meant: the one named, or the one of the image that is meant."""
    if not args.version:
        return versions.upload(google)
    if args.version not in [each.number for each in google.versions()]:
        raise Stop(
            f"there is no version {args.version} of {google.settings.name}",
            "python -m deploy status",
        )
    return str(args.version)

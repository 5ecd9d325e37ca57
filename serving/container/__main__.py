"""The container's first process: starts the fork server, which takes longest, then imports the entrypoint."""

from serving.container.fork_server import ForkServer


def main() -> None:
    """Serve the model until a signal to stop."""
    fork_server = ForkServer()
    from serving.container import entrypoint  # noqa: PLC0415

    entrypoint.main(fork_server)


if __name__ == "__main__":
    main()

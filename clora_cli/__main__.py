"""Where a process begins: the program ``clora``, and ``python -m clora_cli``, which launchers such as ``accelerate launch -m`` need."""

from clora_cli.processes.signals import leave


def main() -> None:
    """Run the command line."""
    leave()  # importing takes a while, and leaves nothing behind
    from clora_cli.cli import main as run

    run()


if __name__ == "__main__":
    main()

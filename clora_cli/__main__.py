"""``python -m clora_cli``, which launchers such as ``accelerate launch -m`` need."""

from clora_cli.cli import main

if __name__ == "__main__":
    main()

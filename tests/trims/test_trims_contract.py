"""What every trim must do: a new file is tested by being there, an installed trim by being installed."""

from clora_cli.testing import conformance

TestTrims = conformance("trims")

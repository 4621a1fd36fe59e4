"""What every method must do: a new file is tested by being there, an installed method by being installed."""

from clora_cli.testing import conformance

TestMethods = conformance("methods")

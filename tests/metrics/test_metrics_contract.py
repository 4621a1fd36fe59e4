"""What every metric must do: a new file is tested by being there, an installed metric by being installed."""

from clora_cli.testing import conformance

TestMetrics = conformance("metrics")

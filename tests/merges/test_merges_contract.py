"""What every merge must do: a new file is tested by being there, an installed merge by being installed."""

from clora_cli.testing import conformance

TestMerges = conformance("merges")

"""What every router must do: a new file is tested by being there, an installed router by being installed."""

from clora_cli.testing import conformance

TestRouters = conformance("routers")

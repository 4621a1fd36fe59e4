"""The tests that clora asks of every plug-in: one line each."""

from clora_cli.testing import conformance

TestMethods = conformance("methods", "row-sparse")
TestMerges = conformance("merges", "balanced")
TestTrims = conformance("trims", "energy")
TestRouters = conformance("routers", "minkowski")
TestMetrics = conformance("metrics", "worst-task")

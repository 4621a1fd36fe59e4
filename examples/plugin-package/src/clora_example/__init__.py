"""Plug-ins for clora: a method, a merge, a trim, a router and a metric."""

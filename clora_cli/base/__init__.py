"""What everything stands on (layer L0): errors, files, records, progress, the registry of plug-ins; no torch, no model."""

"""What a path says about its run."""

from __future__ import annotations

from clora_cli.reporting.run_folders import run_folder


def test_a_place_is_read_from_its_end():
    assert run_folder("a/seed-3/b/n-lora/seed-12/adapters/x") == run_folder("a/seed-3/b/n-lora/seed-12")
    assert (run_folder("a/n-lora/seed-12/s.json").name, run_folder("a/n-lora/seed-12/s.json").seed) == ("n-lora", 12)
    assert run_folder("seed-1/adapters").name == run_folder("a/seeds-1/adapters").name == ""

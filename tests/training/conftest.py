from __future__ import annotations

import pytest
from support import options_for

from clora_cli.training import make_plan


@pytest.fixture
def plan_for(tmp_path, model_folder, tasks):
    def plan(task="first", **chosen):
        family, package = chosen.pop("family", "llama"), tmp_path / chosen.pop("package", "adapters")
        return make_plan(options_for(model_folder(family), tasks[task], package, **chosen))

    return plan

"""Coordination of the processes of one launch (layer L0)."""

from __future__ import annotations

from clora_cli.processes.meeting.launch import (
    LAUNCH_VARIABLES,
    agree,
    end_all,
    fallen_out,
    joined,
    launched,
    leave,
    meet,
    together,
    wait_for_all,
)
from clora_cli.processes.meeting.messages import WORK, ElsewhereError, Meeting

__all__ = [
    "LAUNCH_VARIABLES",
    "WORK",
    "ElsewhereError",
    "Meeting",
    "agree",
    "end_all",
    "fallen_out",
    "joined",
    "launched",
    "leave",
    "meet",
    "together",
    "wait_for_all",
]

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_table_of_a_finished_run(repository: Path, tmp_path: Path) -> None:
    manifest = {
        "settings": {"pipeline": "demo", "threads": 2},
        "environment": {"platform": "Linux", "python": "3.11.7"},
        "stages": {
            "convert": {
                "cost": {"seconds": 5.0, "cpu_seconds": 8.0, "peak_memory_mib": 700.0},
                "notes": {"resources": 240_000, "events": 400_000},
            },
            "train": {"cost": {"seconds": 100.04, "cpu_seconds": 200.0, "peak_memory_mib": 1500.0}, "notes": {}},
        },
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, str(repository / "benchmarks" / "main_job.py"), "--run", str(tmp_path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "240,000 resources, 400,000 events, 2 threads" in lines[0]
    assert lines[4:] == [
        "| convert | 5.0 | 8.0 | 700 | 30,000 | 50,000 |",
        "| train | 100.0 | 200.0 | 1,500 |  | 2,000 |",
        "| all | 105.0 | 208.0 | 1,500 | 1,154 | 1,923 |",
    ]

"""Keeping freed memory, seen from outside: pages that the system has to hand over anew."""

import os
import subprocess
import sys

import pytest

# As in a worker that Dask starts; faults while 50 layers of 8 MB come and go.
SCRIPT = """
import resource, sys
import torch
from klip_monai.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.zeros(2 << 20)
before = faults()
for _ in range(50):
    torch.zeros(2 << 20)
print(faults() - before)
"""


def faults(how: str) -> int:
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries than glibc are left alone")
def test_layers_are_given_the_pages_of_those_before():
    assert faults("kept") < faults("given back") / 4

"""A study that takes a second, shared by two processes:

python -m tests.shared_study FOLDER HOST:PORT PROCESS
"""

import sys

from mi_jax.training import hosts

if __name__ == "__main__":
    out, address, process = sys.argv[1:]
    with hosts.hosts(address, 2, int(process)):
        from tests import small_study  # it makes keys, and no key may be made before the processes have met

        small_study.shared_study(out)

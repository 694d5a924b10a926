"""Real sites on one machine: hosts as namespaces, OpenSSH, Slurm, Apptainer.

`python3 -m testbed up` as root on Debian 12; docs/testbed.md says what stands in it. This
package needs the system's Python 3.11 and nothing else, but for `testbed.standing`.
"""

from testbed.bed import Bed
from testbed.errors import BedError
from testbed.hosts import Host, Process
from testbed.image import BINDS
from testbed.places import IMAGE
from testbed.relay import relay

__all__ = ["BINDS", "IMAGE", "Bed", "BedError", "Host", "Process", "relay"]

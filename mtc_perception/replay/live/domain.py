"""A ROS domain that no other replay or test run on this machine uses."""

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtc_perception.node.launch_arguments import fastdds_environment

# Ports of higher domains collide with those that Linux hands out; 0 is everybody's default.
DOMAINS = range(1, 101)


class ClaimedDomain:
    """Claims a free domain until `release` or the end of the process."""

    def __init__(self) -> None:
        # A name in the abstract namespace belongs to one socket, is seen as far as this machine's
        # loopback network is, and is gone with the process, however that ends.
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Shuffled by process: other users of ROS on this machine do not claim theirs.
        order = random.Random(os.getpid()).sample(DOMAINS, len(DOMAINS))
        for number in order:
            try:
                self._claim.bind(f"\0mtc_perception.ros_domain.{number}")
            except OSError:
                continue
            self.number = number
            return
        self._claim.close()
        raise RuntimeError(f"all {len(DOMAINS)} ROS domains are in use by replays or tests")

    def release(self) -> None:
        self._claim.close()


@contextmanager
def private_ros_domain() -> Iterator[None]:
    """A ROS domain of this process and its children, on this machine only.

    What plays here must not reach a vehicle's nodes, nor their images the node under test.
    """
    domain = ClaimedDomain()
    changes = {"ROS_DOMAIN_ID": str(domain.number)}
    if os.environ.get("ROS_DISTRO") == "humble":
        changes["ROS_LOCALHOST_ONLY"] = "1"
    else:
        changes["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    changes |= fastdds_environment(_share() / "config" / "fastdds.xml", os.environ)
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        domain.release()


def _share() -> Path:
    """Where the package's `config` is: installed, or in the checkout."""
    # Here, so that a domain can be claimed where there is no ROS.
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory("mtc_perception"))
    except PackageNotFoundError:
        return Path(__file__).resolve().parents[3]

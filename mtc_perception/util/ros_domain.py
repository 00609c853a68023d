"""A ROS domain that no other replay or test run on this machine uses."""

import os
import random
import socket

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

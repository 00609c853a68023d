"""OpenCV in the threads that call it, and in no others."""

import cv2


def use_one_opencv_thread() -> None:
    """For a process whose own threads keep the cores busy.

    OpenCV's idle threads wait actively: on two cores they cost the node 2 ms of processor time per
    1280x720 image, and 1 ms of its latency, for scaling that takes 0.2 ms.
    """
    cv2.setNumThreads(1)

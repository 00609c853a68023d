"""OpenCV in the threads that call it, and in no others."""

import cv2


def use_one_opencv_thread() -> None:
    """For a process whose own threads keep the cores busy.

    OpenCV's idle threads wait actively: where the cores are busy that costs more than its threads
    save.
    """
    cv2.setNumThreads(1)

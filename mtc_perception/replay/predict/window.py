"""A window that shows pictures as they come."""

import os
from typing import Any

import numpy as np

from mtc_perception.pages.pictures import Rgb, shrink
from mtc_perception.util.errors import UserError

_MOST_WIDTH_PX = 1280


class Window:
    """Tk's, which needs no OpenCV with windows. Only for the main thread."""

    def __init__(self, title: str) -> None:
        """Raises UserError where there is no display, or no Tk."""
        if os.name == "posix" and not os.environ.get("DISPLAY"):
            raise UserError("--show: no display here (DISPLAY is not set); leave it out")
        try:
            import tkinter
        except ImportError:
            raise UserError("--show needs Tk: apt-get install python3-tk") from None
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(f"--show: {error}; leave it out") from None
        self._tk = tkinter
        self._open = True
        self._picture: Any = None
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda _event: self.close())

    def show(self, rgb: Rgb) -> bool:
        """Show a picture; False once somebody has closed the window (q, Escape)."""
        if self._open:
            picture = np.ascontiguousarray(shrink(rgb, _MOST_WIDTH_PX))
            header = f"P6 {picture.shape[1]} {picture.shape[0]} 255\n".encode()
            data = header + picture.tobytes()
            # Tk keeps no reference of its own.
            self._picture = self._tk.PhotoImage(master=self._root, data=data, format="PPM")
            self._label.configure(image=self._picture)
            self._root.update()
        return self._open

    def close(self) -> None:
        """Close it, if it is open."""
        if self._open:
            self._open = False
            self._root.destroy()

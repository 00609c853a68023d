"""The service `~/load_engine`: another engine, loaded beside the running one, then switched to."""

from collections.abc import Callable
from dataclasses import dataclass

from mtc_perception_interfaces.srv import LoadEngine
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from mtc_perception.runtime.host import PerceiverLoader
from mtc_perception.runtime.perceiver import Perceiver, Selection
from mtc_perception.util.errors import one_line


@dataclass(frozen=True, slots=True)
class Swap:
    """How a request is to be met."""

    selection: Selection
    pause: Callable[[], None]
    """Waits for the end of the frame under way, which may take long, and holds back the next."""
    switch: Callable[[Perceiver], str]
    """Puts an engine in charge and says what runs now, or closes it and raises UserError; the pause
    ends either way."""


class EngineService:
    """Takes one request at a time; all methods are for the executor's thread."""

    def __init__(
        self,
        node: LifecycleNode,
        prepare: Callable[[LoadEngine.Request], Swap],
        on_change: Callable[[], None],
    ) -> None:
        """`prepare` raises UserError for a request that cannot be met; `on_change` is called
        whenever `state` changes."""
        self._node = node
        self._prepare = prepare
        self._on_change = on_change
        self._loader = PerceiverLoader(self._announce)
        self._loading: Future = Future()
        self._loaded = node.create_guard_condition(lambda: self._loading.set_result(None))
        self.state = ""
        """What became of the last request, or becomes of the current one."""
        # A group of its own: all else is served while a request waits for its engine.
        node.create_service(
            LoadEngine, "~/load_engine", self._serve, callback_group=ReentrantCallbackGroup()
        )

    def close(self) -> None:
        """Wait for the engine that is being loaded, and close it."""
        self._loader.close()

    async def _serve(
        self, request: LoadEngine.Request, response: LoadEngine.Response
    ) -> LoadEngine.Response:
        """Answers when the engine asked for is in charge, or when it cannot be."""
        try:
            response.message = await self._fulfil(request)
            response.success = True
        except Exception as error:  # anything that came out here would end the node
            response.message = one_line(error)
            self._node.get_logger().error(f"load_engine: {response.message}")
        return response

    async def _fulfil(self, request: LoadEngine.Request) -> str:
        swap = self._prepare(request)
        self._loader.start(swap.selection, swap.pause)
        # From here on this request is the current one.
        self._tell(f"loading {swap.selection}")
        self._node.get_logger().info(f"load_engine: {self.state}")
        self._loading = Future()
        await self._loading
        try:
            said = swap.switch(self._loader.take())
        except Exception as error:
            self._tell(f"failed: {one_line(error)}")
            raise
        self._tell(f"done: {said}")
        self._node.get_logger().info(f"load_engine: {self.state}")
        return said

    def _tell(self, state: str) -> None:
        self.state = state
        try:
            self._on_change()
        except Exception as error:  # what becomes of a request does not depend on who is told
            self._node.get_logger().error(f"load_engine: {state}, but {one_line(error)}")

    def _announce(self) -> None:
        """Called by the loading thread as it ends."""
        if self._node.context.ok():
            self._loaded.trigger()

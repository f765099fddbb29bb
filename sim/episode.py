"""How an episode went: the line of a results file. Times in seconds, lengths in metres."""

import dataclasses


@dataclasses.dataclass
class Episode:
    """As measured at the robot and on the graph; what a row does not measure keeps its default."""

    seed: int
    task: str
    target: str
    instruction: str
    success: bool
    success_s: float | None  # simulated time from the moment on in which motion was allowed
    seconds: float  # the same, of the whole episode
    path_length: float
    tool_moved: float  # farthest from its start
    first_touched: str | None
    done: dict = dataclasses.field(default_factory=dict)  # colour -> tasks that hold at the end
    moved_later: float = 0.0  # farthest from where the tool was `later_s` after motion was allowed
    policy_hz: float = 0.0
    command_hz: float = 0.0
    ages_s: list = dataclasses.field(
        default_factory=list
    )  # from an image's stamp to the first command that follows from it
    interventions: dict = dataclasses.field(default_factory=dict)
    late_results: int = 0
    peaks: dict = dataclasses.field(
        default_factory=dict
    )  # largest commanded, until the command was zero again
    measured: dict = dataclasses.field(default_factory=dict)  # largest of the tool itself
    lost_s: float = 0.0  # time that the simulation could not keep up with
    command_timeouts: int = 0
    end_state: str = "-"
    reasons: list = dataclasses.field(default_factory=list)

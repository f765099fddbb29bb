"""The result of an episode: one line of a results file. Times in seconds, lengths in metres."""

import dataclasses


@dataclasses.dataclass
class Episode:
    """Measured at the robot and on the graph; fields that a row does not measure keep defaults."""

    seed: int
    task: str
    target: str
    instruction: str
    success: bool
    success_s: float | None  # simulated time from the enabling to success
    seconds: float  # simulated time from the enabling to the end
    path_length: float  # of the tool
    tool_moved: float  # largest distance of the tool from its start
    first_touched: str | None  # colour of the block
    done: dict = dataclasses.field(default_factory=dict)  # colour -> tasks that hold at the end
    moved_later: float = 0.0  # largest distance from the tool's position `later_s` after enabling
    policy_hz: float = 0.0
    command_hz: float = 0.0
    # From the stamp of an image to the stamp of the first command computed from it.
    ages_s: list = dataclasses.field(default_factory=list)
    interventions: dict = dataclasses.field(default_factory=dict)  # name -> control periods
    late_results: int = 0
    # Difference of the steps on both sides of each take-over by a new chunk [m].
    seams: list = dataclasses.field(default_factory=list)
    # Largest commanded speeds and accelerations, until the command was zero again.
    peaks: dict = dataclasses.field(default_factory=dict)
    # Largest speed and acceleration of the tool itself.
    measured: dict = dataclasses.field(default_factory=dict)
    lost_s: float = 0.0  # time by which the simulation fell behind real time
    command_timeouts: int = 0
    end_state: str = "-"
    reasons: list = dataclasses.field(default_factory=list)  # texts of Status.detail

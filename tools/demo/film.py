"""The video of the demonstration: camera images, the command beside its limits, the state."""

FRAME_HZ = 5.0
SIDE = 448  # of the first camera [pixels]
PANEL = 224  # width of the second camera and of the figures [pixels]
HEAD = 30
DARK, LIGHT, DIM, BAR = (24, 24, 28), (240, 240, 240), (130, 130, 138), (90, 160, 240)
NEAR_LIMIT = 0.95
RED = (240, 110, 90)


class Film:
    """Frames, written as one GIF. `limits`: of a robot file."""

    def __init__(self, limits):
        self.limits, self.frames, self.next = limits, [], 0.0

    def take(self, pictures, caption, colour, figures, now):
        """Adds a frame, FRAME_HZ times per second at most.

        `pictures`: uint8 images of the first camera and, if any, the second. `figures`: lines of
        `(text, share or None)`; a share of a limit, -1 to 1, is drawn as a bar.
        """
        from PIL import Image, ImageDraw

        if now < self.next:
            return
        self.next = now + 1.0 / FRAME_HZ
        frame = Image.new("RGB", (SIDE + PANEL, SIDE + HEAD), DARK)
        draw = ImageDraw.Draw(frame)
        draw.text((6, 3), caption[0], fill=LIGHT)
        draw.text((6, 16), caption[1], fill=colour)
        first, *others = (Image.fromarray(picture) for picture in pictures)
        frame.paste(first.resize((SIDE, SIDE), Image.Resampling.BILINEAR), (0, HEAD))
        top = HEAD
        for picture in others[:1]:
            frame.paste(picture.resize((PANEL, PANEL), Image.Resampling.BILINEAR), (SIDE, HEAD))
            top += PANEL
        for row, (text, share) in enumerate(figures):
            self.line(draw, SIDE + 8, top + 6 + 15 * row, text, share)
        self.frames.append(frame)

    @staticmethod
    def line(draw, x, y, text, share):
        draw.text((x, y), text, fill=LIGHT if share is None else DIM)
        if share is None:
            return
        left, width = x + 92, PANEL - 108
        middle = left + width / 2
        end = middle + max(-1.0, min(1.0, share)) * width / 2
        draw.rectangle((left, y + 2, left + width, y + 10), outline=DIM)
        colour = RED if abs(share) > NEAR_LIMIT else BAR
        draw.rectangle((min(middle, end), y + 3, max(middle, end), y + 9), fill=colour)
        draw.line((middle, y + 1, middle, y + 11), fill=LIGHT)

    def figures(self, state, status, twist, action):
        """The lines beside the images: command and its limits, tool, gripper, policy."""
        speed = self.limits["linear"]["velocity"]
        lines = []
        if twist is not None:
            linear = twist.twist.linear
            for name, value in zip("xyz", (linear.x, linear.y, linear.z)):
                lines.append((f"v{name} {value:+.3f} m/s", value / speed))
        lines.append((f"limit {speed:g} m/s", None))
        lines.append((f"tool {' '.join(f'{x:+.3f}' for x in state['tool'])} m", None))
        lines.append((f"gripper {state['gripper']:.2f} (1 open)", None))
        if status is not None:
            lines.append((f"command {status.command_hz:.0f} Hz", None))
            for part in wrapped(status.detail):
                lines.append((part, None))
        if action is not None:
            lines.append((f"policy {action.horizon} steps at {action.policy_hz:g} Hz", None))
            lines.append((f"latency {1e3 * action.latency_s:.0f} ms, {action.device}", None))
        return lines

    def write(self, path):
        """The file, or None without frames."""
        if not self.frames:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *rest = [frame.quantize(96) for frame in self.frames]
        first.save(
            path,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=int(1000 / FRAME_HZ),
            loop=0,
            optimize=False,
        )
        return path


def wrapped(text, columns=34, lines=2):
    import textwrap

    return textwrap.wrap(text, columns)[:lines]

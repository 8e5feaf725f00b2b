"""What the checks share: a first frame, a look into an MP4, one way to fail."""

import base64
import io
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw


class Failed(Exception):
    """A check found something else than the contract says."""


def expect(what: str, found: Any, wanted: Any) -> None:
    """Fails unless `found` is `wanted`."""
    if found != wanted:
        raise Failed(f"{what}: {found!r}, expected {wanted!r}")


def require(what: str, condition: bool, found: Any) -> None:
    """Fails with what was found unless the condition holds."""
    if not condition:
        raise Failed(f"{what}: {found!r}")


def first_frame(width: int = 1280, height: int = 720) -> bytes:
    """A PNG of the size of a source clip, which is not the size that the model works at."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    ImageDraw.Draw(image).ellipse((width // 3, height // 3, width // 2, height * 3 // 4), fill=(200, 80, 40))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def first_frame_base64() -> str:
    """The first frame as the JSON routes take it."""
    return base64.b64encode(first_frame()).decode()


def clip(content: bytes, folder: Path) -> dict[str, Any]:
    """What ffprobe finds in an MP4, every frame decoded."""
    path = folder / "clip.mp4"
    path.write_bytes(content)
    entries = "stream=codec_name,pix_fmt,width,height,r_frame_rate,nb_read_frames"
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-of", "json", "-show_entries", entries, str(path)],
        capture_output=True,
        text=True,
    )
    if probe.returncode != 0 or probe.stderr:
        raise Failed(f"ffprobe does not like the clip of {len(content)} bytes: {probe.stderr.strip()}")
    streams = json.loads(probe.stdout)["streams"]
    expect("streams in the clip", len(streams), 1)
    return streams[0]


def expect_clip(content: bytes, folder: Path, width: int, height: int, frames: int, fps: int) -> None:
    """Fails unless the bytes are a clip of exactly this kind."""
    expect(
        "the clip",
        clip(content, folder),
        {
            "codec_name": "h264",
            "pix_fmt": "yuv420p",
            "width": width,
            "height": height,
            "r_frame_rate": f"{fps}/1",
            "nb_read_frames": str(frames),
        },
    )
    require("the index stands in front of the pictures", content.find(b"moov") < content.find(b"mdat"), content[:64])


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

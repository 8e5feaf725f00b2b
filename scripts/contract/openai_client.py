"""Drives /v1/videos with the official `openai` package, as a program written for another server would."""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from common import Failed, expect, expect_clip, first_frame, require

# The package calls its own video methods deprecated because one vendor's service ends; the interface lives on.
warnings.simplefilter("ignore", DeprecationWarning)


def refused(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> openai.APIStatusError:
    """The exception of a call that must fail; its message must say something."""
    try:
        answer = call()
    except kind as error:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        require(f"{kind.__name__} has the server's message", bool(message) and message in str(error), str(error))
        require(f"{kind.__name__} has a request id", bool(error.request_id), dict(error.response.headers))
        return error
    raise Failed(f"expected {kind.__name__}, got {answer!r}")


def check_life(client: openai.OpenAI, folder: Path) -> None:
    """One job from its order to its removal."""
    picture = folder / "first.png"
    picture.write_bytes(first_frame())
    made = client.videos.create(
        prompt="a paper boat", input_reference=picture, seconds="1", size="640x384", extra_body={"seed": 7}
    )
    expect("object", made.object, "video")
    require("id", made.id.startswith("video_"), made.id)
    require("status", made.status in ("queued", "in_progress", "completed"), made.status)

    done = client.videos.poll(made.id, poll_interval_ms=100)
    expect("status after the poll", (done.status, done.progress, done.error), ("completed", 100, None))
    expect("size", done.size, "640x384")
    expect("prompt", done.prompt, "a paper boat")
    require("times in order", done.created_at <= done.completed_at <= done.expires_at, done)
    again = client.videos.retrieve(made.id)
    expect("retrieved", (again.id, again.status), (made.id, "completed"))

    content = client.videos.download_content(made.id).read()
    frames, fps = done.parameters["num_frames"], done.parameters["fps"]
    expect("frames of one second", abs(frames - fps) <= 4 and frames % 4, 1)
    expect_clip(content, folder, 640, 384, frames, fps)
    expect("seed", done.parameters["seed"], 7)
    poster = client.videos.download_content(made.id, variant="thumbnail").read()
    expect("poster is a JPEG", poster[:3], b"\xff\xd8\xff")

    deleted = client.videos.delete(made.id)
    expect("deleted", (deleted.id, deleted.object, deleted.deleted), (made.id, "video.deleted", True))
    refused(openai.NotFoundError, lambda: client.videos.retrieve(made.id))
    refused(openai.NotFoundError, lambda: client.videos.download_content(made.id))


def check_poll(client: openai.OpenAI, folder: Path) -> None:
    """A clip from a prompt alone in one call, without a file in the form."""
    done = client.videos.create_and_poll(
        prompt="a lake", size="640x384", extra_body={"num_frames": 9, "fps": 8}, poll_interval_ms=100
    )
    expect("status", done.status, "completed")
    expect_clip(client.videos.download_content(done.id).read(), folder, 640, 384, 9, 8)


def check_list(client: openai.OpenAI) -> None:
    """Pages in both orders hold every job once."""
    made = [
        client.videos.create_and_poll(
            prompt=f"lake {n}", size="320x192", extra_body={"num_frames": 5}, poll_interval_ms=100
        ).id
        for n in range(5)
    ]
    forward = [video.id for video in client.videos.list(limit=2, order="asc")]
    backward = [video.id for video in client.videos.list(limit=2, order="desc")]
    expect("the two orders", forward, backward[::-1])
    expect("each once", len(forward), len(set(forward)))
    expect("the newest", backward[: len(made)], made[::-1])
    expect("page", len(client.videos.list(limit=2).data), 2)


def check_ends(client: openai.OpenAI) -> None:
    """A job that breaks says why; one that never ends is stopped by its removal."""
    broken = client.videos.create_and_poll(prompt="breaks", size="320x192", poll_interval_ms=100)
    expect("status of the broken one", broken.status, "failed")
    require("its error", bool(broken.error.code) and bool(broken.error.message), broken)
    refused(openai.APIStatusError, lambda: client.videos.download_content(broken.id))

    endless = client.videos.create(prompt="never ends", size="320x192")
    while client.videos.retrieve(endless.id).status == "queued":
        time.sleep(0.05)
    expect(
        "its clip is not there yet",
        refused(openai.ConflictError, lambda: client.videos.download_content(endless.id)).status_code,
        409,
    )
    expect("removed, not deleted", client.videos.delete(endless.id).deleted, False)
    stopped = client.videos.poll(endless.id, poll_interval_ms=100)
    expect("after the removal", (stopped.status, stopped.error.code), ("failed", "cancelled"))
    expect("now deleted", client.videos.delete(endless.id).deleted, True)


def check_errors(client: openai.OpenAI) -> None:
    """Refusals arrive as the package's exceptions, with the server's words."""
    bad = refused(openai.BadRequestError, lambda: client.videos.create(prompt="a lake", size="1x1"))
    require("names the field", "size" in str(bad) or "height" in str(bad), str(bad))
    refused(openai.BadRequestError, lambda: client.videos.create(prompt=""))
    refused(
        openai.BadRequestError,
        lambda: client.videos.create(prompt="a lake", input_reference=("first.png", b"not a picture", "image/png")),
    )
    refused(openai.NotFoundError, lambda: client.videos.retrieve("video_00000000000000000000000000000000"))
    refused(openai.NotFoundError, lambda: client.videos.delete("video_00000000000000000000000000000000"))
    refused(openai.BadRequestError, lambda: client.videos.list(limit=-1).data)
    stranger = client.with_options(api_key="wrong")
    refused(openai.AuthenticationError, lambda: stranger.videos.retrieve("video_00000000000000000000000000000000"))


def main() -> None:
    """Runs all of it against one server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="address of the server")
    parser.add_argument("--key", required=True, help="its key")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=f"{args.url}/v1", api_key=args.key, max_retries=0, timeout=120)

    expect("models", len(list(client.models.list())), 1)
    with tempfile.TemporaryDirectory() as folder:
        check_life(client, Path(folder))
        check_poll(client, Path(folder))
        check_list(client)
        check_ends(client)
        check_errors(client)
    print(f"openai {openai.__version__}: create, poll, list, download, cancel, delete and the errors work")


if __name__ == "__main__":
    main()

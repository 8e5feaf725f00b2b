"""Runs scripts/deploy/leoma_chute.py in the Chutes SDK's development mode and calls its cords.

This is the platform's own code from the route to our function and back: only encryption, attestation and the
check of the caller are left out. The server inside has the fake engine. Nothing leaves this machine.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import httpx

from common import Failed, expect, expect_clip, first_frame_base64, free_port, require

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


class Chute:
    """The SDK process with the chute in it, and the server that it starts."""

    def __init__(self, binary: str, fake_engine: str, folder: Path) -> None:
        """Starts it; `with` waits until it answers."""
        self.port, self.server_port = free_port(), free_port()
        self.log = folder / f"chute-{self.port}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CHUTES_EXECUTION_CONTEXT": "REMOTE",
            "CHUTES_ALLOW_MISSING": "true",
            "CHUTES_CONFIG_PATH": str(folder / "config.ini"),
            "LEOMA_CHUTE_USERNAME": "contract",
            "LEOMA_CHUTE_BINARY": str(Path(binary).resolve()),
            "LEOMA_CHUTE_SERVE_FLAGS": f"--fake-engine {shlex.quote(str(Path(fake_engine).resolve()))}",
            "LEOMA_CHUTE_PORT": str(self.server_port),
            "LEOMA_CHUTE_READY_SECONDS": "60",
        }
        chutes = Path(sys.executable).parent / "chutes"
        line = [chutes, "run", "leoma_chute:chute", "--dev", "--host", "127.0.0.1"]
        line += ["--port", str(self.port), "--logging-port", str(free_port())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                line, cwd=DEPLOY, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False)

    def __enter__(self) -> Self:
        """Waits until the chute answers, which it does only once the server made its first clip."""
        for _ in range(900):
            if self.process.poll() is not None:
                raise Failed(f"the SDK ended with {self.process.returncode}:\n{self.tail()}")
            try:
                self.client.get("/info")
                return self
            except httpx.TransportError:
                time.sleep(0.1)
        self.__exit__()
        raise Failed(f"the chute does not answer:\n{self.tail()}")

    def __exit__(self, *_: object) -> None:
        """Ends what is left of it."""
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def server_pid(self) -> int:
        """The server, the only child of the SDK process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        expect("processes below the SDK", len(children), 1)
        return int(children[0])


def gone(pid: int, seconds: float) -> bool:
    """Whether the process has ended within this time."""
    for _ in range(int(seconds * 20)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def check_clips(chute: Chute, folder: Path) -> None:
    """The three video cords answer with the file and say how it was made."""
    picture = first_frame_base64()
    sampler = {"prompt": "a boat", "image": picture, "fps": 16, "frames": 81, "resolution": "480p", "fast": True}
    answer = chute.client.post("/generate", json=sampler)
    expect("POST /generate", (answer.status_code, answer.headers["content-type"]), (200, "video/mp4"))
    expect_clip(answer.content, folder, 832, 480, 81, 16)
    for name, value in {"frames": "81", "fps": "16", "size": "832x480"}.items():
        expect(f"X-Leoma-{name}", answer.headers[f"x-leoma-{name}"], value)

    small = {"prompt": "a boat", "width": 320, "height": 192, "frames": 9, "fps": 16, "seed": 5}
    for path, body in {
        "/image2video": small | {"image_b64": picture, "sample_shift": 3.0},
        "/text2video": small,
    }.items():
        answer = chute.client.post(path, json=body)
        expect(f"POST {path}", (answer.status_code, answer.headers.get("x-leoma-seed")), (200, "5"))
        require(f"{path} is a video", answer.headers["content-type"] == "video/mp4", answer.headers)


def check_refusals(chute: Chute) -> None:
    """A request that the model cannot take is 400, here as on the server, with the server's words."""
    picture = first_frame_base64()
    schema = chute.client.post("/generate", json={"image": picture})
    expect("no prompt", (schema.status_code, schema.json()), (400, {"detail": "Invalid input parameters"}))
    for field, body in {
        "image": {"prompt": "a boat", "image": "bm90IGEgcGljdHVyZQ=="},
        "frames": {"prompt": "a boat", "image": picture, "frames": -3},
        "steps": {"prompt": "a boat", "image": picture, "steps": 4, "num_inference_steps": 5},
    }.items():
        answer = chute.client.post("/generate", json=body)
        detail = answer.json()["detail"]
        expect(f"bad {field}", (answer.status_code, type(detail)), (400, str))
        require("names the field", field in detail, detail)


def check_json(chute: Chute) -> None:
    """The passthrough cords carry the server's JSON and its key."""
    info = chute.client.get("/info")
    expect("GET /info", info.status_code, 200)
    expect("the server asks for a key", info.json()["auth"], True)
    expect("GET /v1/models", chute.client.get("/v1/models").json()["object"], "list")
    direct = httpx.get(f"http://127.0.0.1:{chute.server_port}/info", trust_env=False)
    expect("the server itself, without the key", direct.status_code, 401)


def check_leaving(chute: Chute) -> None:
    """A caller that goes away takes its job with it."""
    body = {"prompt": "never ends", "image": first_frame_base64()}
    try:
        chute.client.post("/generate", json=body, timeout=2)
    except httpx.ReadTimeout:
        pass
    else:
        raise Failed("the endless job was answered")
    for _ in range(100):
        load = chute.client.get("/info").json()["load"]
        if load["running"] == 0:
            return
        time.sleep(0.1)
    raise Failed(f"the job goes on without its caller: {load}")


def main() -> None:
    """Runs the chute until it is asked to stop, until its server dies, until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="leoma-node")
    parser.add_argument("--fake-engine", required=True, help="script of the fake engine")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Chute(args.binary, args.fake_engine, folder) as chute:
            check_clips(chute, folder)
            check_refusals(chute)
            check_json(chute)
            check_leaving(chute)
            server = chute.server_pid()
            chute.process.send_signal(signal.SIGTERM)
            expect("exit code after SIGTERM", chute.process.wait(timeout=60), 0)
            require("the server stops with the chute", gone(server, 5), server)
        with Chute(args.binary, args.fake_engine, folder) as chute:
            os.kill(chute.server_pid(), signal.SIGKILL)
            require("the chute ends with its server", chute.process.wait(timeout=30) != 0, chute.process.returncode)
        with Chute(args.binary, args.fake_engine, folder) as chute:
            server = chute.server_pid()
            chute.process.kill()
            require("a server is not left behind", gone(server, 45), server)
    print("chutes: clips, refusals and JSON go through the SDK's cords; chute and server end together")


if __name__ == "__main__":
    main()

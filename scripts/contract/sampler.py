"""Calls the server as the subnet's sampler calls a miner: the same two requests, the same conditions."""

import argparse
import tempfile
from pathlib import Path

import httpx

from common import expect, expect_clip, first_frame_base64, require


def main() -> None:
    """Looks the chute up, asks it for the sampler's clip, looks at the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="address of the server")
    parser.add_argument("--key", required=True, help="its key")
    parser.add_argument("--revision", required=True, help="revision it was started with")
    args = parser.parse_args()

    # The sampler's own limits: 10 s to look the chute up, 300 s for the clip.
    with httpx.Client(base_url=args.url, trust_env=False) as client, tempfile.TemporaryDirectory() as folder:
        listed = client.get("/chutes/", headers={"Authorization": args.key}, timeout=10)
        expect("GET /chutes/", listed.status_code, 200)
        items = listed.json()["items"]
        expect("chutes on this node", len(items), 1)
        chute_id = items[0]["chute_id"]

        # The key without `Bearer` here, with it below: the sampler does both.
        found = client.get(f"/chutes/{chute_id}", headers={"Authorization": args.key}, timeout=10)
        expect("GET /chutes/{id}", found.status_code, 200)
        chute = found.json()
        require("slug", bool(chute["slug"]), chute)
        require("hot is true", chute["hot"] is True, chute)
        expect("revision", chute["revision"], args.revision)
        missing = client.get("/chutes/00000000-0000-5000-8000-000000000000", headers={"Authorization": args.key})
        expect("GET /chutes/ of another id", missing.status_code, 404)
        require("its detail", isinstance(missing.json()["detail"], str), missing.text)

        answer = client.post(
            "/generate",
            headers={"Authorization": f"Bearer {args.key}"},
            json={
                "prompt": "A paper boat drifts across a still lake, the camera follows slowly",
                "image": first_frame_base64(),
                "fps": 16,
                "frames": 81,
                "resolution": "480p",
                "fast": True,
            },
            timeout=300,
        )
        expect("POST /generate", (answer.status_code, answer.headers["content-type"]), (200, "video/mp4"))
        expect_clip(answer.content, Path(folder), 832, 480, 81, 16)
        for name, value in {"frames": "81", "fps": "16", "size": "832x480"}.items():
            expect(f"X-Leoma-{name}", answer.headers[f"x-leoma-{name}"], value)
    print(f"sampler: chute {chute['slug']} is hot, its clip is 832x480, 81 frames, {len(answer.content)} bytes")


if __name__ == "__main__":
    main()

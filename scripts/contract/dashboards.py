"""Looks up every metric that the dashboard and the alerts ask for on a server that has worked for a while."""

import argparse
import re
from pathlib import Path

import httpx

from common import Failed, expect

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


def main() -> None:
    """Fails with the names that the server does not have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="address of the server")
    parser.add_argument("--key", required=True, help="its key")
    args = parser.parse_args()
    answer = httpx.get(f"{args.url}/metrics", headers={"Authorization": f"Bearer {args.key}"}, trust_env=False)
    expect("GET /metrics", answer.status_code, 200)
    there = set(re.findall(r"^(leoma_\w+)", answer.text, re.MULTILINE))
    asked = {
        name
        for file in ("grafana.json", "alerts.yml")
        for name in re.findall(r"\bleoma_\w+", (DEPLOY / file).read_text())
    }
    missing = sorted(asked - there)
    if missing:
        raise Failed(f"scripts/deploy asks for metrics that the server does not have: {', '.join(missing)}")
    print(f"dashboards: all {len(asked)} metrics of the dashboard and the alerts are there")


if __name__ == "__main__":
    main()

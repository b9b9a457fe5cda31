"""Client developer: OpenAI's images API, with nothing but Python's own library; the `openai` package sends the same.

tiltserve serve --models models --http-port 8003               # in one shell
.venv/bin/python examples/images_api.py http://localhost:8003 sd # in another
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

url, model = sys.argv[1:] or ["http://localhost:8003", "sd"]


def post(path: str, **fields: Any) -> Any:
    """An open answer."""
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {os.environ.get('TILTSERVE_TOKEN', 'none')}",
    }
    sent = urllib.request.Request(url + path, json.dumps(fields).encode(), headers)
    return urllib.request.urlopen(sent, timeout=600)


with urllib.request.urlopen(f"{url}/v1/models") as answer:
    print("pipelines:", *(each["id"] for each in json.load(answer)["data"]))

with post("/v1/images/generations", model=model, prompt="a red heart", n=2, seed=1, steps=10) as answer:
    told = json.load(answer)
for number, picture in enumerate(told["data"]):
    Path(f"heart-{number}.png").write_bytes(base64.b64decode(picture["b64_json"]))
print("drawn:", len(told["data"]), "of", told["size"], told["tiltserve"])

with post("/v1/images/generations", model=model, prompt="a heart", stream=True, partial_images=2, steps=10) as answer:
    for line in answer:
        if line.startswith(b"data: "):
            event = json.loads(line.removeprefix(b"data: "))
            print("event:", event["type"], len(event["b64_json"]), "characters of a file")

try:
    post("/v1/images/generations", model=model, prompt="a heart", stpes=10)
except urllib.error.HTTPError as error:
    print("a mistake:", error.code, json.load(error)["error"]["message"])

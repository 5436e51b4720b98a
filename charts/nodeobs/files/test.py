"""What `helm test` asks the service, in a pod: is it there, is it ready, and does it know who may look."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SERVICE = os.environ["SERVICE"]
TOKEN = Path(os.environ.get("TOKEN_FILE", "/var/run/secrets/kubernetes.io/serviceaccount/token")).read_text()
TRUST = ssl.create_default_context(cafile=os.environ.get("CA_FILE", "/authority/ca.crt"))
UNTIL = time.monotonic() + float(os.environ.get("SECONDS", "60"))


def ask(path: str, token: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(SERVICE + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=TRUST) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def expect(status: int, path: str, token: str = "") -> bytes:
    while True:
        try:
            found, body = ask(path, token)
        except OSError as error:
            found, body = 0, str(error).encode()
        if found == status:
            print(f"{path}: {found}, as it should", flush=True)
            return body
        if time.monotonic() > UNTIL:
            sys.exit(f"{path}: {found} and not {status}: {body.decode(errors='replace')[:500]}")
        time.sleep(1)


expect(200, "/healthz")
expect(200, "/readyz")
runs = json.loads(expect(200, "/api/v1/runs", TOKEN))
json.loads(expect(200, "/api/v1/nodeobservabilities", TOKEN))
expect(401, "/api/v1/runs")
print(f"{SERVICE} answers, and lets nobody in without a token")

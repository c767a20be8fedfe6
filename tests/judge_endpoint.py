"""A chat-completions endpoint for tests: a thread on this machine that counts, fails and waits as it is told to."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], str]  # the user message to the text of the judge


class Hold:
    """A request that is never answered: `reached` is set when it has come, `release` ends the wait."""

    def __init__(self):
        self.reached, self.release = threading.Event(), threading.Event()


class Endpoint:
    """`answer` makes the text of a reply; `faults` are sent first, one per request, in order.

    A fault is (status, headers, body), a number of seconds to wait, or a `Hold`; None is none.
    """

    def __init__(self, answer: Answer, faults: list[Any] = (), top_logprobs: dict[str, float] | None = None):
        self.answer = answer
        self.faults = list(faults)
        self.top_logprobs = top_logprobs
        self.requests: list[dict[str, Any]] = []  # bodies, as they came
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()  # question with its seed -> whole replies sent
        self.most_at_a_time = 0
        self._now = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                endpoint._handle(self)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            fault = self.faults.pop(0) if self.faults else None
            self._now += 1
            self.most_at_a_time = max(self.most_at_a_time, self._now)
        try:
            if isinstance(fault, int | float):
                time.sleep(fault)
            elif isinstance(fault, Hold):
                fault.reached.set()
                fault.release.wait()
                handler.close_connection = True
                return
            elif isinstance(fault, tuple):
                return self._send(handler, *fault)
            self._send(handler, 200, {}, json.dumps(self.completion(body)))
            with self._lock:
                self.answered[json.dumps([body["messages"], body.get("seed"), body.get("temperature")])] += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._now -= 1

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a reply."""
        text = self.answer(body["messages"][-1]["content"])
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
        choice["finish_reason"] = "stop"
        if body.get("logprobs") and self.top_logprobs is not None:
            tokens = [{"token": token, "logprob": -0.1, "top_logprobs": []} for token in re.findall(r"\[\[|.", text)]
            for token in tokens:
                if token["token"].isalnum():
                    token["top_logprobs"] = [
                        {"token": label, "logprob": number} for label, number in self.top_logprobs.items()
                    ]
            choice["logprobs"] = {"content": tokens}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        return {"id": "x", "object": "chat.completion", "model": "judge", "choices": [choice], "usage": usage}

    def _send(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: str) -> None:
        content = body.encode()
        handler.send_response(status)
        handler.send_header("content-type", headers.pop("content-type", "application/json"))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()


def shown(message: str) -> list[str]:
    """The responses in a judge's question, in the order in which they are shown."""
    return re.findall(r"<<\w+ response(?: [A-Z])?>>\n(.*?)\n<<\w+ end of response", message, flags=re.DOTALL)

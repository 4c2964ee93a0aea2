"""A web server on this machine that can break: it cuts connections, stalls, and forgets ranges."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


@contextmanager
def serving(files):
    """Serve {path: bytes}; yields its state.

    State: `address`; `asked`, [(path, Range header or None)] of each GET; `cut`, bytes of a body after which the
    connection is closed, `times` times or always (None); `stall`, after which it hangs; `ranges`, whether Range is
    honoured; `headers`, {path: more}.
    """
    state = SimpleNamespace(
        files=files, asked=[], cut=None, times=None, stall=None, ranges=True, headers={}, released=threading.Event()
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            state.asked.append((self.path, self.headers.get("Range")))
            self.answer(body=True)

        def answer(self, body):
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start, total = 0, len(content)
            wanted = self.headers.get("Range")
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(total - start))
            for name, value in {"Content-Type": "application/octet-stream", **state.headers.get(self.path, {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            try:
                end = min(at for at in (state.cut, state.stall, total) if at is not None)
                self.wfile.write(content[start : max(start, end)])
                self.wfile.flush()
                if end < total and state.cut is not None and state.times is not None:
                    state.times -= 1
                    state.cut = state.cut if state.times else None
                if end < total:
                    if state.stall is not None:
                        state.released.wait(120)
                    self.close_connection = True
            except ConnectionError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()

"""Start the real nginx, with the service's own configuration, in front of some replicas."""

import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.server import ROOT, Server, wait_until

CONFIG = ROOT / "deploy" / "nginx" / "embedding-api.conf"
# Debian has it in a folder that is only in root's PATH.
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MAIN = """
daemon off;
pid pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include conf.d/*.conf;
}
"""


class Nginx(Server):
    """On a free port of 127.0.0.1, for a `with` statement.

    Args:
        ports: where the replicas listen.
        directory: where its files go.
    """

    def __init__(self, ports, directory):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = Path(directory) / "log"
        self._directory = Path(directory)
        lines = (line for line in CONFIG.read_text().splitlines(keepends=True) if "listen [::]" not in line)
        (self._directory / "conf.d").mkdir()
        (self._directory / "conf.d" / CONFIG.name).write_text(
            "".join(lines).replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
        )
        replicas = "".join(f"server 127.0.0.1:{port} max_fails=0;\n" for port in ports)
        (self._directory / "embedding-replicas.conf").write_text(replicas)
        (self._directory / "nginx.conf").write_text(MAIN)

    def __enter__(self):
        command = [NGINX, "-p", f"{self._directory}/", "-c", "nginx.conf"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.pid = self._process.pid
        wait_until(lambda: self._process.poll() is not None or self._listens())
        if self._process.poll() is not None:
            raise RuntimeError(f"nginx did not start:\n{self.log()}")
        return self

    def __exit__(self, *error):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

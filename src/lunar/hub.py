"""Whether the Hugging Face Hub can be asked, found out in about a second and a half instead of a minute of retries.

It opens one connection and closes it again: it knows nothing about models, data sets, caches or credentials, and an
open door does not promise that a certain repository can be read.
"""

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

TIMEOUT_SECONDS = 1.5


def hub_offline() -> bool:
    """Whether the user asked for offline work (`HF_HUB_OFFLINE=1`), so that only what is cached may be used."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def hub_reachable() -> bool:
    """Whether a connection to the Hub's endpoint, or to the proxy in front of it, opens within 1.5 seconds.

    Always False, without trying, when `hub_offline()`. Never raises; name resolution counts towards the time limit.
    """
    if hub_offline():
        return False
    host, port = _address_to_try()
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=TIMEOUT_SECONDS).close()
        except (OSError, UnicodeError, OverflowError):
            return
        opened.set()

    # A thread, because the socket's own limit covers neither name resolution nor a list of several addresses.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(TIMEOUT_SECONDS)
    return opened.is_set()


def _address_to_try() -> tuple[str, int]:
    """Host and port of the endpoint, or of the proxy that the environment puts before it."""
    from huggingface_hub import constants

    endpoint = urlsplit(constants.ENDPOINT)
    host, scheme = endpoint.hostname or "huggingface.co", endpoint.scheme or "https"
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return host, _port(endpoint.netloc, 443 if scheme == "https" else 80)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    default = {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}.get(through.scheme, 80)
    return through.hostname or host, _port(through.netloc, default)


def _port(location: str, default: int) -> int:
    """The port written after a host, or `default` where none, or none that is a number, is written."""
    try:
        return urlsplit(f"//{location}").port or default
    except ValueError:
        return default

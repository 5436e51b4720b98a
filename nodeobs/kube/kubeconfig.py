"""A kubeconfig, with its exec plugins and OIDC tokens, read by the ``kubernetes`` package.

The package takes 30 MB, so that only who has a kubeconfig imports this. What it does badly is mended here: it
carries on without credentials when a plugin fails, never renews an OIDC token in a process that goes on, does not
verify an identity provider without an authority of its own, and puts tokens into its errors.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

from nodeobs.errors import ConfigurationError
from nodeobs.kube.access import Access, header_token
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

_NO_SUCH: Final = re.compile(
    r"Invalid kube-config file\. Expected object with name (?P<name>\S+) in .*/(?P<kind>context|cluster|user)s list",
    re.DOTALL,
)
"""How the package says that one part of a kubeconfig names another that is not there."""


class _Claims(msgspec.Struct, frozen=True):
    exp: float | None = None


class Kubeconfig:
    """Access as kubeconfig files give it; the first that has an entry counts, as for kubectl.

    Raises:
        ConfigurationError: they are no kubeconfig, or there is no such context.
    """

    def __init__(self, files: tuple[Path, ...], context: str | None = None) -> None:
        self._kubeconfigs = files
        self._name = os.pathsep.join(map(str, files))
        try:
            merger = KubeConfigMerger(self._name)
            self._loader = KubeConfigLoader(
                merger.config, active_context=context, config_base_path=None, config_persister=self._keep_renewed
            )
            chosen = self._loader.current_context["context"]
            self._read: dict[str, Any] = merger.config_files
            self._user_file, self._user = self._find_user(chosen.get("user"))
        except (ConfigException, yaml.YAMLError, OSError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._unusable(error) from None  # its text may hold tokens
        self._user_name = str(chosen.get("user"))
        self.namespace = str(chosen.get("namespace") or "default")

    @property
    def files(self) -> tuple[Path, ...]:
        """The kubeconfigs, and the file with the token where they name one."""
        token_file = self._token_file()
        return (*self._kubeconfigs, token_file) if token_file else self._kubeconfigs

    def load(self) -> Access:
        """Access as it is now; asks the exec plugin, and renews an OIDC token that is about to expire.

        Raises:
            ConfigurationError: it cannot be used; the message never shows a token.
        """
        configuration = Configuration(proxy="")
        self._trust_system_for_oidc()
        token_file = self._token_file()
        try:
            self._loader.load_and_set(configuration)
        except Exception as error:  # noqa: BLE001 - the package, and what it uses for OIDC, raise what they like
            raise self._unusable(error) from None  # its text may hold tokens
        authorization = str(configuration.api_key.get("BearerToken") or "")
        if token_file is not None and not self._user.get("token"):
            authorization = f"Bearer {header_token(token_file)}"
        if not (authorization.isascii() and authorization.isprintable()):
            # Whatever sends it as a header would show it in its error.
            raise ConfigurationError(
                f"the kubeconfig {self._name} has a token or password of its user {self._user_name!r} with characters "
                "that cannot be sent, such as the end of a line"
            )
        if self._user and not authorization and not configuration.cert_file:
            raise ConfigurationError(
                f"the kubeconfig {self._name} gives no credentials for its user {self._user_name!r}: {self._hint()}"
            )
        return Access(
            server=str(configuration.host).rstrip("/"),
            server_name=str(configuration.tls_server_name or ""),
            proxy=str(configuration.proxy or ""),
            authority=str(configuration.ssl_ca_cert or ""),
            certificate=str(configuration.cert_file or ""),
            key=str(configuration.key_file or ""),
            verify=bool(configuration.verify_ssl),
            authorization=authorization,
            expires=self._expires(authorization),
        )

    def _find_user(self, name: str | None) -> tuple[Path, dict[str, Any]]:
        for path, document in self._read.items():
            for entry in document.get("users") or ():
                if entry["name"] == name:
                    return Path(path), _checked(entry.get("user") or {})
        return Path(), {}

    def _token_file(self) -> Path | None:
        named = self._user.get("tokenFile")
        return self._user_file.parent / named if named else None

    def _oidc(self) -> dict[str, Any] | None:
        provider = self._user.get("auth-provider") or {}
        return provider.get("config") if provider.get("name") == "oidc" else None

    def _trust_system_for_oidc(self) -> None:
        """Without an authority of its own, the package would ask the identity provider unverified."""
        config = self._oidc()
        if config is not None and "idp-certificate-authority-data" not in config:
            system: str | None = ssl.get_default_verify_paths().cafile or None
            if system is None and "idp-certificate-authority" not in config:
                raise ConfigurationError(
                    f"the kubeconfig {self._name} names no idp-certificate-authority for its user {self._user_name!r}, "
                    "and this system has no authorities of its own"
                )
            config.setdefault("idp-certificate-authority", system)

    def _expires(self, authorization: str) -> datetime | None:
        if self._oidc() is not None:
            return _expiry(authorization)
        expiry = getattr(self._loader, "expiry", None)  # the exec plugin's; not there where it gave none
        return expiry if isinstance(expiry, datetime) else None

    def _hint(self) -> str:
        if "exec" in self._user:
            command = self._user["exec"].get("command")
            return f"its exec plugin {command!r} failed; what it said is in the log, run it by hand to see more"
        if "auth-provider" in self._user:
            return "its auth-provider is not supported, or has no valid id-token; log in again with its own tool"
        return "it has neither a token, a client certificate, an exec plugin nor a password"

    def _keep_renewed(self) -> None:
        """Write a renewed OIDC token into its file: the refresh token may have been good for once only."""
        config = self._oidc() or {}
        try:
            path = self._user_file.resolve()
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            for entry in document["users"]:
                if entry["name"] == self._user_name:
                    renewed = {key: config[key] for key in ("id-token", "refresh-token")}
                    entry["user"]["auth-provider"]["config"].update(renewed)
            _replace(path, yaml.safe_dump(document, default_flow_style=False))
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            log.warning("a renewed token cannot be kept", kubeconfig=str(self._user_file), error=type(error).__name__)

    def _unusable(self, error: Exception) -> ConfigurationError:
        # The package names a place by the file and the whole entry, with the token in it.
        said = str(error) or type(error).__name__
        if missing := _NO_SUCH.fullmatch(said):
            return ConfigurationError(
                f"there is no {missing['kind']} {missing['name']!r} in the kubeconfig {self._name}"
            )
        for path in self._kubeconfigs:
            said = re.sub(f"{re.escape(str(path))}/.*", f"{path}/...", said, flags=re.DOTALL)
        said = re.sub(r"[{\[]['\"].*", "...", said, flags=re.DOTALL)
        return ConfigurationError(f"the kubeconfig {self._name} cannot be used: {said}")


def _checked(user: dict[str, Any]) -> dict[str, Any]:
    """The user, of the shape that is relied on here; the rest is the package's."""
    provider = user.get("auth-provider") or {}
    maps = (user, user.get("exec", {}), provider, provider.get("config") or {})
    if not all(isinstance(part, dict) for part in maps) or not isinstance(user.get("tokenFile", ""), str):
        raise TypeError("the user is not what it should be: user, exec and auth-provider are maps, tokenFile a path")
    return user


def _expiry(authorization: str) -> datetime | None:
    """When a JSON Web Token says that it expires (RFC 7519, ``exp``)."""
    parts = authorization.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return None
    with suppress(ValueError, OverflowError, msgspec.DecodeError):
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = decode(base64.urlsafe_b64decode(padded), _Claims)
        return None if claims.exp is None else datetime.fromtimestamp(claims.exp, UTC)
    return None


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

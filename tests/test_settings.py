"""The service's settings: where they come from, and how wrong ones are refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import ConfigurationError
from nodeobs.settings import Settings, default_data_dir
from tests.settings_reference import settings_reference

DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"
HOME = {"HOME": "/home/sre"}


def load(*, port: str = "", **variables: str) -> Settings:
    return Settings.load(HOME | {"PORT": port} | {f"NODEOBS_{name}": text for name, text in variables.items()})


def refusal(*, port: str = "", **variables: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(port=port, **variables)
    return str(refused.value)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "nodeobs.yaml"


def secret_file(folder: Path, name: str = "tokens") -> str:
    path = folder / name
    path.write_text("x")
    return str(path)


def test_everything_has_a_default() -> None:
    settings = load()
    assert (settings.bind, settings.bind_host, settings.bind_port) == ("127.0.0.1:8080", "127.0.0.1", 8080)
    assert settings.output == str(settings.data_dir / "outputs")
    assert settings.retention_max_age == timedelta(days=30)
    assert settings.retention_max_bytes == 20 * 2**30
    assert settings.max_body_bytes == 8 * 2**20
    assert settings.namespace == "nodeobs"
    assert settings.agents == ()
    assert settings.tokens_file is None


def test_the_environment_is_read(tmp_path: Path) -> None:
    settings = load(
        BIND="[::1]:9000",
        DATA_DIR=str(tmp_path),
        OUTPUT="s3://bucket/prefix",
        RETENTION_MAX_AGE="1d12h",
        RETENTION_MAX_BYTES="500MB",
        RUN_GRACE_SECONDS="5",
        AGENT_TLS="true",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="json",
        AGENTS='[{"name": "w1", "address": "[fd00::7]:8443", "labels": {"role": "worker"}, "targets": ["kubelet"]}]',
    )
    assert (settings.bind_host, settings.bind_port) == ("::1", 9000)
    assert settings.data_dir == tmp_path
    assert settings.output == "s3://bucket/prefix"
    assert settings.retention_max_age == timedelta(hours=36)
    assert settings.retention_max_bytes == 500_000_000
    assert settings.run_grace_seconds == 5
    assert settings.agent_tls is True
    assert (settings.log_level, settings.log_format) == ("debug", "json")
    (agent,) = settings.agents
    assert (agent.name, agent.host, agent.port) == ("w1", "fd00::7", 8443)
    assert (agent.labels, agent.targets) == ({"role": "worker"}, ("kubelet",))


def test_a_token_is_not_sent_to_other_machines_in_the_clear(tmp_path: Path) -> None:
    token = secret_file(tmp_path)
    far = '[{"name": "w1", "address": "10.0.0.1:8443"}]'
    text = refusal(AGENTS=far, AGENT_TOKEN_FILE=token)
    assert "10.0.0.1:8443" in text
    assert "NODEOBS_AGENT_TLS" in text
    assert load(AGENTS=far, AGENT_TOKEN_FILE=token, AGENT_TLS="true").agent_tls
    assert load(AGENTS='[{"name": "w1", "address": "127.0.0.1:8443"}]', AGENT_TOKEN_FILE=token).agents


def test_the_file_is_read_and_the_environment_wins(config: Path, tmp_path: Path) -> None:
    config.write_text(
        f"""
bind: 127.0.0.1:9000
data_dir: {tmp_path}/data
retention_max_age: 12h
retention_max_bytes: 1048576
tokens_file:
agents:
  - {{name: w1, address: "10.0.0.1:8443"}}
  - {{name: w2, address: "w2.example.com:8443", labels: {{role: infra}}}}
"""
    )
    settings = load(CONFIG=str(config), BIND="127.0.0.1:9001")
    assert settings.bind == "127.0.0.1:9001"
    assert settings.output == f"{tmp_path}/data/outputs"
    assert settings.retention_max_age == timedelta(hours=12)
    assert settings.retention_max_bytes == 2**20
    assert [agent.name for agent in settings.agents] == ["w1", "w2"]


def test_nothing_is_taken_from_the_process_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEOBS_NAMESPACE", "elsewhere")
    monkeypatch.setenv("NODEOBS_NO_SUCH", "x")
    assert load().namespace == "nodeobs"
    assert Settings(data_dir=Path("/data")).namespace == "nodeobs"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(BIND="", TLS_CERT_FILE="", AGENTS="").bind == "127.0.0.1:8080"


def test_an_empty_file_changes_nothing(config: Path) -> None:
    config.write_text("# nothing yet\n")
    assert load(CONFIG=str(config)) == load()


class TestDataDir:
    def test_root_has_it_where_services_have_it(self) -> None:
        assert default_data_dir(HOME, user_id=0) == Path("/var/lib/nodeobs")

    def test_others_have_it_in_their_state_folder(self) -> None:
        assert default_data_dir(HOME, user_id=7) == Path("/home/sre/.local/state/nodeobs")
        assert default_data_dir(HOME | {"XDG_STATE_HOME": "/state"}, user_id=7) == Path("/state/nodeobs")
        assert default_data_dir(HOME | {"XDG_STATE_HOME": "a"}, user_id=7) == Path("/home/sre/.local/state/nodeobs")

    def test_relative_paths_are_made_whole(self) -> None:
        settings = load(DATA_DIR="data", OUTPUT="out")
        assert settings.data_dir == Path.cwd() / "data"
        assert settings.output == str(Path.cwd() / "out")


class TestReach:
    @pytest.mark.parametrize("bind", ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80", "nodeobs.example.com:80"])
    def test_others_may_not_reach_it_without_tokens(self, tmp_path: Path, bind: str) -> None:
        message = refusal(BIND=bind)
        assert f"bind is {bind!r}, which other machines can reach, but there is no tokens_file" in message
        assert "set NODEOBS_TOKENS_FILE" in message
        assert load(BIND=bind, TOKENS_FILE=secret_file(tmp_path)).bind == bind

    @pytest.mark.parametrize("bind", ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80", "localhost:80"])
    def test_this_machine_may(self, bind: str) -> None:
        assert load(BIND=bind).bind == bind

    def test_a_platforms_port_is_taken_where_nothing_else_is_said(self, tmp_path: Path) -> None:
        tokens = secret_file(tmp_path)
        assert load(port="5000", TOKENS_FILE=tokens).bind == "0.0.0.0:5000"
        assert load(port="5000", BIND="127.0.0.1:1").bind == "127.0.0.1:1"
        assert "there is no tokens_file" in refusal(port="5000")
        assert "setting bind (environment variable PORT): '0.0.0.0:x'" in refusal(port="x", TOKENS_FILE=tokens)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"BIND": "8080"},
            "NODEOBS_BIND): '8080' cannot be used: not host:port with a port from 0 to 65535; allowed: `host:port` or",
        ),
        ({"BIND": "127.0.0.1:65536"}, "not host:port with a port from 0 to 65535"),
        ({"BIND": "::1:80"}, "'::1:80' cannot be used"),
        ({"BIND": "[:::]:80"}, "'[:::]:80' cannot be used"),
        ({"BIND": "unix:/run/x.sock"}, "cannot be used"),
        (
            {"RUN_HISTORY": "0"},
            "NODEOBS_RUN_HISTORY): '0' cannot be used: Input should be greater than or equal to 1; allowed: 1 to 10000",
        ),
        ({"RUN_GRACE_SECONDS": "1.5"}, "setting run_grace_seconds"),
        ({"RETENTION_MAX_AGE": "0s"}, "'0s' cannot be used: must be longer than 0; allowed: duration such as"),
        ({"RETENTION_MAX_AGE": "30"}, "'30' is not a duration such as 90s"),
        ({"RETENTION_MAX_COUNT": "-1"}, "setting retention_max_count"),
        ({"RETENTION_MAX_BYTES": "20X"}, "'20X' is not a size such as"),
        ({"MAX_BODY_BYTES": "1KiB"}, "allowed: size from `64KiB` to `64MiB`"),
        ({"MAX_BODY_BYTES": "1GiB"}, "allowed: size from `64KiB` to `64MiB`"),
        ({"NAMESPACE": "../x"}, "'../x' cannot be used: must be: Lower-case RFC 1123 label"),
        ({"AGENT_TLS": "perhaps"}, "'perhaps' cannot be used: Input should be a valid boolean, unable to interpret"),
        ({"LOG_LEVEL": "loud"}, "allowed: `debug` or `info` or `warning` or `error`"),
        ({"OUTPUT": "ftp://host/x"}, "setting output (environment variable NODEOBS_OUTPUT): "),
        ({"OUTPUT": "s3:///x"}, "the bucket's name is missing; allowed: path of a folder, or `s3://…`"),
        ({"TRIGGERS_FILE": "/no/such"}, "'/no/such' cannot be used: No such file or directory; allowed: path"),
        ({"TRIGGERS_FILE": "/tmp"}, "'/tmp' cannot be used: not a file"),
        ({"TRIGGERS_FILE": "/" + "x" * 300}, " cannot be used: File name too long"),
        ({"TRIGGERS_FILE": "/dev/null"}, "'/dev/null' cannot be used: not a file"),
        ({"AGENT_CA_FILE": __file__}, "agent_ca_file has no effect without agent_tls: set NODEOBS_AGENT_TLS to true"),
        ({"TLS_CERT_FILE": __file__}, "tls_cert_file and tls_key_file belong together"),
        ({"TLS_KEY_FILE": __file__}, "tls_cert_file and tls_key_file belong together"),
        ({"AGENTS": "[{"}, "environment variable NODEOBS_AGENTS is not JSON: Expecting property name"),
        ({"AGENTS": "{}"}, "setting agents (environment variable NODEOBS_AGENTS): {} cannot be used"),
        ({"AGENTS": '[{"name": "A", "address": "a:1"}]'}, "setting agents.0.name "),
        ({"AGENTS": '[{"name": "a", "address": "a"}]'}, "setting agents.0.address "),
        ({"AGENTS": '[{"name": "a"}]'}, "setting agents.0.address (environment variable NODEOBS_AGENTS): is missing"),
        ({"AGENTS": '[{"name": "a", "adress": "a:1"}]'}, "unknown key 'adress'; did you mean 'address'?"),
        ({"AGENTS": '[{"name": "a", "address": "a:1", "targets": ["../x"]}]'}, "setting agents.0.targets.0 "),
        ({"AGENTS": '[{"name": "a", "address": "a:1", "labels": {"x": 1}}]'}, "setting agents.0.labels.x "),
        (
            {"AGENTS": '[{"name": "a", "address": "a:1"}, {"name": "a", "address": "b:1"}]'},
            "agents lists 'a' more than once; each node has one agent",
        ),
        ({"BINDD": "x"}, "unknown environment variable NODEOBS_BINDD: did you mean NODEOBS_BIND?"),
        ({"QQQQQ": "x"}, "unknown environment variable NODEOBS_QQQQQ: docs/configuration.md lists all"),
        ({"CONFIG": "/no/such.yaml"}, "NODEOBS_CONFIG: cannot read /no/such.yaml: "),
    ],
)  # fmt: skip
def test_says_which_setting_is_wrong_its_value_and_what_is_allowed(variables: dict[str, str], message: str) -> None:
    assert message in refusal(**variables)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bnd: x", "nodeobs.yaml: unknown key 'bnd'; did you mean 'bind'?"),
        ("[]", "nodeobs.yaml: must be a mapping of settings to values, not a list"),
        ("bind: [", "nodeobs.yaml: not usable YAML"),
        ("bind: a:1\nbind: b:1", "key 'bind' is given twice"),
        ("bind: 8080", "setting bind (key bind in "),
        ("retention_max_age: 30", "30 cannot be used: '30' is not a duration"),
        ("retention_max_bytes: 1.5", "1.5 cannot be used: '1.5' is not a size"),
        ("data_dir: 5", "setting data_dir (key data_dir in "),
        ("agents: w1", "setting agents (key agents in "),
        ("run_history: many\nlog_format: xml", "'xml' cannot be used"),
        ("run_history: many\nlog_format: xml", "'many' cannot be used"),
        ("\x00", "not usable YAML"),
    ],
)
def test_says_what_is_wrong_in_the_file(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    assert message in refusal(CONFIG=str(config))


def test_a_file_that_is_not_text_is_refused(config: Path) -> None:
    config.write_bytes(b"\xff\xfe")
    assert f"NODEOBS_CONFIG: cannot read {config}: " in refusal(CONFIG=str(config))


def test_one_wrong_setting_is_one_line() -> None:
    assert len(refusal(DATA_DIR="~no-such-user/x").splitlines()) == 1


class TestSecrets:
    @pytest.mark.parametrize("name", ["TOKENS_FILE", "TLS_KEY_FILE", "AGENT_TOKEN_FILE"])
    def test_what_may_be_a_secret_is_not_shown(self, name: str) -> None:
        message = refusal(**{name: "hunter2-secret"})
        assert "hunter2" not in message
        assert "the value (not shown, it may hold a secret) cannot be used: No such file" in message

    def test_a_path_is_shown(self) -> None:
        assert "'/etc/nodeobs/tokens' cannot be used" in refusal(TOKENS_FILE="/etc/nodeobs/tokens")

    def test_credentials_in_a_url_are_refused_and_not_shown(self) -> None:
        for url in ("s3://key:hunter2@bucket/x", "s3://bucket/x?secret=hunter2"):
            message = refusal(OUTPUT=url)
            assert "hunter2" not in message
            assert "never from the URL" in message

    def test_the_value_of_an_unknown_variable_is_not_shown(self) -> None:
        assert "hunter2" not in refusal(TOKEN="hunter2")


def test_variables_of_the_agent_the_client_and_kubernetes_are_not_ours() -> None:
    load(
        AGENT_STORAGE="/x",
        SERVER="http://127.0.0.1:1",
        TOKEN_FILE="/x",
        CA_FILE="/x",
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT="80",
        SERVICE_PORT_HTTP="80",
        PORT="tcp://10.0.0.1:80",
        PORT_80_TCP="tcp://10.0.0.1:80",
        PORT_80_TCP_ADDR="10.0.0.1",
        WEB_SERVICE_HOST="10.0.0.1",
        WEB_PORT_8080_TCP_PROTO="tcp",
    )


names = st.sampled_from([name.upper() for name in Settings.model_fields])
texts = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=20)


@given(st.dictionaries(names, texts, max_size=4))
def test_any_value_is_used_or_refused(variables: dict[str, str]) -> None:
    try:
        load(**variables)
    except ConfigurationError:
        return


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts, lambda inner: st.lists(inner, max_size=2)
)))  # fmt: skip
def test_any_value_of_the_file_is_used_or_refused(values: dict[str, Any]) -> None:
    try:
        Settings(**({"data_dir": "/data"} | values))
    except ValueError:
        return


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().bind = "0.0.0.0:1"


def test_the_documentation_lists_every_setting() -> None:
    assert settings_reference() in DOCS.read_text(encoding="utf-8")
    assert all(field.description for field in Settings.model_fields.values())


class TestInACluster:
    def test_what_has_no_effect_there_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "tokens").write_text("t,u,viewer\n")
        assert "the API server authenticates callers" in refusal(
            MODE="kubernetes", TOKENS_FILE=str(tmp_path / "tokens")
        )
        agents = '[{"name": "a", "address": "127.0.0.1:1"}]'
        assert "they are found by agent_service" in refusal(MODE="kubernetes", AGENTS=agents)

    def test_a_token_for_agents_is_not_sent_in_the_clear(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t")
        assert "set NODEOBS_AGENT_TLS to true" in refusal(MODE="kubernetes", AGENT_TOKEN_FILE=str(tmp_path / "token"))

    def test_it_may_listen_on_every_address(self) -> None:
        assert load(MODE="kubernetes", BIND="0.0.0.0:8443").bind == "0.0.0.0:8443"

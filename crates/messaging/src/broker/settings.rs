//! What the server is told: Erlang's configuration, definitions, command line, environment. Pure.
//!
//! The settings are given to Erlang itself (`erl -config`) and not as a `rabbitmq.conf`, and the server is started by `erl`
//! and not by Debian's scripts. Both save time at each start: no schemas of sixty plugins are read, no configuration is
//! translated, no shell reads files of the distribution. `docs/decisions/0004-rabbitmq-started-directly.md` has the figures.

use std::net::IpAddr;
use std::path::Path;

use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::layout::{Layout, Programs};
use crate::topology::LOGS_EVENTS_QUEUE;

/// The broker's name in Erlang. Every node's is the same: they never speak to each other, and data that are named after an
/// address would be lost with it.
const NODE: &str = "rabbit@localhost";
/// The server blocks publishers when it takes more memory than this; it idles at 110 MB.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// It blocks publishers when the disk has less than this.
const DISK_BYTES_MIN: u64 = 200 << 20;
const LOG_BYTES_MAX: u64 = 10 << 20;
const LOG_FILES: u32 = 3;
/// When the record does not take logs and events for long, the oldest go first.
const QUEUE_BYTES_MAX: u64 = 512 << 20;

/// Where the broker listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) address: IpAddr,
    /// AMQP over TLS.
    pub(crate) amqps: u16,
    /// Erlang distribution.
    pub(crate) distribution: u16,
}

/// Everything that makes a running server this server. When it changes, the server is started anew.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Launch {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) config: String,
    pub(crate) definitions: String,
    /// Of the programs: whoever updates them means the running server as well.
    pub(crate) edition: String,
}

impl Launch {
    pub(crate) fn new(
        layout: &Layout,
        programs: &Programs,
        endpoints: Endpoints,
        user: &str,
        password: &str,
        salt: [u8; 4],
    ) -> Self {
        Self {
            arguments: arguments(layout, endpoints),
            environment: environment(layout, programs),
            config: config(layout, endpoints),
            definitions: definitions(user, password, salt).to_string(),
            edition: programs.edition.clone(),
        }
    }

    /// A name for all of it.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in &self.environment {
            hash.update(format!("{key}={value}\0"));
        }
        for part in self
            .arguments
            .iter()
            .chain([&self.config, &self.definitions, &self.edition])
        {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn arguments(layout: &Layout, endpoints: Endpoints) -> Vec<String> {
    // The manager's settings have to win over those of the environment, which prelaunch derives (a plain listener on 5672
    // among them). The monitor of epmd starts an Erlang machine a minute to keep an epmd alive that nobody wants.
    const BOOT: &str = "{ok, _} = application:ensure_all_started(rabbitmq_prelaunch, transient), \
        ok = application:set_env(rabbit, tcp_listeners, [], [{persistent, true}]), \
        rabbit:boot(), \
        supervisor:terminate_child(rabbit_sup, rabbit_epmd_monitor_sup), \
        supervisor:delete_child(rabbit_sup, rabbit_epmd_monitor_sup).";
    let distribution = endpoints.distribution.to_string();
    let interface = tuple(endpoints.address);
    let config = layout.config_stem().display().to_string();
    #[rustfmt::skip]
    let arguments = [
        "-noinput", "-boot", "start_sasl", "-config", &config,
        // Idle schedulers sleep, and there are few of them: a manager's broker is not a message hub.
        "+W", "w", "+S", "2:2", "+SDio", "4", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
        "+MBas", "ageffcbf", "+MHas", "ageffcbf", "+MBlmbcs", "512", "+MHlmbcs", "512", "+MMmcs", "30",
        "+B", "i",
        "-sname", NODE, "-start_epmd", "false", "-erl_epmd_port", &distribution,
        "-kernel", "inet_dist_use_interface", &interface,
        "-kernel", "prevent_overlapping_partitions", "false",
        "-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false",
        "-eval", BOOT,
    ];
    arguments.into_iter().map(str::to_owned).collect()
}

fn environment(layout: &Layout, programs: &Programs) -> Vec<(&'static str, String)> {
    let text = |path: &Path| path.display().to_string();
    let nothing = text(&layout.base.join("none"));
    vec![
        ("HOME", text(&layout.base)),
        ("LANG", "C.UTF-8".into()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin".into()),
        ("ERL_LIBS", text(&programs.home.join("plugins"))),
        // Nobody listens there. With a fixed port for distribution Erlang does without epmd.
        ("ERL_EPMD_PORT", "1".into()),
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        ("SYS_PREFIX", String::new()),
        ("RABBITMQ_HOME", text(&programs.home)),
        ("RABBITMQ_NODENAME", NODE.into()),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
        ("RABBITMQ_CONFIG_FILE", nothing.clone()),
        ("RABBITMQ_CONFIG_FILES", nothing.clone()),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", nothing),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", text(&layout.enabled_plugins())),
        ("RABBITMQ_PLUGINS_DIR", text(&layout.plugins())),
        ("RABBITMQ_MNESIA_BASE", text(&layout.database())),
        ("RABBITMQ_LOG_BASE", text(&layout.logs())),
    ]
}

fn config(layout: &Layout, endpoints: Endpoints) -> String {
    let file = |path: &Path| string(&path.display().to_string());
    format!(
        "%% Written by Conclave before each start; changes are lost.\n\
         [{{rabbit, [\n\
         {{tcp_listeners, []}},\n\
         {{ssl_listeners, [{{{address}, {port}}}]}},\n\
         {{ssl_options, [{{cacertfile, {ca}}}, {{certfile, {certificate}}}, {{keyfile, {certificate}}},\n\
         \x20 {{verify, verify_peer}}, {{fail_if_no_peer_cert, false}}, {{versions, ['tlsv1.3', 'tlsv1.2']}}]}},\n\
         {{load_definitions, {definitions}}},\n\
         {{consumer_timeout, undefined}},\n\
         {{vm_memory_high_watermark, {{absolute, {MEMORY_BYTES_MAX}}}}},\n\
         {{disk_free_limit, {DISK_BYTES_MIN}}},\n\
         {{log, [{{console, [{{enabled, false}}]}},\n\
         \x20 {{file, [{{file, \"rabbitmq.log\"}}, {{level, info}}, {{size, {LOG_BYTES_MAX}}}, {{count, {LOG_FILES}}}]}}]}}\n\
         ]}}].\n",
        address = string(&endpoints.address.to_string()),
        port = endpoints.amqps,
        ca = file(&layout.ca()),
        certificate = file(&layout.certificate()),
        definitions = file(&layout.definitions()),
    )
}

/// Users and the virtual host; with them the server makes no `guest`.
fn definitions(user: &str, password: &str, salt: [u8; 4]) -> Value {
    json!({
        "users": [{
            "name": user, "password_hash": password_hash(password, salt), "tags": ["administrator"],
            "hashing_algorithm": "rabbit_password_hashing_sha256",
        }],
        "vhosts": [{"name": "/"}],
        "permissions": [{"user": user, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
        "policies": [{
            "vhost": "/", "name": "bounded logs and events", "pattern": format!("^{LOGS_EVENTS_QUEUE}$"),
            "apply-to": "queues", "priority": 0,
            "definition": {"max-length-bytes": QUEUE_BYTES_MAX, "overflow": "drop-head"},
        }],
        "queues": [], "exchanges": [], "bindings": [], "parameters": [], "global_parameters": [],
    })
}

/// As RabbitMQ stores passwords: the salt and the hash of salt and password, in base 64.
fn password_hash(password: &str, salt: [u8; 4]) -> String {
    let hash = Sha256::new().chain_update(salt).chain_update(password).finalize();
    base64::engine::general_purpose::STANDARD.encode([salt.as_slice(), hash.as_slice()].concat())
}

/// A string of Erlang.
fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// An address of Erlang.
fn tuple(address: IpAddr) -> String {
    let parts: Vec<String> = match address {
        IpAddr::V4(address) => address.octets().iter().map(ToString::to_string).collect(),
        IpAddr::V6(address) => address.segments().iter().map(ToString::to_string).collect(),
    };
    format!("{{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(port: u16) -> Launch {
        launch_of(port, "1 2")
    }

    fn launch_of(port: u16, edition: &str) -> Launch {
        let layout = Layout::new(Path::new("/data"));
        let programs = Programs {
            home: "/usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8".into(),
            erl: "/usr/lib/erlang/bin/erl".into(),
            edition: edition.into(),
        };
        let endpoints = Endpoints {
            address: IpAddr::from([127, 0, 0, 21]),
            amqps: port,
            distribution: 25672,
        };
        Launch::new(&layout, &programs, endpoints, "cloudify", "secret", [1, 2, 3, 4])
    }

    #[test]
    fn everything_listens_on_the_nodes_address_alone() {
        let launch = launch(5671);
        assert!(launch.config.contains("{ssl_listeners, [{\"127.0.0.21\", 5671}]}"));
        assert!(launch.config.contains("{tcp_listeners, []}"));
        let place = launch
            .arguments
            .iter()
            .position(|argument| argument == "inet_dist_use_interface");
        assert_eq!(launch.arguments[place.unwrap() + 1], "{127,0,0,21}");
    }

    #[test]
    fn no_secret_is_on_the_command_line_or_in_the_environment() {
        let launch = launch(5671);
        let shown = format!("{:?} {:?}", launch.arguments, launch.environment);
        assert!(!shown.contains("secret") && !launch.definitions.contains("secret"));
        assert!(!shown.contains("cookie"));
    }

    #[test]
    fn the_fingerprint_changes_with_the_settings_and_the_programs() {
        assert_eq!(launch(5671).fingerprint(), launch(5671).fingerprint());
        assert_ne!(launch(5671).fingerprint(), launch(5672).fingerprint());
        assert_ne!(launch(5671).fingerprint(), launch_of(5671, "1 3").fingerprint());
    }

    #[test]
    fn passwords_are_hashed_as_rabbitmq_documents() {
        // The example of RabbitMQ's documentation on credentials.
        let hash = password_hash("test12", [0x90, 0x8d, 0xc6, 0x0a]);
        assert_eq!(hash, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }

    #[test]
    fn texts_are_quoted_for_erlang() {
        assert_eq!(string("/a \"b\"\\c"), "\"/a \\\"b\\\"\\\\c\"");
        assert_eq!(tuple("::1".parse().unwrap()), "{0,0,0,0,0,0,0,1}");
    }
}

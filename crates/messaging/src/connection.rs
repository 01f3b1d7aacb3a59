//! One connection to one broker: opened with a time limit, its loss noticed at once.

use std::time::Duration;

use futures::StreamExt;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, Event};

use crate::access::{Access, BrokerAddress};
use crate::error::MessagingError;
use crate::topology;

/// Named so that a build without TLS fails here: the library would speak plainly to brokers without a word.
const _: usize = size_of::<amq_protocol_tcp::RustlsConnector>();
/// The library keeps buffers of 64 frames a connection: with the broker's 128 KiB they held 8 MiB each, for lines of a few
/// hundred bytes. Longer messages travel in several frames.
const FRAME_BYTES_MAX: u32 = 8192;

/// A broker that has not answered a single call by then is treated as gone.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// TCP, TLS and AMQP handshakes together; a broker that has just started is slow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is silent for twice this long is gone.
const HEARTBEAT_SECONDS: u16 = 10;
/// Catches a loss of which no event was seen.
const STATUS_POLL: Duration = Duration::from_secs(1);

/// Gives a call of the library a time limit.
pub(crate) async fn within<T>(
    what: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, MessagingError> {
    within_time(what, CALL_TIMEOUT, call).await
}

async fn within_time<T>(
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, MessagingError> {
    let timeout = |_| MessagingError::Timeout {
        what,
        seconds: limit.as_secs(),
    };
    tokio::time::timeout(limit, call)
        .await
        .map_err(timeout)?
        .map_err(MessagingError::amqp(what))
}

/// An open connection with one channel, on which the topology has been declared.
pub(crate) struct Session {
    connection: Connection,
    pub(crate) channel: Channel,
}

impl Session {
    /// Connects, and makes what is missing of the topology.
    pub(crate) async fn open(address: &BrokerAddress, access: &Access, purpose: &str) -> Result<Self, MessagingError> {
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQPS,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: access.username.clone(),
                    password: access.password.clone(),
                },
                host: address.host.clone(),
                port: address.port,
            },
            vhost: "/".into(),
            query: AMQPQueryString {
                heartbeat: Some(HEARTBEAT_SECONDS),
                frame_max: Some(FRAME_BYTES_MAX),
                connection_timeout: u64::try_from(CONNECT_TIMEOUT.as_millis()).ok(),
                ..AMQPQueryString::default()
            },
        };
        let properties = ConnectionProperties::default().with_connection_name(format!("conclave {purpose}").into());
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: Some(access.ca_certificate_pem.clone()),
        };
        let runtime = lapin::runtime::default_runtime().map_err(MessagingError::amqp("find the runtime"))?;
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        let connection = within_time("connect to the broker", CONNECT_TIMEOUT, connecting).await?;
        let channel = within("open a channel", connection.create_channel()).await?;
        topology::declare(&channel).await?;
        Ok(Self { connection, channel })
    }

    /// Resolves when the connection or its channel is no more.
    pub(crate) fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let mut events = self.connection.events_listener();
        let (status, channel) = (self.connection.status().clone(), self.channel.status().clone());
        async move {
            loop {
                tokio::select! {
                    event = events.next() => match event {
                        Some(Event::Error(error)) => return error.to_string(),
                        Some(_) => {}
                        None => return "the connection was closed".to_owned(),
                    },
                    () = tokio::time::sleep(STATUS_POLL) => {}
                }
                if !status.connected() || !channel.connected() {
                    return "the connection was closed".to_owned();
                }
            }
        }
    }

    /// Whether the broker takes messages: it blocks publishers when it is short of memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Says goodbye; a broker that does not answer is left.
    pub(crate) async fn close(&self) {
        if self.connection.status().connected() {
            let closing = self.connection.close(200, "done".into());
            if let Err(error) = within("close the connection", closing).await {
                tracing::debug!(%error, "a connection to a broker was left open");
            }
        }
    }
}

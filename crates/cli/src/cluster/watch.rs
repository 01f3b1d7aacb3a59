//! `conclave cluster watch`: what happens in the cluster, as it happens.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use conclave_net::HttpsClient;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::{Node, identity, show};

/// Within this an answer begins.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The node sends a comment at least every ten seconds; who is silent for longer is not there.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Between two tries to reach a node that does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// An event is a fraction of this.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Shows the status once and then each event, until it is interrupted. Outlives the node that it asks: it goes on with the
/// next event once the node is back.
pub(super) async fn watch(node: &Node) -> Result<()> {
    let config = node.load()?;
    let client = HttpsClient::trusting(&identity(&config)?.ca_certificate_pem)?;
    let url = format!(
        "https://{}:{}/v1/cluster/events",
        config.node.address, config.ports.status
    );
    if !node.json {
        show::status(node).await?;
    }
    let mut reader = Reader::default();
    tokio::select! {
        ended = follow(node, &client, &url, &mut reader) => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn follow(node: &Node, client: &HttpsClient, url: &str, reader: &mut Reader) -> Result<()> {
    let mut was_lost = false;
    loop {
        match read(node, client, url, reader).await {
            Err(error) if !was_lost && reader.last.is_none() => return Err(error),
            Err(error) if !was_lost => {
                eprintln!("{error:#}; waiting for the node to come back");
                was_lost = true;
            }
            Err(_) => {}
            Ok(()) => was_lost = false,
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One connection, until it ends.
async fn read(node: &Node, client: &HttpsClient, url: &str, reader: &mut Reader) -> Result<()> {
    let mut request = http::Request::get(url);
    if let Some(last) = &reader.last {
        request = request.header("last-event-id", last);
    }
    let answer = client
        .open(request.body(Full::new(Bytes::new()))?, OPEN_TIMEOUT)
        .await
        .context("this node does not answer")?;
    if answer.status() != 200 {
        bail!("{url} answers {}", answer.status());
    }
    reader.begin();
    let mut body = answer.into_body();
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, body.frame())
            .await
            .context("this node has fallen silent")?;
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame.context("the connection broke")?.into_data() else {
            continue;
        };
        for event in reader.take(&data)? {
            print(node, &event);
        }
    }
}

fn print(node: &Node, event: &Value) {
    if node.json {
        println!("{event}");
        return;
    }
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    println!("{} {:<13} {}", text("at"), text("kind"), text("text"));
}

/// Takes server-sent events apart (WHATWG HTML, section 9.2), as far as our nodes use them.
#[derive(Default)]
struct Reader {
    /// The id of the last event that was seen whole.
    last: Option<String>,
    rest: Vec<u8>,
    id: Option<String>,
    data: String,
}

impl Reader {
    /// A new connection: what the old one left unfinished comes again.
    fn begin(&mut self) {
        self.rest.clear();
        self.id = None;
        self.data.clear();
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.rest.len() >= LINE_BYTES_MAX {
                    bail!("the node sends a line that does not end");
                }
                self.rest.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.rest);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            let value = |field: &str| {
                line.strip_prefix(field)
                    .map(|value| value.strip_prefix(' ').unwrap_or(value))
            };
            if let Some(data) = value("data:") {
                self.data.push_str(data);
            } else if let Some(id) = value("id:") {
                self.id = Some(id.to_owned());
            } else if line.is_empty() && !self.data.is_empty() {
                let event = serde_json::from_str(&self.data).context("an event cannot be read")?;
                self.data.clear();
                self.last = self.id.take().or(self.last.take());
                events.push(event);
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_apart_wherever_the_pieces_end() {
        let stream = b": hello\n\nevent: leader\nid: 4\ndata: {\"text\":\"a\"}\n\n:\n\nid: 5\r\ndata:{\"text\":\"b\"}\r\n\r\nid: 6\ndata: {";
        for cut in 0..stream.len() {
            let mut reader = Reader::default();
            let mut events = reader.take(&stream[..cut]).unwrap();
            events.extend(reader.take(&stream[cut..]).unwrap());
            assert_eq!(
                events,
                [serde_json::json!({"text": "a"}), serde_json::json!({"text": "b"})]
            );
            assert_eq!(reader.last.as_deref(), Some("5"));
        }
    }

    #[test]
    fn a_new_connection_begins_anew_after_the_last_whole_event() {
        let mut reader = Reader::default();
        reader.take(b"id: 1\ndata: {}\n\nid: 2\ndata: {\"x").unwrap();
        reader.begin();
        assert_eq!(reader.last.as_deref(), Some("1"));
        assert_eq!(reader.take(b"id: 2\ndata: {}\n\n").unwrap().len(), 1);
        assert!(reader.take(b"data: {\n\n").is_err());
    }
}

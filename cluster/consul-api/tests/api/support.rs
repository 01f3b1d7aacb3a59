//! Nodes for tests, each on a runtime of its own, and a client that speaks Consul's API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use conclave_catalog::NodePorts;
use conclave_consensus::{
    AdminClient, Consensus, FoundOptions, JoinOptions, Profile, StartOptions, found, identity_dir, join, start,
};
use conclave_consul_api::{ConsulApi, ConsulApiOptions, token};
use conclave_net::{HttpsClient, NodeIdentity, ServerTls, install_crypto_provider, serve};
use conclave_runtime::Tasks;
use http::HeaderMap;
use http_body_util::Full;
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Longer than a query waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// A node. Dropping its runtime ends it as a killed process would end.
pub(crate) struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    pub(crate) consensus: Consensus,
    dir: PathBuf,
    pub(crate) peer: u16,
    pub(crate) status: u16,
}

/// Bound from the start, so that nobody else gets the port meanwhile.
struct Listeners {
    peer: std::net::TcpListener,
    status: std::net::TcpListener,
}

impl Listeners {
    fn bind() -> Self {
        let bind = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        Self {
            peer: bind(),
            status: bind(),
        }
    }

    fn ports(&self) -> (u16, u16) {
        let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
        (port(&self.peer), port(&self.status))
    }

    fn told(&self) -> NodePorts {
        let (peer, status) = self.ports();
        NodePorts {
            peer,
            status,
            ..NodePorts::default()
        }
    }
}

impl Node {
    fn start(dir: PathBuf, listeners: Listeners) -> Self {
        let (peer, status) = listeners.ports();
        // A runtime cannot be waited for inside of another one.
        let started = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let folder = dir.clone();
            let consensus = runtime.block_on(async move {
                let tasks = Tasks::new("node");
                let identity = NodeIdentity::load(&identity_dir(&folder)).unwrap();
                let options = StartOptions {
                    data_dir: folder,
                    identity: identity.clone(),
                    peer_address: format!("127.0.0.1:{peer}"),
                    profile: Profile::Cautious,
                    report: Arc::new(|| Value::Null),
                };
                let (consensus, routes) = start(options, &tasks).await.unwrap();
                let api_options = ConsulApiOptions {
                    identity: identity.clone(),
                    session_ttl_min: Duration::from_secs(1),
                };
                let (api, peer_routes) = ConsulApi::start(api_options, &consensus, &tasks).unwrap();
                let listen = |listener| TcpListener::from_std(listener).unwrap();
                let peer_tls = ServerTls::for_peers_and_joiners(&identity).unwrap();
                let routes = routes.merge(peer_routes).into_router();
                serve(&tasks, "peers", listen(listeners.peer), peer_tls, routes);
                let tls = ServerTls::for_users_and_peers(&identity).unwrap();
                serve(&tasks, "status", listen(listeners.status), tls, api.router());
                std::mem::forget(tasks);
                consensus
            });
            Self {
                runtime: Some(runtime),
                consensus,
                dir,
                peer,
                status,
            }
        });
        started.join().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn client(&self) -> Client {
        let identity = NodeIdentity::load(&identity_dir(&self.dir)).unwrap();
        Client {
            https: HttpsClient::trusting(&identity.ca_certificate_pem).unwrap(),
            base: format!("https://127.0.0.1:{}", self.status),
            token: Some(token(&identity)),
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.consensus.leadership().borrow().is_leader
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Nodes in a folder that goes with them.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// One node that serves.
    pub(crate) async fn one() -> Self {
        Self::of(1).await
    }

    pub(crate) async fn of(count: usize) -> Self {
        install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = vec![founded(dir.path())];
        until("the founding", || {
            let state = nodes[0].consensus.state().borrow().clone();
            state.facts().is_some() && nodes[0].leads()
        })
        .await;
        for number in 2..=count {
            nodes.push(joined(dir.path(), &nodes[0], number).await);
        }
        until("every node to vote and to know all", || {
            nodes.iter().all(|node| {
                let voters = node.consensus.voters().map_or(0, |voters| voters.len());
                let known = node.consensus.state().borrow().nodes().len();
                voters == count && known == count && node.consensus.leadership().borrow().has_quorum
            })
        })
        .await;
        Self { nodes, _dir: dir }
    }

    pub(crate) fn client(&self) -> Client {
        self.nodes[0].client()
    }

    pub(crate) fn leader(&self) -> usize {
        self.nodes.iter().position(Node::leads).expect("somebody leads")
    }
}

fn founded(root: &Path) -> Node {
    let (dir, listeners) = (root.join("node1"), Listeners::bind());
    found(&FoundOptions {
        data_dir: dir.clone(),
        node_name: "node1".into(),
        address: "127.0.0.1".into(),
        ports: listeners.told(),
        settings: std::collections::BTreeMap::new(),
    })
    .unwrap();
    Node::start(dir, listeners)
}

async fn joined(root: &Path, first: &Node, number: usize) -> Node {
    let (dir, listeners) = (root.join(format!("node{number}")), Listeners::bind());
    let identity = NodeIdentity::load(&identity_dir(&first.dir)).unwrap();
    let admin = AdminClient::new(identity, "127.0.0.1", first.peer).unwrap();
    let token = admin.create_join_token(Duration::from_secs(60)).await.unwrap();
    join(&JoinOptions {
        data_dir: dir.clone(),
        node_name: format!("node{number}"),
        address: "127.0.0.1".into(),
        ports: listeners.told(),
        token,
        peer: format!("127.0.0.1:{}", first.peer),
    })
    .await
    .unwrap();
    Node::start(dir, listeners)
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks until the answer is as it should be.
pub(crate) async fn until_answer(client: &Client, path: &str, what: &str, right: impl Fn(&Answer) -> bool) -> Answer {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = client.get(path).await;
        if right(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{what} did not happen in time; last: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client of one node.
#[derive(Clone)]
pub(crate) struct Client {
    https: HttpsClient,
    base: String,
    pub(crate) token: Option<String>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn index(&self) -> u64 {
        self.header("x-consul-index").parse().unwrap()
    }
}

impl Client {
    pub(crate) async fn try_send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let answer = self
            .https
            .send(request, ANSWER_LIMIT)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Answer {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        })
    }

    /// Reads a stream until it has said `wanted`.
    pub(crate) async fn listen(&self, path: &str, wanted: &str) -> String {
        use http_body_util::BodyExt;
        let request = http::Request::get(format!("{}{path}", self.base))
            .body(Full::default())
            .unwrap();
        let mut body = self.https.open(request, DEADLINE).await.unwrap().into_body();
        let mut text = String::new();
        let reading = async {
            while !text.contains(wanted) {
                let frame = body.frame().await.expect("the stream goes on").unwrap();
                text += &String::from_utf8_lossy(frame.data_ref().map_or(b"".as_slice(), |data| data));
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .unwrap_or_else(|_| panic!("{wanted} was not said"));
        text
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.try_send(method, path, body.as_ref()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    pub(crate) async fn put(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send("PUT", path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "").await
    }

    /// A write whose answer is `true` or `false`.
    pub(crate) async fn wrote(&self, path: &str, body: &str) -> bool {
        let answer = self.put(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json().as_bool().unwrap()
    }

    pub(crate) async fn session(&self, body: &str) -> String {
        let answer = self.put("/v1/session/create", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["ID"].as_str().unwrap().to_owned()
    }

    /// The one entry of a key.
    pub(crate) async fn entry(&self, key: &str) -> Value {
        let answer = self.get(&format!("/v1/kv/{key}")).await;
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
        answer.json()[0].clone()
    }
}

//! Who may talk to whom: real connections on free ports.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use conclave_net::{
    CertificateAuthority, ClusterKey, Credentials, HttpsClient, NodeIdentity, PeerConnector, PeerIdentity, ServerTls,
    accept_peers, bind, new_key_and_request, serve,
};
use conclave_runtime::Tasks;
use http_body_util::Full;
use jiff::SignedDuration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn identity(authority: &CertificateAuthority, cluster_id: &str, node_id: u64) -> NodeIdentity {
    identity_for(authority, cluster_id, node_id, SignedDuration::from_hours(24))
}

fn identity_for(
    authority: &CertificateAuthority,
    cluster_id: &str,
    node_id: u64,
    lifetime: SignedDuration,
) -> NodeIdentity {
    let name = format!("node{node_id}");
    let (key_pem, request) = new_key_and_request(&name).unwrap();
    let certificate_pem = authority
        .sign_for(&request, cluster_id, node_id, &name, "127.0.0.1", lifetime)
        .unwrap();
    NodeIdentity {
        cluster_id: cluster_id.into(),
        node_id,
        name,
        ca_certificate_pem: authority.certificate_pem().into(),
        credentials: Credentials::new(certificate_pem, key_pem, authority.certificate_pem()).unwrap(),
        generation: 0,
        cluster_key: ClusterKey::from_bytes(&[1; 32]).unwrap(),
    }
}

/// Listens as a node and answers each peer with its number.
async fn listen(tasks: &Tasks, identity: &NodeIdentity) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = ServerTls::for_peers(identity).unwrap();
    accept_peers(
        tasks,
        "test",
        listener,
        tls,
        |mut stream, peer: PeerIdentity| async move {
            stream.write_all(&[peer.node_id as u8]).await.unwrap();
            stream.shutdown().await.unwrap();
        },
    );
    address
}

async fn greet(client: &NodeIdentity, server_id: u64, address: SocketAddr) -> Result<u8, String> {
    let connector = PeerConnector::new(client).unwrap();
    let mut stream = connector
        .connect(server_id, "127.0.0.1", address.port())
        .await
        .map_err(|error| error.to_string())?;
    // In TLS 1.3 the server's refusal arrives with the first read.
    stream.read_u8().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn nodes_of_one_cluster_know_each_other() {
    let authority = CertificateAuthority::create("c1").unwrap();
    let (one, two) = (identity(&authority, "c1", 1), identity(&authority, "c1", 2));
    let tasks = Tasks::new("test");
    let address = listen(&tasks, &one).await;
    assert_eq!(greet(&two, 1, address).await, Ok(2));
    let error = greet(&two, 3, address).await.unwrap_err();
    assert!(
        error.contains("node-3.c1"),
        "a node that is not the one called must be noticed: {error}"
    );
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused() {
    let (ours, theirs) = (
        CertificateAuthority::create("c1").unwrap(),
        CertificateAuthority::create("c1").unwrap(),
    );
    let server = identity(&ours, "c1", 1);
    let mut stranger = identity(&theirs, "c1", 2);
    // The stranger trusts us, so that the refusal is the server's.
    stranger.ca_certificate_pem = server.ca_certificate_pem.clone();
    let tasks = Tasks::new("test");
    let address = listen(&tasks, &server).await;
    assert!(greet(&stranger, 1, address).await.is_err());
    tasks.stop(Duration::from_secs(5)).await;
}

/// What the program logs, for tests that read it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// One thread, so that the listener's log lines reach this test's subscriber.
#[tokio::test(flavor = "current_thread")]
async fn an_expired_certificate_is_refused_and_the_log_says_why() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let authority = CertificateAuthority::create("c1").unwrap();
    let server = identity(&authority, "c1", 1);
    let late = identity_for(&authority, "c1", 2, SignedDuration::from_secs(-60));
    let tasks = Tasks::new("test");
    let address = listen(&tasks, &server).await;
    let error = greet(&late, 1, address).await.unwrap_err();
    assert!(error.to_lowercase().contains("expired"), "{error}");
    tasks.stop(Duration::from_secs(5)).await;
    let text = log.text();
    assert!(
        text.contains("connection refused in the TLS handshake") && text.contains("expired"),
        "{text}"
    );
}

#[tokio::test]
async fn an_identity_survives_the_disk() {
    let authority = CertificateAuthority::create("c1").unwrap();
    let made = identity(&authority, "c1", 7);
    let dir = tempfile::tempdir().unwrap();
    assert!(!NodeIdentity::exists(dir.path()));
    made.store(dir.path()).unwrap();
    let read = NodeIdentity::load(dir.path()).unwrap();
    let pems = |identity: &NodeIdentity| (identity.credentials.certificate_pem(), identity.credentials.key_pem());
    assert_eq!((read.node_id, pems(&read)), (7, pems(&made)));
    assert_eq!(read.cluster_key, made.cluster_key);
    let reloaded = CertificateAuthority::load(authority.certificate_pem(), &authority.key_pem()).unwrap();
    let again = identity(&reloaded, "c1", 8);
    let tasks = Tasks::new("test");
    let address = listen(&tasks, &read).await;
    assert_eq!(greet(&again, 7, address).await, Ok(8));
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn renewed_credentials_are_used_from_the_next_handshake_on() {
    let authority = CertificateAuthority::create("c1").unwrap();
    let server = identity(&authority, "c1", 1);
    let client = identity_for(&authority, "c1", 2, SignedDuration::from_secs(-60));
    let tasks = Tasks::new("test");
    let address = listen(&tasks, &server).await;
    let connector = PeerConnector::new(&client).unwrap();
    let greet = async || {
        let mut stream = connector.connect(1, "127.0.0.1", address.port()).await.ok()?;
        stream.read_u8().await.ok()
    };
    assert_eq!(greet().await, None, "an expired certificate is refused");
    let (key_pem, request) = new_key_and_request("node2").unwrap();
    let renewed = authority.sign(&request, "c1", 2, "node2", "127.0.0.1").unwrap();
    let mismatched = client
        .credentials
        .replace(renewed.clone(), server.credentials.key_pem());
    assert!(mismatched.is_err(), "a key that is not the certificate's is refused");
    client.credentials.replace(renewed, key_pem).unwrap();
    assert_eq!(greet().await, Some(2), "the connector was made before the renewal");
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn users_verify_the_server_and_are_served() {
    let authority = CertificateAuthority::create("c1").unwrap();
    let server = identity(&authority, "c1", 1);
    let tasks = Tasks::new("test");
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/hello", axum::routing::get(|| async { "hello" }));
    serve(&tasks, "test", listener, ServerTls::for_users(&server).unwrap(), router);
    let request = || {
        http::Request::get(format!("https://{address}/hello"))
            .body(Full::new(Bytes::new()))
            .unwrap()
    };
    let client = HttpsClient::trusting(&server.ca_certificate_pem).unwrap();
    let answer = client.send(request(), Duration::from_secs(5)).await.unwrap();
    assert_eq!((answer.status, answer.body.as_ref()), (200, b"hello".as_slice()));
    let other = CertificateAuthority::create("c1").unwrap();
    let distrustful = HttpsClient::trusting(other.certificate_pem()).unwrap();
    let error = distrustful
        .send(request(), Duration::from_secs(5))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate"), "{error}");
    tasks.stop(Duration::from_secs(5)).await;
}

//! A request that is refused before its body was read: the client gets the answer, and may go on.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use conclave_net::{
    CertificateAuthority, ClusterKey, Credentials, NodeIdentity, PeerConnector, PeerStream, ServerTls, bind,
    new_key_and_request, serve,
};
use conclave_runtime::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DEADLINE: Duration = Duration::from_secs(20);

fn identity() -> NodeIdentity {
    let authority = CertificateAuthority::create("c1").unwrap();
    let (key_pem, request) = new_key_and_request("node1").unwrap();
    let certificate_pem = authority.sign(&request, "c1", 1, "node1", "127.0.0.1").unwrap();
    NodeIdentity {
        cluster_id: "c1".into(),
        node_id: 1,
        name: "node1".into(),
        ca_certificate_pem: authority.certificate_pem().into(),
        credentials: Credentials::new(certificate_pem, key_pem, authority.certificate_pem()).unwrap(),
        generation: 0,
        cluster_key: ClusterKey::from_bytes(&[1; 32]).unwrap(),
    }
}

async fn connect(tasks: &Tasks) -> PeerStream {
    let identity = identity();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().route("/", post(|| async { (StatusCode::FORBIDDEN, "no") }));
    serve(
        tasks,
        "test",
        listener,
        ServerTls::for_peers(&identity).unwrap(),
        router,
    );
    let connector = PeerConnector::new(&identity).unwrap();
    connector.connect(1, "127.0.0.1", port).await.unwrap()
}

/// Sends a request whose body comes after its head, and returns the head of the answer. The connection may be closed
/// while the body is sent.
async fn request(stream: &mut PeerStream, body: usize) -> String {
    let head = format!("POST / HTTP/1.1\r\nhost: node1\r\ncontent-length: {body}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let half = vec![b'x'; body / 2];
    for _ in 0..2 {
        tokio::task::yield_now().await;
        if stream.write_all(&half).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nno") {
        let byte = tokio::time::timeout(DEADLINE, stream.read_u8()).await.unwrap();
        answer.push(byte.expect("an answer before the end of the connection"));
    }
    String::from_utf8(answer).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_refused_body_is_read_so_that_the_connection_can_be_used_again() {
    let tasks = Tasks::new("test");
    let mut stream = connect(&tasks).await;
    for body in [100_000, 0, 2] {
        let answer = request(&mut stream, body).await;
        assert!(answer.starts_with("http/1.1 403"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    tasks.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn the_end_of_a_connection_is_announced_when_the_body_is_too_large_to_read() {
    let tasks = Tasks::new("test");
    let mut stream = connect(&tasks).await;
    let head = "POST / HTTP/1.1\r\nhost: node1\r\nexpect: 100-continue\r\ncontent-length: 50000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // TLS may end without a goodbye.
    let _ended = tokio::time::timeout(DEADLINE, reading).await.unwrap();
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    tasks.stop(Duration::from_secs(1)).await;
}

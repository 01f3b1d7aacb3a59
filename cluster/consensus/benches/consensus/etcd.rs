//! Three members of Debian's etcd at its defaults, with TLS on both sides, and a client of its gRPC API.

use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use conclave_net::{NodeIdentity, PeerConnector};
use tonic::transport::Channel;

use crate::cluster::{ADDRESS, free_port};
use crate::load::{Client, Target};

/// `etcdserverpb.PutRequest`, as far as it is used (etcd's rpc.proto).
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`: that there is one is all that counts.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// `etcdserverpb.StatusResponse`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

pub(crate) struct Etcd {
    members: Vec<Child>,
    client_ports: Vec<u16>,
    connector: PeerConnector,
    node: u64,
    version: String,
}

async fn call<A, B>(channel: Channel, path: &'static str, body: A) -> anyhow::Result<B>
where
    A: prost::Message + 'static,
    B: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let codec = tonic_prost::ProstCodec::<A, B>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(client.unary(tonic::Request::new(body), path, codec).await?.into_inner())
}

impl Etcd {
    /// All members show the certificate of one node: they listen on one address, and the client knows its name.
    pub(crate) async fn start(root: &Path, identity: &NodeIdentity) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)?;
        let file = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::write(&path, text).map(|()| path.display().to_string())
        };
        let ca = file("ca.pem", &identity.ca_certificate_pem)?;
        let certificate = file("node.pem", &identity.credentials.certificate_pem())?;
        let key = file("node.key", &identity.credentials.key_pem())?;
        let peers: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let client_ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let url = |port: &u16| format!("https://{ADDRESS}:{port}");
        let all = peers
            .iter()
            .enumerate()
            .map(|(number, port)| format!("m{number}={}", url(port)))
            .collect::<Vec<_>>()
            .join(",");
        let mut members = Vec::new();
        for number in 0..3 {
            let log = std::fs::File::create(root.join(format!("m{number}.log")))?;
            let member = Process::new("etcd")
                .args(["--name", &format!("m{number}")])
                .args(["--data-dir", &root.join(format!("m{number}")).display().to_string()])
                .args(["--listen-client-urls", &url(&client_ports[number])])
                .args(["--advertise-client-urls", &url(&client_ports[number])])
                .args(["--listen-peer-urls", &url(&peers[number])])
                .args(["--initial-advertise-peer-urls", &url(&peers[number])])
                .args(["--initial-cluster", &all, "--initial-cluster-state", "new"])
                .args([
                    "--client-cert-auth",
                    "--trusted-ca-file",
                    &ca,
                    "--cert-file",
                    &certificate,
                    "--key-file",
                    &key,
                ])
                .args(["--peer-client-cert-auth", "--peer-trusted-ca-file", &ca])
                .args(["--peer-cert-file", &certificate, "--peer-key-file", &key])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .context("start etcd: is the package etcd-server installed?")?;
            members.push(member);
        }
        let mut etcd = Self {
            members,
            client_ports,
            connector: PeerConnector::new(identity)?,
            node: identity.node_id,
            version: String::new(),
        };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match etcd.target().await {
                Ok(target) => {
                    etcd.version = target.version;
                    return Ok(etcd);
                }
                Err(error) if Instant::now() > end => return Err(error.context(format!("see {}", root.display()))),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The leader's client port.
    pub(crate) async fn target(&self) -> anyhow::Result<Leader> {
        for port in &self.client_ports {
            let channel = self.connector.channel(self.node, ADDRESS, *port)?;
            let status: StatusResponse = call(channel, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
            if status.leader != 0 && status.header.is_some_and(|header| header.member == status.leader) {
                return Ok(Leader {
                    connector: self.connector.clone(),
                    node: self.node,
                    port: *port,
                    version: status.version,
                });
            }
        }
        anyhow::bail!("no member of etcd leads")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // Gone already, or goes now.
            let _gone = member.kill();
            let _reaped = member.wait();
        }
    }
}

/// Clients of the leader.
pub(crate) struct Leader {
    connector: PeerConnector,
    node: u64,
    port: u16,
    version: String,
}

#[async_trait::async_trait]
impl Target for Leader {
    async fn client(&self) -> anyhow::Result<Arc<dyn Client>> {
        Ok(Arc::new(EtcdClient(
            self.connector.channel(self.node, ADDRESS, self.port)?,
        )))
    }
}

struct EtcdClient(Channel);

#[async_trait::async_trait]
impl Client for EtcdClient {
    async fn put(&self, key: String, value: String) -> anyhow::Result<()> {
        let request = PutRequest {
            key: key.into_bytes(),
            value: value.into_bytes(),
        };
        let _stored: PutResponse = call(self.0.clone(), "/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }
}

//! A RabbitMQ of one test's own, supervised as a manager supervises its.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use conclave_messaging::{Access, Broker, BrokerAddress, BrokerOptions, BrokerState};
use conclave_net::{CertificateAuthority, ClusterKey, Credentials, NodeIdentity, new_key_and_request};
use conclave_runtime::Tasks;
use futures::FutureExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::free_port;

const DEADLINE: Duration = Duration::from_secs(60);
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A broker below a folder of its own, on 127.0.0.1 and free ports. [`TestBroker::stop`] ends it; a test that panics before
/// leaves it to the guard, which kills it.
pub struct TestBroker {
    dir: tempfile::TempDir,
    options: BrokerOptions,
    broker: Broker,
    tasks: Tasks,
}

impl TestBroker {
    /// Starts one and waits until it takes messages.
    ///
    /// # Panics
    /// When RabbitMQ is not installed or does not start.
    pub async fn start() -> Self {
        conclave_net::install_crypto_provider();
        let dir = tempfile::Builder::new()
            .prefix("conclave-mq")
            .tempdir()
            .expect("a temporary folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("the server's account passes through");
        let options = BrokerOptions {
            data_dir: dir.path().to_owned(),
            rabbitmq_dir: None,
            account: "rabbitmq".into(),
            identity: identity("node1"),
            address: ADDRESS,
            port: free_port(),
            distribution_port: free_port(),
            after: None,
        };
        let tasks = Tasks::new("test broker");
        let broker = Broker::start(options.clone(), &tasks);
        let started = Self {
            dir,
            options,
            broker,
            tasks,
        };
        started.running().await;
        started
    }

    /// Waits until it takes messages.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub async fn running(&self) {
        let mut status = self.broker.status();
        let running = status.wait_for(|status| status.state == BrokerState::Running && status.pid.is_some());
        let outcome = tokio::time::timeout(DEADLINE, running).await.map(|seen| seen.is_ok());
        assert_eq!(
            outcome.ok(),
            Some(true),
            "the broker runs; it is {:?}",
            *self.broker.status().borrow()
        );
    }

    /// Its supervision.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// What it was started with.
    pub fn options(&self) -> &BrokerOptions {
        &self.options
    }

    /// Where it is.
    pub fn address(&self) -> BrokerAddress {
        self.broker.address().clone()
    }

    /// How to log in.
    pub fn access(&self) -> Access {
        Access::of_managers(&self.options.identity)
    }

    /// The process id of the server.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> i32 {
        self.broker.status().borrow().pid.expect("the broker runs")
    }

    /// Kills the server as a crash would, and waits until its successor takes messages.
    ///
    /// # Panics
    /// When none does within a minute.
    pub async fn crash(&self) {
        let pid = self.pid();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the broker's own process can be killed");
        let mut status = self.broker.status();
        let replaced = status.wait_for(|status| status.pid.is_some_and(|other| other != pid));
        let outcome = tokio::time::timeout(DEADLINE, replaced).await.map(|seen| seen.is_ok());
        assert_eq!(outcome.ok(), Some(true), "the broker is started anew");
        self.running().await;
    }

    /// Supervises the server anew, as a manager does that was killed and comes back: the old supervision is left as it was,
    /// which a kill would do, too.
    pub fn supervise_again(&self, tasks: &Tasks) -> Broker {
        Broker::start(self.options.clone(), tasks)
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops it as the ordinary stop of a manager does.
    pub async fn stop(self) {
        self.tasks.stop(DEADLINE).await;
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // Fires the signal, so that what is killed is not started anew; nobody is left to wait for.
        let _left = self.tasks.stop(Duration::ZERO).now_or_never();
        if let Some(pid) = self.broker.status().borrow().pid {
            // Stopped in order, it is gone already; and its folder is the test's, so that nothing is lost.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A node of a cluster of its own.
fn identity(name: &str) -> NodeIdentity {
    let cluster = "test-cluster";
    let authority = CertificateAuthority::create(cluster).expect("a certificate authority");
    let (key_pem, request) = new_key_and_request(name).expect("a key");
    let certificate_pem = authority
        .sign(&request, cluster, 1, name, &ADDRESS.to_string())
        .expect("a certificate");
    let ca_certificate_pem = authority.certificate_pem().to_owned();
    NodeIdentity {
        cluster_id: cluster.into(),
        node_id: 1,
        name: name.into(),
        credentials: Credentials::new(certificate_pem, key_pem, &ca_certificate_pem).expect("usable credentials"),
        ca_certificate_pem,
        generation: 0,
        cluster_key: ClusterKey::generate().expect("a cluster key"),
    }
}

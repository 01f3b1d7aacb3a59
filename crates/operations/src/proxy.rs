//! The address behind `CTX_SOCKET_URL`: answers `ctx` requests of one operation on a loopback port of its own.
//!
//! Any user of the machine can reach the port, so the address holds a secret that only the script knows.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use conclave_runtime::account::Account;
use conclave_runtime::{Shutdown, Tasks};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::ctx::{Answer, CtxModel, Dirty, Effect, Step, Verdict};
use crate::services::{OperationServices, ServiceError};

/// The largest request: runtime properties may hold files.
const LARGEST_REQUEST: usize = 64 * 1024 * 1024;

/// One operation's `ctx` with its surroundings.
pub(crate) struct Session {
    /// Requests are served one after the other, as in the original: their order is their meaning. Empty once the
    /// operation has ended: a background process that still holds the address changes nothing any more.
    model: Mutex<Option<CtxModel>>,
    services: Arc<dyn OperationServices>,
    downloads: PathBuf,
    account: Option<Account>,
}

/// Where a session can be reached.
pub(crate) struct Proxy {
    /// The value of `CTX_SOCKET_URL`.
    pub(crate) url: String,
    tasks: Tasks,
}

impl Session {
    /// `downloads` is an existing directory for downloaded resources.
    pub(crate) fn new(
        model: CtxModel,
        services: Arc<dyn OperationServices>,
        downloads: PathBuf,
        account: Option<Account>,
    ) -> Arc<Self> {
        Arc::new(Self {
            model: Mutex::new(Some(model)),
            services,
            downloads,
            account,
        })
    }

    /// Ends the session: writes all changed runtime properties back and says what the script said about its outcome.
    pub(crate) async fn end(&self) -> (Verdict, Result<(), ServiceError>) {
        let Some(mut model) = self.model.lock().await.take() else {
            return (Verdict::Open, Ok(()));
        };
        let verdict = model.verdict();
        for dirty in model.dirty() {
            if let Err(reason) = self.write(&mut model, dirty).await {
                return (verdict, Err(reason));
            }
        }
        (verdict, Ok(()))
    }

    /// Answers one request, a JSON object with `args`.
    async fn answer(&self, body: &[u8]) -> Value {
        let arguments = match serde_json::from_slice::<Value>(body) {
            Ok(mut request) => match request.get_mut("args").map(Value::take) {
                Some(Value::Array(arguments)) => arguments,
                _ => return error("ValueError", "a ctx request is {\"args\": [...]}"),
            },
            Err(reason) => return error("ValueError", &format!("a ctx request is a JSON object: {reason}")),
        };
        let mut model = self.model.lock().await;
        let Some(model) = model.as_mut() else {
            return error("RuntimeError", "the operation has ended");
        };
        match model.handle(&arguments) {
            Step::Answer(Answer::Result(value)) => result(value),
            Step::Answer(Answer::Error { type_name, message }) => error(type_name, &message),
            Step::Answer(Answer::Stop { message }) => {
                json!({"type": "stop_operation", "payload": {"message": message}})
            }
            Step::Effect(effect) => match self.carry_out(model, effect).await {
                Ok(value) => result(value),
                Err(reason) => error("HttpException", &reason.to_string()),
            },
        }
    }

    async fn carry_out(&self, model: &mut CtxModel, effect: Effect) -> Result<Value, ServiceError> {
        match effect {
            Effect::Log { level, text } => self.services.log(level, &text).await,
            Effect::Event(text) => self.services.event(&text).await,
            Effect::Write(dirty) => self.write(model, dirty).await?,
            Effect::GetResource(path) => {
                let content = self.services.resource(&path).await?;
                return Ok(json!(String::from_utf8_lossy(&content)));
            }
            Effect::DownloadResource { path, target } => {
                let content = self.services.resource(&path).await?;
                let target = target.map_or_else(|| self.download_target(&path), PathBuf::from);
                self.save(&target, &content).await.map_err(|reason| {
                    ServiceError::Failed(format!("{path} could not be written to {}: {reason}", target.display()))
                })?;
                return Ok(json!(target));
            }
        }
        Ok(Value::Null)
    }

    async fn write(&self, model: &mut CtxModel, dirty: Dirty) -> Result<(), ServiceError> {
        let version = self
            .services
            .update_instance(&dirty.instance_id, dirty.version, &dirty.runtime_properties)
            .await?;
        model.written(dirty, version);
        Ok(())
    }

    fn download_target(&self, path: &str) -> PathBuf {
        let name = Path::new(path).file_name().unwrap_or("resource".as_ref());
        self.downloads
            .join(format!("{}-{}", uuid::Uuid::new_v4().simple(), name.to_string_lossy()))
    }

    async fn save(&self, target: &Path, content: &[u8]) -> std::io::Result<()> {
        tokio::fs::write(target, content).await?;
        self.account
            .as_ref()
            .map_or(Ok(()), |account| account.own(target).map_err(std::io::Error::other))
    }
}

impl Proxy {
    /// Starts serving `session` on a free loopback port.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) async fn start(session: Arc<Session>) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let secret = uuid::Uuid::new_v4().simple().to_string();
        let url = format!("http://localhost:{}/{secret}", listener.local_addr()?.port());
        let router = axum::Router::new()
            .route(&format!("/{secret}"), axum::routing::post(serve))
            .layer(axum::extract::DefaultBodyLimit::max(LARGEST_REQUEST))
            .with_state(session);
        let tasks = Tasks::new("ctx proxy");
        let shutdown = tasks.shutdown();
        tasks.spawn("ctx proxy", run_server(listener, router, shutdown));
        Ok(Self { url, tasks })
    }

    /// Stops serving. Requests of background processes that are still open are cut.
    pub(crate) async fn stop(self) {
        self.tasks.stop(std::time::Duration::from_secs(1)).await;
    }
}

async fn run_server(listener: tokio::net::TcpListener, router: axum::Router, shutdown: Shutdown) {
    let server = axum::serve(listener, router).into_future();
    // Not a graceful end: an idle connection of a background process must not hold the operation.
    if let Some(Err(error)) = shutdown.run_until(server).await {
        tracing::warn!(%error, "the ctx proxy of an operation ended early");
    }
}

async fn serve(State(session): State<Arc<Session>>, body: Bytes) -> impl IntoResponse {
    let answer = session.answer(&body).await;
    ([(header::CONTENT_TYPE, "application/json")], answer.to_string())
}

fn result(payload: Value) -> Value {
    json!({"type": "result", "payload": payload})
}

fn error(type_name: &str, message: &str) -> Value {
    json!({"type": "error", "payload": {"type": type_name, "message": message, "traceback": ""}})
}

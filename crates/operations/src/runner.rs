//! Carries out an operation: fetches its script, runs it with a `ctx` beside it, and judges how it ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave_runtime::Shutdown;
use conclave_runtime::account::Account;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::call::OperationCall;
use crate::ctx::{CtxModel, Verdict};
use crate::outcome::{ErrorKind, OperationError, Outcome};
use crate::output::{Tail, consume};
use crate::process::{ProcessSpec, RunningProcess, Spawner, make_executable};
use crate::proxy::{Proxy, Session};
use crate::script::{ScriptInputs, ScriptSource};
use crate::services::{OperationServices, ServiceError};

/// The function that this crate implements.
pub const SCRIPT_TASK: &str = "script_runner.tasks.run";

/// How often a long run is mentioned in its log.
const REMINDER: Duration = Duration::from_secs(20);

/// Variables of this process that scripts see. Others may hold secrets.
const INHERITED: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
];

/// Where and as whom operations run.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// For scripts, downloads and as the working directory of operations (`<work_dir>/deployments/<tenant>/<deployment>`,
    /// which whoever deletes a deployment may delete). Made if it is missing. Must allow execution.
    pub work_dir: PathBuf,
    /// A directory with the `ctx` command, put in front of `PATH`.
    pub commands: Option<PathBuf>,
    /// The account that scripts run under; `None` for this process's own.
    pub account: Option<Account>,
    /// Environment variables of all operations.
    pub environment: BTreeMap<String, String>,
}

/// The runner can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The working directory can't be used.
    #[error("the working directory {path} of operations can't be used: {source}")]
    WorkDirectory {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No thread could be started.
    #[error("the thread that starts operations can't be started: {0}")]
    Thread(std::io::Error),
}

/// Runs operations, any number at a time. A cheap handle.
///
/// Scripts die with their operation: with its cancel, its timeout, the drop of the future of [`Runner::run`], and with
/// this process, however it ends. Background processes of a script that ended by itself are left alone.
#[derive(Debug, Clone)]
pub struct Runner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: RunnerOptions,
    spawner: Spawner,
}

/// How a process ended.
#[derive(Debug, PartialEq)]
enum Ending {
    Exited(i32),
    TimedOut,
    Cancelled,
}

/// A process that has ended, with the ends of its outputs.
struct Finished {
    ending: Ending,
    stdout: String,
    stderr: String,
}

/// Why there is no result: an error, or no interest any more.
enum Stopped {
    Error(OperationError),
    Cancelled,
}

impl From<OperationError> for Stopped {
    fn from(error: OperationError) -> Self {
        Self::Error(error)
    }
}

impl Runner {
    /// Prepares the working directory and the thread that starts processes.
    ///
    /// # Errors
    /// When either can't be had.
    pub fn new(options: RunnerOptions) -> Result<Self, RunnerError> {
        let unusable = |source| RunnerError::WorkDirectory {
            path: options.work_dir.clone(),
            source,
        };
        let work_dir = std::path::absolute(&options.work_dir).map_err(unusable)?;
        for directory in [work_dir.clone(), work_dir.join("scripts"), work_dir.join("deployments")] {
            make_directory(&directory, options.account.as_ref()).map_err(unusable)?;
        }
        let spawner = Spawner::start().map_err(RunnerError::Thread)?;
        Ok(Self {
            inner: Arc::new(Inner {
                options: RunnerOptions { work_dir, ..options },
                spawner,
            }),
        })
    }

    /// Runs one attempt at an operation until its end, its timeout, or until `shutdown` asks for its end.
    pub async fn run(&self, call: OperationCall, services: Arc<dyn OperationServices>, shutdown: Shutdown) -> Outcome {
        if call.context.task_name != SCRIPT_TASK {
            let message = format!("{} can't be run: only {SCRIPT_TASK} is offered", call.context.task_name);
            return Outcome::Failed(OperationError::non_recoverable(message));
        }
        match self.inner.run_script(call, services, &shutdown).await {
            Ok(result) => Outcome::Succeeded(result),
            Err(Stopped::Error(error)) => Outcome::Failed(error),
            Err(Stopped::Cancelled) => Outcome::Cancelled,
        }
    }
}

impl Inner {
    async fn run_script(
        &self,
        call: OperationCall,
        services: Arc<dyn OperationServices>,
        shutdown: &Shutdown,
    ) -> Result<Value, Stopped> {
        let inputs = ScriptInputs::parse(&call.inputs)?;
        let context = call.context.clone();
        let content = shutdown
            .run_until(fetch(&inputs.source, &*services))
            .await
            .ok_or(Stopped::Cancelled)??;
        let (folder, script) = self
            .save_script(&inputs, &content)
            .map_err(|error| local_failure(&error))?;
        let directory = self
            .deployment_directory(&call)
            .map_err(|error| local_failure(&error))?;
        let session = Session::new(
            CtxModel::new(call),
            Arc::clone(&services),
            directory.clone(),
            self.options.account.clone(),
        );
        let proxy = match inputs.process.ctx_proxy {
            true => Some(
                Proxy::start(Arc::clone(&session))
                    .await
                    .map_err(|error| local_failure(&error))?,
            ),
            false => None,
        };
        let spec = ProcessSpec {
            command: inputs.command(&script.to_string_lossy(), &content),
            directory: inputs.process.directory.as_ref().map_or(directory, PathBuf::from),
            environment: self.environment(&inputs, &context.execution_env, proxy.as_ref()),
            join_outputs: inputs.process.stderr_to_stdout,
            account: self.options.account.clone(),
        };
        let timeout = context.timeout.map(Duration::from_secs_f64);
        let finished = self.run_process(&spec, &inputs, &*services, timeout, shutdown).await;
        drop(folder);
        if let Some(proxy) = proxy {
            proxy.stop().await;
        }
        let finished = finished?;
        match finished.ending {
            Ending::Cancelled => Err(Stopped::Cancelled),
            Ending::TimedOut => Err(timed_out(context.timeout.unwrap_or_default(), context.timeout_recoverable).into()),
            Ending::Exited(code) => {
                let (verdict, written) = shutdown.run_until(session.end()).await.ok_or(Stopped::Cancelled)?;
                let judged = judge(&verdict, &spec.command, code, &finished);
                settle(judged, written, &*services).await.map_err(Stopped::Error)
            }
        }
    }

    /// Puts the script into a directory of its own.
    fn save_script(&self, inputs: &ScriptInputs, content: &[u8]) -> std::io::Result<(tempfile::TempDir, PathBuf)> {
        let folder = tempfile::Builder::new()
            .prefix("script-")
            .tempdir_in(self.options.work_dir.join("scripts"))?;
        own(folder.path(), self.options.account.as_ref())?;
        let script = folder.path().join(inputs.file_name());
        std::fs::write(&script, content)?;
        make_executable(&script, self.options.account.as_ref())?;
        Ok((folder, script))
    }

    /// The working directory of a deployment's operations. It outlives them: services that they start may use its files.
    fn deployment_directory(&self, call: &OperationCall) -> std::io::Result<PathBuf> {
        let context = &call.context;
        let tenant = as_file_name(context.tenant.as_deref().unwrap_or("default_tenant"));
        let deployment = as_file_name(context.deployment_id.as_deref().unwrap_or("__system__"));
        let of_tenant = self.options.work_dir.join("deployments").join(tenant);
        let directory = of_tenant.join(deployment);
        for path in [&of_tenant, &directory] {
            make_directory(path, self.options.account.as_ref())?;
        }
        Ok(directory)
    }

    fn environment(
        &self,
        inputs: &ScriptInputs,
        extra: &[(String, String)],
        proxy: Option<&Proxy>,
    ) -> BTreeMap<String, String> {
        let inherited = INHERITED
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        let mut environment: BTreeMap<String, String> = inherited.collect();
        environment.extend(self.options.environment.clone());
        environment.extend(
            extra
                .iter()
                .filter(|(name, _)| !name.is_empty() && !name.contains('='))
                .cloned(),
        );
        environment.extend(inputs.environment.clone());
        environment.insert(
            "CTX_SOCKET_URL".into(),
            proxy.map(|proxy| proxy.url.clone()).unwrap_or_default(),
        );
        if let Some(commands) = &self.options.commands {
            let rest = environment
                .get("PATH")
                .map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
            let path = format!("{}:{rest}", commands.display());
            environment.insert("PATH".into(), path);
        }
        environment
    }

    async fn run_process(
        &self,
        spec: &ProcessSpec,
        inputs: &ScriptInputs,
        services: &dyn OperationServices,
        timeout: Option<Duration>,
        shutdown: &Shutdown,
    ) -> Result<Finished, OperationError> {
        let mut process = self.spawner.spawn(spec).await.map_err(|error| {
            let directory = spec.directory.display();
            OperationError::recoverable(format!("the script can't be started in {directory}: {error}"))
        })?;
        let id = process.id();
        let ended = CancellationToken::new();
        let stdout = process.child.stdout.take();
        let stderr = process.child.stderr.take();
        let (log_stdout, log_stderr) = (inputs.process.log_stdout, inputs.process.log_stderr);
        let outputs = futures::future::join(
            consume(stdout, &ended, line_logger(services, log_stdout.then_some("<out>"))),
            consume(stderr, &ended, line_logger(services, log_stderr.then_some("<err>"))),
        );
        tokio::pin!(outputs);
        let mut tails = None;
        let ending = {
            let watch = watch(&mut process, services, timeout, shutdown);
            tokio::pin!(watch);
            loop {
                tokio::select! {
                    biased;
                    ending = &mut watch => break ending,
                    read = &mut outputs, if tails.is_none() => tails = Some(read),
                }
            }
        };
        let ending = ending.map_err(|error| local_failure(&error))?;
        ended.cancel();
        let tails = match tails {
            Some(tails) => Some(tails),
            None => shutdown.run_until(outputs).await,
        };
        let Some((stdout, stderr)) = tails else {
            return Ok(Finished {
                ending: Ending::Cancelled,
                stdout: String::new(),
                stderr: String::new(),
            });
        };
        if let Ending::Exited(code) = &ending {
            let text = format!("Execution done (PID={id}, return_code={code}): {}", spec.command);
            services.log("info", &text).await;
        }
        Ok(Finished {
            ending,
            stdout: Tail::into_text(stdout),
            stderr: Tail::into_text(stderr),
        })
    }
}

/// Logs lines with a prefix; without one they are only read.
fn line_logger<'s>(
    services: &'s dyn OperationServices,
    prefix: Option<&'static str>,
) -> impl FnMut(String) -> BoxFuture<'s, ()> {
    move |line| {
        Box::pin(async move {
            if let Some(prefix) = prefix {
                services.log("info", &format!("{prefix} {line}")).await;
            }
        })
    }
}

/// Waits for the end of the process and brings it about when it is time.
async fn watch(
    process: &mut RunningProcess,
    services: &dyn OperationServices,
    timeout: Option<Duration>,
    shutdown: &Shutdown,
) -> std::io::Result<Ending> {
    let id = process.id();
    // These wait for log lines to be taken, so they run beside the watching, never before it.
    let reminders = async {
        services.log("info", &format!("Process created, PID: {id}")).await;
        loop {
            tokio::time::sleep(REMINDER).await;
            services
                .log("info", &format!("Waiting for process {id} to end..."))
                .await;
        }
    };
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let ending = tokio::select! {
        biased;
        () = shutdown.requested() => Ending::Cancelled,
        code = process.wait() => return Ok(Ending::Exited(code?)),
        () = deadline => Ending::TimedOut,
        () = reminders => Ending::Cancelled,
    };
    process.kill().await;
    Ok(ending)
}

/// What the end of the process means, given what the script said about it.
fn judge(verdict: &Verdict, command: &str, code: i32, finished: &Finished) -> Result<Value, OperationError> {
    if let Some(error) = CtxModel::verdict_error(verdict) {
        return Err(error);
    }
    if code != 0 {
        let mut message = format!("command: {command}, exit_code: {code}");
        for (name, text) in [("stdout", &finished.stdout), ("stderr", &finished.stderr)] {
            if !text.is_empty() {
                message.push_str(&format!(", {name}: {text}"));
            }
        }
        return Err(OperationError::new(ErrorKind::Recoverable, "ProcessException", message));
    }
    Ok(match verdict {
        Verdict::Returned(value) => value.clone(),
        _ => Value::Null,
    })
}

/// An outcome is only good when the runtime properties have been stored; the first error is the one that is reported.
async fn settle(
    judged: Result<Value, OperationError>,
    written: Result<(), ServiceError>,
    services: &dyn OperationServices,
) -> Result<Value, OperationError> {
    let Err(reason) = written else { return judged };
    let message = format!("runtime properties could not be stored: {reason}");
    if judged.is_err() {
        services.log("error", &message).await;
        return judged;
    }
    Err(OperationError::recoverable(message))
}

async fn fetch(source: &ScriptSource, services: &dyn OperationServices) -> Result<Vec<u8>, OperationError> {
    let path = match source {
        ScriptSource::Inline(text) => return Ok(text.clone().into_bytes()),
        ScriptSource::Path(path) => path,
    };
    if let Some(local) = path.strip_prefix("file://") {
        return tokio::fs::read(local)
            .await
            .map_err(|error| OperationError::recoverable(format!("the script {path} can't be read: {error}")));
    }
    match services.resource(path).await {
        Ok(content) => Ok(content.into()),
        Err(error) => Err(OperationError::recoverable(format!(
            "the script {path} can't be fetched: {error}"
        ))),
    }
}

fn timed_out(seconds: f64, recoverable: bool) -> OperationError {
    let message = format!("Process killed due to timeout of {seconds} seconds");
    if recoverable {
        OperationError::recoverable(message)
    } else {
        OperationError::non_recoverable(message)
    }
}

/// This machine's trouble, not the script's: another attempt may succeed.
fn local_failure(error: &std::io::Error) -> OperationError {
    OperationError::recoverable(format!("the operation can't be run on this machine: {error}"))
}

fn make_directory(path: &Path, account: Option<&Account>) -> std::io::Result<()> {
    match std::fs::create_dir_all(path) {
        Ok(()) => own(path, account),
        Err(error) => Err(error),
    }
}

fn own(path: &Path, account: Option<&Account>) -> std::io::Result<()> {
    account.map_or(Ok(()), |account| account.own(path).map_err(std::io::Error::other))
}

/// Ids become one path component each, and nothing else.
fn as_file_name(id: &str) -> String {
    let safe = |letter: char| {
        if letter == '/' || letter.is_control() {
            '_'
        } else {
            letter
        }
    };
    let name: String = id.chars().map(safe).collect();
    if name.is_empty() || name.starts_with('.') {
        format!("_{name}")
    } else {
        name
    }
}

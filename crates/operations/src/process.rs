//! One script process: started in a group of its own, watched, and never left behind.
//!
//! A script must not go on when this process dies: another manager may run the operation again. The kernel sends a signal
//! to a child when the *thread* that started it ends (`PR_SET_PDEATHSIG`, set by `setpriv`), so children are started from
//! one thread that lives as long as the [`Spawner`]. The child is a small supervising shell, the leader of the group: on
//! that signal it kills the whole group, the script's own children with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use conclave_runtime::account::Account;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

/// Between the polite signal and the one that can't be ignored.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Runs `$1` and passes on how it ended. USR1 means that the manager died. TERM, which is sent to the whole group, is left
/// to the script. The loop is there because a signal interrupts `wait`.
const SUPERVISOR: &str = "trap 'kill -KILL 0' USR1; trap : TERM
sh -c \"$1\" & script=$!
wait $script; code=$?
while kill -0 $script 2>/dev/null; do wait $script; code=$?; done
exit $code";

/// As [`SUPERVISOR`], with the script's error output joined to its output.
const JOIN_OUTPUTS: &str = "exec 2>&1\n";

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct ProcessSpec {
    /// A command line for the shell.
    pub command: String,
    /// Where it runs.
    pub directory: PathBuf,
    /// All of its environment.
    pub environment: BTreeMap<String, String>,
    /// Whether its error output goes where its output goes.
    pub join_outputs: bool,
    /// The account that it runs under.
    pub account: Option<Account>,
}

/// Starts processes from one thread.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: mpsc::Sender<Request>,
    setpriv: Option<PathBuf>,
}

struct Request {
    command: Command,
    runtime: tokio::runtime::Handle,
    reply: oneshot::Sender<std::io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (requests, mut queue) = mpsc::channel::<Request>(64);
        std::thread::Builder::new()
            .name("operation-spawner".into())
            .spawn(move || {
                while let Some(Request {
                    mut command,
                    runtime,
                    reply,
                }) = queue.blocking_recv()
                {
                    let _entered = runtime.enter();
                    // An unclaimed child is killed by its `kill_on_drop`.
                    let _ = reply.send(command.spawn());
                }
            })?;
        let setpriv = ["/usr/bin/setpriv", "/bin/setpriv"]
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists());
        if setpriv.is_none() {
            tracing::warn!("setpriv (util-linux) was not found: scripts will outlive a manager that is killed");
        }
        Ok(Self { requests, setpriv })
    }

    /// Starts `spec`.
    pub(crate) async fn spawn(&self, spec: &ProcessSpec) -> std::io::Result<RunningProcess> {
        let command = self.command(spec);
        let (reply, answer) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let gone = || std::io::Error::other("the thread that starts processes has ended");
        self.requests
            .send(Request {
                command,
                runtime,
                reply,
            })
            .await
            .map_err(|_| gone())?;
        let child = answer.await.map_err(|_| gone())??;
        RunningProcess::new(child)
    }

    fn command(&self, spec: &ProcessSpec) -> Command {
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "USR1", "--", "/bin/sh"]);
                command
            }
            None => Command::new("/bin/sh"),
        };
        let join = if spec.join_outputs { JOIN_OUTPUTS } else { "" };
        command
            .arg("-c")
            .arg(format!("{join}{SUPERVISOR}"))
            .arg("supervisor")
            .arg(&spec.command);
        command.current_dir(&spec.directory).env_clear().envs(&spec.environment);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        if let Some(account) = &spec.account {
            account.apply(&mut command);
        }
        command
    }
}

/// A process with its group. Dropped before its end, it is killed with its group.
#[derive(Debug)]
pub(crate) struct RunningProcess {
    pub(crate) child: Child,
    group: Pid,
    ended: bool,
}

impl RunningProcess {
    fn new(child: Child) -> std::io::Result<Self> {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Pid::from_raw(id.ok_or_else(|| std::io::Error::other("the process ended while it was started"))?);
        Ok(Self {
            child,
            group,
            ended: false,
        })
    }

    /// Its process id, which is also that of its group.
    pub(crate) fn id(&self) -> i32 {
        self.group.as_raw()
    }

    /// Waits for the end of the leader; answers its exit code (128 and the number for a signal). Its background
    /// processes live on.
    pub(crate) async fn wait(&mut self) -> std::io::Result<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.wait().await?;
        self.ended = true;
        Ok(status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    }

    /// Ends the whole group: politely, then for good.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            tracing::info!(pid = self.id(), "a script ignored the request to end; it is killed");
        }
        self.signal(Signal::SIGKILL);
        if let Err(error) = self.child.wait().await {
            tracing::warn!(pid = self.id(), %error, "waiting for a killed script failed");
        }
        self.ended = true;
    }

    fn signal(&self, signal: Signal) {
        match killpg(self.group, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => tracing::warn!(pid = self.id(), %signal, %error, "signalling a script failed"),
        }
    }
}

impl Drop for RunningProcess {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// Makes `path` executable for everybody and gives it to `account`.
pub(crate) fn make_executable(path: &Path, account: Option<&Account>) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    account.map_or(Ok(()), |account| account.own(path).map_err(std::io::Error::other))
}

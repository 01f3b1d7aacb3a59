//! Who holds a port that we want.

use std::net::{IpAddr, SocketAddr, TcpListener};

/// The process behind a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// Its id; unknown when it belongs to another user.
    pub pid: Option<i32>,
    /// Its command line.
    pub command: Option<String>,
}

impl std::fmt::Display for PortHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, &self.command) {
            (Some(pid), Some(command)) => write!(f, "process {pid} ({command})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            _ => f.write_str("a process of another user"),
        }
    }
}

/// Whether `address` can be listened on: `Ok(())`, or why not.
pub(crate) fn try_bind(address: SocketAddr) -> Result<(), std::io::Error> {
    TcpListener::bind(address).map(drop)
}

/// Who listens on `address`, also by listening on all addresses; `None` when nobody does.
pub fn holder_of(address: SocketAddr) -> Option<PortHolder> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| listening_inode(&table, address))?;
    let pid = pid_of_socket(inode);
    let command = pid.and_then(command_line);
    Some(PortHolder { pid, command })
}

/// Finds the socket in the kernel's table: state 0A is "listening"; addresses are hexadecimal in host byte order.
fn listening_inode(table: &str, address: SocketAddr) -> Option<u64> {
    let IpAddr::V4(wanted) = address.ip() else { return None };
    let wanted = format!("{:08X}", u32::from_ne_bytes(wanted.octets()));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let any = ip.chars().all(|digit| digit == '0');
        let same = ip == wanted || any || ip.ends_with(&format!("FFFF0000{wanted}"));
        let listening = fields.get(3) == Some(&"0A");
        let port_matches = u16::from_str_radix(port, 16).ok()? == address.port();
        (same && listening && port_matches)
            .then(|| fields.get(9)?.parse().ok())
            .flatten()
    })
}

fn pid_of_socket(inode: u64) -> Option<i32> {
    let target = format!("socket:[{inode}]");
    let pids = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &i32| {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == target.as_str()))
    })
}

fn command_line(pid: i32) -> Option<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn our_own_listener_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(try_bind(address).is_err());
        let holder = holder_of(address).expect("somebody listens");
        assert_eq!(holder.pid, Some(std::process::id() as i32));
        assert!(holder.to_string().contains(&std::process::id().to_string()));
        drop(listener);
        // A child that another test is starting has our socket as well, between its fork and its exec.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(holder) = holder_of(address) {
            assert!(Instant::now() < deadline, "{holder} still listens on {address}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_listener_on_all_addresses_holds_the_port_too() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), listener.local_addr().unwrap().port());
        assert!(holder_of(address).is_some());
    }
}

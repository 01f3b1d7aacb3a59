//! `/v1/snapshot`: the keys as an archive (spec/consul-api.md, section 9).
//!
//! It holds keys, values and flags. Sessions, locks and registrations belong to those who made them and are not brought
//! back; the state of Raft itself has snapshots of its own.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use conclave_catalog::directory::{Directory, DirectoryCommand, KvWrite};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Api;
use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::read::{Consistency, consistency};

/// What is restored travels to the other nodes as one entry of the log.
pub(super) const ARCHIVE_BYTES_MAX: usize = 48 << 20;
/// No archive unpacks to more.
const UNPACKED_BYTES_MAX: u64 = 48 << 20;
const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
/// Of the layout of `state.bin`.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    version: u32,
    index: u64,
    size: usize,
}

/// Why an archive is not restored.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("failed to decompress snapshot: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("failed to read snapshot file: {0} is missing")]
    Missing(&'static str),
    #[error("failed checking integrity of snapshot: hash of {0} does not match")]
    Sum(&'static str),
    #[error("failed to read snapshot file: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("failed to read snapshot file: its version {0} is not known")]
    Version(u32),
}

pub(super) async fn save(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let consistency = consistency(call)?;
    if consistency != Consistency::Stale {
        api.barrier.pass().await?;
    }
    let state = api.state();
    let index = state.directory().kv().index().max(1);
    let packing = tokio::task::spawn_blocking(move || pack(state.directory()));
    let archive = packing
        .await
        .map_err(|error| ApiError::Failed(error.to_string()))?
        .map_err(|error| ApiError::Failed(format!("the snapshot cannot be written: {error}")))?;
    let answer = Answer::of_type("application/x-gzip", archive).with_header("x-consul-index", &index.to_string());
    // It is compressed already.
    Ok(api
        .with_freshness(answer, consistency)
        .with_header("content-encoding", "identity"))
}

pub(super) async fn restore(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let archive = call.body.clone();
    let unpacking = tokio::task::spawn_blocking(move || unpack(&archive));
    let entries = unpacking
        .await
        .map_err(|error| ApiError::Failed(error.to_string()))?
        .map_err(|damage| ApiError::Failed(damage.to_string()))?;
    api.propose(DirectoryCommand::Restore(entries)).await?;
    Ok(Answer::empty())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pack(state: &Directory) -> Result<Bytes, std::io::Error> {
    let entries: Vec<KvWrite> = state
        .kv()
        .entries()
        .values()
        .map(|entry| KvWrite {
            key: Arc::clone(&entry.key),
            value: entry.value.clone(),
            flags: entry.flags,
        })
        .collect();
    let body = serde_json::to_vec(&entries)?;
    let meta = serde_json::to_vec(&Meta {
        version: VERSION,
        index: state.kv().index(),
        size: body.len(),
    })?;
    let sums = format!(
        "{}  {META}\n{}  {STATE}\n",
        hex(&Sha256::digest(&meta)),
        hex(&Sha256::digest(&body))
    );
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in [(META, meta.as_slice()), (STATE, &body), (SUMS, sums.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, name, content)?;
    }
    Ok(archive.into_inner()?.finish()?.into())
}

fn unpack(archive: &[u8]) -> Result<Vec<KvWrite>, Damage> {
    let (mut meta, mut body, mut sums) = (None, None, None);
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(UNPACKED_BYTES_MAX));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        match name.as_str() {
            META => meta = Some(content),
            STATE => body = Some(content),
            SUMS => sums = Some(String::from_utf8_lossy(&content).into_owned()),
            _ => {}
        }
    }
    let (meta, body) = (meta.ok_or(Damage::Missing(META))?, body.ok_or(Damage::Missing(STATE))?);
    let sums = sums.ok_or(Damage::Missing(SUMS))?;
    for (name, content) in [(META, &meta), (STATE, &body)] {
        let expected = format!("{}  {name}", hex(&Sha256::digest(content)));
        if !sums.lines().any(|line| line == expected) {
            return Err(Damage::Sum(name));
        }
    }
    let meta: Meta = serde_json::from_slice(&meta)?;
    if meta.version != VERSION {
        return Err(Damage::Version(meta.version));
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use conclave_catalog::directory::{KvOp, Value};

    use super::*;

    #[test]
    fn what_was_saved_comes_back_whole_or_not_at_all() {
        let mut state = Directory::default();
        for (index, key) in (1..).zip(["a", "b/c", "ü"]) {
            let write = KvWrite {
                key: key.into(),
                value: Value::from(vec![0, 255, index as u8]),
                flags: u64::MAX - index,
            };
            state.apply(index, DirectoryCommand::Kv(KvOp::Set(write))).unwrap();
        }
        let archive = pack(&state).unwrap();
        let entries = unpack(&archive).unwrap();
        assert_eq!(entries.len(), 3);
        assert!(entries.iter().all(|write| {
            let entry = state.kv().get(&write.key).unwrap();
            entry.value == write.value && entry.flags == write.flags
        }));
        assert!(
            unpack(b"garbage")
                .unwrap_err()
                .to_string()
                .starts_with("failed to decompress snapshot")
        );
        let mut damaged = archive.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(unpack(&damaged).is_err());
    }
}

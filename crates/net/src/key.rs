//! The secret that all nodes of a cluster share.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::NetError;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// A random key that a node gets when it joins. It opens what the replicated state keeps sealed, and the passwords of
/// the supervised servers derive from it, so that those are stored nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_BYTES]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

struct OutputLength(usize);

impl ring::hkdf::KeyType for OutputLength {
    fn len(&self) -> usize {
        self.0
    }
}

impl ClusterKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, NetError> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| NetError::Tls("the system has no randomness".into()))?;
        Ok(Self(bytes))
    }

    /// The key with these bytes.
    ///
    /// # Errors
    /// When there are not exactly 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NetError> {
        bytes.try_into().map(Self).map_err(|_| NetError::Seal)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A password for `purpose`, such as `postgres/conclave`: 64 hexadecimal digits, the same on every node
    /// (HKDF-SHA256, RFC 5869).
    pub fn derive(&self, purpose: &str) -> String {
        let mut out = [0; KEY_BYTES];
        let salt = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"conclave/v1");
        salt.extract(&self.0)
            .expand(&[purpose.as_bytes()], OutputLength(out.len()))
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within what HKDF-SHA256 can give");
        hex::encode(out)
    }

    /// Encrypts and authenticates `plain` (ChaCha20-Poly1305, RFC 8439; a random nonce stands in front).
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, NetError> {
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| NetError::Tls("the system has no randomness".into()))?;
        let mut text = plain.to_vec();
        self.aead()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| NetError::Seal)?;
        Ok([nonce.as_slice(), &text].concat())
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`NetError::Seal`] when another key sealed it or it is damaged.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, NetError> {
        let (nonce, text) = sealed.split_at_checked(NONCE_BYTES).ok_or(NetError::Seal)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NetError::Seal)?;
        let mut text = text.to_vec();
        let plain = self
            .aead()
            .open_in_place(nonce, Aad::empty(), &mut text)
            .map_err(|_| NetError::Seal)?;
        Ok(plain.to_vec())
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("the key has the algorithm's length");
        LessSafeKey::new(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_alone() {
        let key = ClusterKey::generate().unwrap();
        let sealed = key.seal(b"secret").unwrap();
        assert_eq!(key.open(&sealed).unwrap(), b"secret");
        assert!(ClusterKey::generate().unwrap().open(&sealed).is_err());
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(key.open(&damaged).is_err());
        assert!(key.open(&sealed[..5]).is_err());
    }

    #[test]
    fn derived_passwords_depend_on_key_and_purpose() {
        let key = ClusterKey::from_bytes(&[7; 32]).unwrap();
        assert_eq!(key.derive("a"), key.derive("a"));
        assert_ne!(key.derive("a"), key.derive("b"));
        assert_ne!(key.derive("a"), ClusterKey::from_bytes(&[8; 32]).unwrap().derive("a"));
        assert_eq!(key.derive("a").len(), 64);
    }
}

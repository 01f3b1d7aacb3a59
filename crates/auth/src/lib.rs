//! Who a request comes from, and what it may do.
//!
//! The only place that hashes passwords and knows roles. It knows nothing of HTTP beyond the headers that carry
//! credentials, and nothing of what is behind a permission.

mod authenticator;
mod credentials;
mod error;
mod password;
mod permissions;
mod recent;
mod together;
mod token;

pub use authenticator::{Authenticator, Principal};
pub use credentials::Credentials;
pub use error::AuthError;
pub use password::{hash_password, new_secret, secret_hash};
pub use permissions::{PERMISSIONS, ROLES, Role};
pub use token::ApiToken;

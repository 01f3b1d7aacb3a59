//! Users, tenants and tokens.
//!
//! What every request asks, who it comes from and whether its tenant is there, is prepared once for each connection: parsing and
//! planning it takes the server longer than answering, and takes a round trip more.

use std::collections::BTreeMap;

use conclave_types::ExecutionId;
use jiff::Timestamp;

use crate::{Store, StoreError};

/// A user as authentication needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Row id; 0 is the first administrator.
    pub id: i32,
    /// As it was created.
    pub username: String,
    /// PHC string.
    pub password_hash: String,
    /// System role.
    pub role: String,
    /// Whether it may log in.
    pub active: bool,
    /// Whether too many wrong passwords have locked it.
    pub locked: bool,
    /// Role by tenant.
    pub tenants: BTreeMap<String, String>,
}

/// A token and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Whose.
    pub user: UserRow,
    /// SHA-256 of the secret, hex.
    pub secret_hash: String,
    /// Whether its time is over.
    pub expired: bool,
}

/// A token to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its public half.
    pub id: String,
    /// Row id of whose it is.
    pub user: i32,
    /// SHA-256 of the secret, hex.
    pub secret_hash: String,
    /// What it is for.
    pub description: Option<String>,
    /// When its time is over; `None` is never.
    pub expires_at: Option<Timestamp>,
}

const USER: &str = "u.id, u.username, u.password_hash, u.role, u.active, coalesce(u.locked_until > now(), false),
    coalesce((SELECT jsonb_object_agg(m.tenant_name, m.role) FROM tenant_users m WHERE m.user_id = u.id), '{}')";

fn user(row: &tokio_postgres::Row) -> UserRow {
    let tenants: serde_json::Value = row.get(6);
    UserRow {
        id: row.get(0),
        username: row.get(1),
        password_hash: row.get(2),
        role: row.get(3),
        active: row.get(4),
        locked: row.get(5),
        tenants: serde_json::from_value(tenants).unwrap_or_default(),
    }
}

impl Store {
    /// The user of this name, whatever its capitals.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn user_find(&self, username: &str) -> Result<Option<UserRow>, StoreError> {
        let client = self.client().await?;
        let sql = format!("SELECT {USER} FROM users u WHERE lower(u.username) = lower($1)");
        let statement = client.prepare_cached(&sql).await.map_err(StoreError::reading)?;
        let row = client.query_opt(&statement, &[&username]).await;
        let row = row.map_err(StoreError::reading)?;
        Ok(row.as_ref().map(user))
    }

    /// The token of this id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token_find(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {USER}, t.secret_hash, coalesce(t.expires_at < now(), false)
             FROM tokens t JOIN users u ON u.id = t.user_id WHERE t.id = $1"
        );
        let statement = client.prepare_cached(&sql).await.map_err(StoreError::reading)?;
        let row = client
            .query_opt(&statement, &[&id])
            .await
            .map_err(StoreError::reading)?;
        Ok(row.map(|row| TokenRow {
            user: user(&row),
            secret_hash: row.get(7),
            expired: row.get(8),
        }))
    }

    /// Stores a token, and drops those of the user whose time is over. The token as it is listed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn token_create(&self, new: &NewToken) -> Result<serde_json::Value, StoreError> {
        let mut client = self.client().await?;
        // One transaction, with what is answered: a token whose secret nobody has been told must not stay.
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        transaction
            .execute(
                "DELETE FROM tokens WHERE user_id = $1 AND expires_at < now()",
                &[&new.user],
            )
            .await
            .map_err(StoreError::reading)?;
        let insert =
            "INSERT INTO tokens (id, user_id, secret_hash, description, expires_at) VALUES ($1, $2, $3, $4, $5)";
        transaction
            .execute(
                insert,
                &[&new.id, &new.user, &new.secret_hash, &new.description, &new.expires_at],
            )
            .await
            .map_err(StoreError::reading)?;
        let row = transaction
            .query_one("SELECT object FROM api_tokens WHERE id = $1", &[&new.id])
            .await
            .map_err(StoreError::reading)?;
        transaction.commit().await.map_err(StoreError::writing)?;
        Ok(row.get(0))
    }

    /// Deletes a token, whoever's it is or only if it is `user`'s.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn token_delete(&self, id: &str, user: Option<i32>) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "DELETE FROM tokens WHERE id = $1 AND ($2::integer IS NULL OR user_id = $2)";
        let deleted = client.execute(sql, &[&id, &user]).await.map_err(StoreError::writing)?;
        if deleted == 0 {
            return Err(StoreError::NotFound(format!("Requested `Token` with ID `{id}`")));
        }
        Ok(())
    }

    /// Notes that a token is in use.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn token_used(&self, id: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        client
            .execute("UPDATE tokens SET last_used_at = now() WHERE id = $1", &[&id])
            .await
            .map_err(StoreError::writing)?;
        Ok(())
    }

    /// The creator of the active execution whose token has this hash.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn execution_token_find(&self, hash: &str) -> Result<Option<(UserRow, ExecutionId, String)>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {USER}, e.id, e.tenant_name FROM executions e JOIN users u ON u.id = e.created_by
             WHERE e.token_hash = $1 AND e.status NOT IN ('terminated', 'failed', 'cancelled')"
        );
        let statement = client.prepare_cached(&sql).await.map_err(StoreError::reading)?;
        let row = client.query_opt(&statement, &[&hash]).await;
        let row = row.map_err(StoreError::reading)?;
        Ok(row.map(|row| (user(&row), ExecutionId(row.get(7)), row.get(8))))
    }

    /// Counts a wrong password; from `limit` on the user is locked for `minutes`.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn user_login_failed(&self, id: i32, limit: i32, minutes: i32) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE users SET failed_logins = failed_logins + 1, locked_until = CASE
                WHEN failed_logins + 1 >= $2 THEN now() + make_interval(mins => $3) ELSE locked_until END WHERE id = $1";
        client
            .execute(sql, &[&id, &limit, &minutes])
            .await
            .map_err(StoreError::writing)?;
        Ok(())
    }

    /// Notes a good login.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn user_login_succeeded(&self, id: i32) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE users SET failed_logins = 0, locked_until = NULL, last_login_at = now(),
                first_login_at = coalesce(first_login_at, now()) WHERE id = $1";
        client.execute(sql, &[&id]).await.map_err(StoreError::writing)?;
        Ok(())
    }

    /// Creates the first administrator, user 0, unless it is there.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn admin_bootstrap(&self, password_hash: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "INSERT INTO users (id, username, password_hash, role) VALUES (0, 'admin', $1, 'sys_admin')
            ON CONFLICT DO NOTHING";
        client
            .execute(sql, &[&password_hash])
            .await
            .map_err(StoreError::writing)?;
        Ok(())
    }

    /// Creates a user.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn user_create(&self, username: &str, password_hash: &str, role: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "INSERT INTO users (username, password_hash, role) VALUES ($1, $2, $3)";
        client
            .execute(sql, &[&username, &password_hash, &role])
            .await
            .map_err(StoreError::writing)?;
        Ok(())
    }

    /// Whether there is such a tenant.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tenant_exists(&self, name: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT FROM tenants WHERE name = $1)";
        let statement = client.prepare_cached(sql).await.map_err(StoreError::reading)?;
        let found = client.query_one(&statement, &[&name]).await;
        Ok(found.map_err(StoreError::reading)?.get(0))
    }

    /// Creates a tenant.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn tenant_create(&self, name: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        client
            .execute("INSERT INTO tenants (name) VALUES ($1)", &[&name])
            .await
            .map_err(StoreError::writing)?;
        Ok(())
    }

    /// Deletes a tenant that holds nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when it holds something.
    pub async fn tenant_delete(&self, name: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let deleted = client
            .execute("DELETE FROM tenants WHERE name = $1", &[&name])
            .await
            .map_err(StoreError::writing)?;
        if deleted == 0 {
            return Err(StoreError::NotFound(format!("Requested `Tenant` with ID `{name}`")));
        }
        Ok(())
    }
}

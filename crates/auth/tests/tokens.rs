//! Whom API tokens let in, against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::time::Duration;

use conclave_auth::{ApiToken, AuthError, Authenticator, Credentials};
use conclave_runtime::{StopReport, Tasks};
use conclave_store::{ListQuery, NewToken, Resource, Store, StoreOptions, TenantScope};
use conclave_testkit::TestPostgres;
use http::HeaderMap;

const LIMIT: Duration = Duration::from_secs(30);

async fn store(server: &TestPostgres) -> Store {
    let store = Store::open(&StoreOptions {
        host: "127.0.0.1".into(),
        port: server.port,
        user: TestPostgres::USER.into(),
        password: TestPostgres::PASSWORD.into(),
        database: TestPostgres::DATABASE.into(),
        connections: 8,
        patience: Duration::from_secs(10),
        hold: tokio::sync::watch::channel(false).1,
    })
    .unwrap();
    store.migrate().await.unwrap();
    store.admin_bootstrap("hash").await.unwrap();
    store
}

async fn make(store: &Store, expires_at: Option<&str>) -> ApiToken {
    let token = ApiToken::random();
    let new = NewToken {
        id: token.id().into(),
        user: 0,
        secret_hash: token.secret_hash(),
        description: None,
        expires_at: expires_at.map(|at| at.parse().unwrap()),
    };
    store.token_create(&new).await.unwrap();
    token
}

fn shown(value: &str) -> Credentials {
    let mut headers = HeaderMap::new();
    headers.insert("authentication-token", value.parse().unwrap());
    Credentials::from_headers(&headers)
}

#[tokio::test]
async fn a_token_lets_in_until_it_is_deleted_or_over() {
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    let tasks = Tasks::new("test");
    let authenticator = Authenticator::new(store.clone(), &tasks);
    let refused = async |value: &str, why: &str| match authenticator.authenticate(&shown(value)).await {
        Err(AuthError::Unauthorized(reason)) => assert_eq!(reason, why),
        other => panic!("{value}: {other:?}"),
    };
    let token = make(&store, None).await;
    let principal = authenticator.authenticate(&shown(&token.value())).await.unwrap();
    assert_eq!((principal.user.username.as_str(), principal.execution), ("admin", None));

    let stranger = ApiToken::random();
    refused(&stranger.value(), "token is not valid").await;
    let secret = stranger.value().split('-').nth(2).unwrap().to_owned();
    refused(&format!("ctok-{}-{secret}", token.id()), "token is not valid").await;
    refused(&format!("ctok-{}", token.id()), "Invalid token structure").await;
    let over = make(&store, Some("2001-01-01T00:00:00Z")).await;
    refused(&over.value(), "Token is expired").await;

    store.token_delete(token.id(), None).await.unwrap();
    refused(&token.value(), "token is not valid").await;
    assert_eq!(tasks.stop(LIMIT).await, StopReport::Clean);
}

#[tokio::test]
async fn the_use_of_a_token_is_noted_once_in_a_while() {
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    let tasks = Tasks::new("test");
    let authenticator = Authenticator::new(store.clone(), &tasks);
    let token = make(&store, None).await;
    let query = ListQuery::all(TenantScope::All).with("id", token.id());
    let last_used = async || store.one(Resource::TOKENS, &query, "").await.unwrap()["last_used"].clone();
    assert!(last_used().await.is_null());
    authenticator.authenticate(&shown(&token.value())).await.unwrap();
    let noted = tokio::time::timeout(LIMIT, async {
        loop {
            let at = last_used().await;
            if at.is_string() {
                return at;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let noted = noted.await.unwrap();
    for _ in 0..10 {
        authenticator.authenticate(&shown(&token.value())).await.unwrap();
    }
    // Whatever was begun beside the requests has been done by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(last_used().await, noted);
}

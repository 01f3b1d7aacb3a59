//! Blueprints: upload, lists, archive.

use std::path::{Path as FilePath, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use conclave_archive::{ArchiveError, ArchiveKind, Limits, single_folder, unpack};
use conclave_blueprint::{FolderResolver, Plan, parse};
use conclave_filesync::{Expected, FileSyncError, RememberedTree};
use conclave_store::{NewBlueprint, Resource};
use conclave_types::ExecutionId;
use futures::{Stream, StreamExt};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::identity::check_id;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::{Asked, pairs};
use crate::state::{Object, RestState};

const KINDS: [ArchiveKind; 4] = [
    ArchiveKind::TarGz,
    ArchiveKind::Zip,
    ArchiveKind::Tar,
    ArchiveKind::TarBz2,
];

pub(super) async fn list(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    Asked::read(Resource::BLUEPRINTS, caller.scope("blueprint_list")?, query.as_deref())?
        .answer(&state.store, Resource::BLUEPRINTS)
        .await
}

pub(super) async fn get(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("blueprint_get")?.to_owned();
    let whole = Asked::read(Resource::BLUEPRINTS, caller.scope("blueprint_get")?, None)?;
    let mut object = whole.one(&state.store, Resource::BLUEPRINTS, &id).await?;
    object["plan"] = state.store.blueprint_plan_get(&tenant, &id).await?;
    let asked = Asked::read(Resource::BLUEPRINTS, caller.scope("blueprint_get")?, query.as_deref())?;
    Ok(Json(asked.shape(object)?))
}

/// What an upload says besides the archive.
struct Upload {
    archive: PathBuf,
    parameters: Map<String, Value>,
}

/// Takes an upload: received, unpacked, parsed, replicated and stored. Whatever fails, nothing is left of it.
pub(super) async fn upload(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<Object>), ApiError> {
    let tenant = caller.tenant("blueprint_upload")?.to_owned();
    check_id("blueprint_id", &id)?;
    if state.store.blueprint_exists(&tenant, &id).await? {
        return Err(ApiError::conflict(format!(
            "blueprint with id={id} already exists on tenant `{tenant}`"
        )));
    }
    // What it holds takes as much again, at least: an upload that has no room is not begun.
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    state.files.check_upload(length.unwrap_or_default())?;
    let work = tempfile::tempdir_in(&state.work_dir).map_err(|error| ApiError::internal(error.to_string()))?;
    let upload = receive(request, work.path()).await?;
    let text = |key: &str| upload.parameters.get(key).and_then(Value::as_str).map(str::to_owned);
    let main = text("application_file_name")
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "blueprint.yaml".into());
    let main = percent_encoding::percent_decode_str(&main)
        .decode_utf8_lossy()
        .into_owned();
    let (archive, folder, name) = (upload.archive.clone(), work.path().join("unpacked"), main.clone());
    let taken = tokio::task::spawn_blocking(move || take_apart(&archive, &folder, &name)).await;
    let (kind, root, plan) = taken.map_err(|error| ApiError::internal(error.to_string()))??;
    let files = format!("blueprints/{tenant}/{id}");
    let archived = format!("uploaded-blueprints/{tenant}/{id}");
    let packed = work.path().join("archive");
    std::fs::create_dir(&packed)
        .and_then(|()| std::fs::rename(&upload.archive, packed.join(format!("{id}.{}", kind.extension()))))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let place = take_place(&state, &tenant, &id, [(&files, &root), (&archived, &packed)]).await?;
    let new = NewBlueprint {
        tenant: tenant.clone(),
        id: id.clone(),
        visibility: text("visibility").unwrap_or_else(|| "tenant".into()),
        creator: caller.principal.user.id,
        main_file_name: main,
        description: plan.description.as_str().map(str::to_owned),
        plan: plan.to_json(),
        labels: json!([]),
        upload_execution: ExecutionId(Uuid::new_v4()),
    };
    if let Err(error) = state.store.blueprint_create(&new).await {
        // An unknown outcome may have stored it: its files must stay then.
        if !matches!(error, conclave_store::StoreError::UnknownOutcome) {
            place.give_back(&state).await;
        }
        return Err(error.into());
    }
    if place.is_lost(&state) {
        // Somebody took the place before the record knew of us. The record has decided now.
        let ours = [(files.into_bytes(), root), (archived.into_bytes(), packed)];
        let ours = ours
            .into_iter()
            .map(|(tree, folder)| (tree, folder, Expected::Anything));
        state.files.put_trees(ours.collect()).await?;
    }
    let asked = Asked::read(Resource::BLUEPRINTS, caller.scope("blueprint_get")?, None)?;
    Ok((
        StatusCode::CREATED,
        Json(asked.one(&state.store, Resource::BLUEPRINTS, &id).await?),
    ))
}

/// Where an upload has put its files.
struct Place {
    /// What was there before.
    before: Vec<RememberedTree>,
    trees: Vec<String>,
    version: u64,
}

impl Place {
    /// Leaves everything as it was before, unless somebody else has put something there since.
    async fn give_back(self, state: &RestState) {
        let expected = Expected::Version(self.version);
        let before = self.before.into_iter().map(|tree| (tree, expected)).collect();
        if let Err(error) = state.files.put_back(before).await {
            tracing::warn!(trees = ?self.trees, %error, "files of a refused upload are left");
        }
    }

    fn is_lost(&self, state: &RestState) -> bool {
        let version = |tree: &String| state.files.entry(tree).map(|found| found.version);
        self.trees.iter().any(|tree| version(tree) != Some(self.version))
    }
}

/// Puts an upload's trees, in one change, where nothing is. What an upload that was cut off has left there is replaced; of two uploads at
/// once, one is refused, so that their files never mix.
async fn take_place(
    state: &RestState,
    tenant: &str,
    id: &str,
    trees: [(&String, &PathBuf); 2],
) -> Result<Place, ApiError> {
    let exists = || ApiError::conflict(format!("blueprint with id={id} already exists on tenant `{tenant}`"));
    for attempt in 0.. {
        let before = trees
            .iter()
            .map(|(tree, _)| state.files.remember(tree))
            .collect::<Result<Vec<_>, _>>()?;
        // What was looked at before this holds as long as the trees are as they were then.
        if state.store.blueprint_exists(tenant, id).await? {
            return Err(exists());
        }
        let puts = trees.iter().zip(&before).map(|((tree, folder), before)| {
            let (tree, folder): (&String, &PathBuf) = (tree, folder);
            (tree.clone().into_bytes(), folder.clone(), before.expected())
        });
        match state.files.put_trees(puts.collect()).await {
            Ok(version) => {
                let trees = trees.iter().map(|(tree, _)| (*tree).clone()).collect();
                return Ok(Place { before, trees, version });
            }
            Err(FileSyncError::Conflict(_)) if attempt == 0 => {}
            Err(FileSyncError::Conflict(_)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Err(exists())
}

/// Unpacks and parses. Blocking.
fn take_apart(archive: &FilePath, folder: &FilePath, main: &str) -> Result<(ArchiveKind, PathBuf, Plan), ApiError> {
    let kind = unpack(archive, folder, &Limits::default()).map_err(|error| match &error {
        ArchiveError::System { source, .. } if is_full(source) => ApiError::unavailable(error.to_string()),
        _ => ApiError::bad(error.to_string()),
    })?;
    let root = single_folder(folder).unwrap_or_else(|| folder.to_owned());
    let plan = parse(main, &FolderResolver::new(&root)).map_err(|diagnostics| {
        let message = format!("Invalid blueprint - {diagnostics}");
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_blueprint_error", message)
    })?;
    Ok((kind, root, plan))
}

/// Forms A (multipart) and B (raw body, parameters in the query) of spec/rest-api.md, section 10.4.
async fn receive(request: Request, work: &FilePath) -> Result<Upload, ApiError> {
    let is_multipart = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("multipart/"));
    let archive = work.join("upload");
    if !is_multipart {
        let parameters = pairs(request.uri().query())
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect();
        save(request.into_body().into_data_stream(), &archive).await?;
        return Ok(Upload { archive, parameters });
    }
    let broken = |error: axum::extract::multipart::MultipartError| ApiError::bad(error.body_text());
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| ApiError::bad(error.body_text()))?;
    let (mut parameters, mut received) = (Map::new(), false);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        match field.name() {
            Some("params") => {
                let text = field.text().await.map_err(broken)?;
                parameters = serde_json::from_str(&text).map_err(|error| ApiError::bad(format!("params: {error}")))?;
            }
            Some("blueprint_archive") => {
                save(field, &archive).await?;
                received = true;
            }
            _ => {}
        }
    }
    if !received {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "upload_missing_file",
            "the form has no field blueprint_archive",
        ));
    }
    Ok(Upload { archive, parameters })
}

/// Whether the disk has no room any more: what has some at the beginning may run out of it.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

async fn save<S, E>(mut body: S, path: &FilePath) -> Result<(), ApiError>
where
    S: Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let system = |error: std::io::Error| {
        let message = format!("the upload cannot be kept: {error}");
        if is_full(&error) {
            ApiError::unavailable(message)
        } else {
            ApiError::internal(message)
        }
    };
    let mut file = tokio::fs::File::create(path).await.map_err(system)?;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| ApiError::bad(format!("the upload broke off: {error}")))?;
        file.write_all(&piece).await.map_err(system)?;
    }
    file.flush().await.map_err(system)
}

pub(super) async fn archive(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = caller.tenant("blueprint_download")?;
    for kind in KINDS {
        let name = format!("{id}.{}", kind.extension());
        let path = format!("uploaded-blueprints/{tenant}/{id}/{name}");
        if state.files.content_name(&path).is_none() {
            continue;
        }
        let bytes = state.files.read(&path).await?;
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        ];
        return Ok((headers, Body::from(bytes)).into_response());
    }
    Err(ApiError::not_found(format!(
        "Requested `Blueprint` with ID `{id}` was not found"
    )))
}

pub(super) async fn delete(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("blueprint_delete")?.to_owned();
    let asked = Asked::read(Resource::BLUEPRINTS, caller.scope("blueprint_get")?, None)?;
    let object = asked.one(&state.store, Resource::BLUEPRINTS, &id).await?;
    state
        .store
        .blueprint_delete(&tenant, &id)
        .await
        .map_err(|error| ApiError::from(error).conflict_as("dependent_exists_error"))?;
    for tree in [
        format!("blueprints/{tenant}/{id}"),
        format!("uploaded-blueprints/{tenant}/{id}"),
    ] {
        state.files.remove(&tree).await?;
    }
    Ok(Json(object))
}

//! `/v1/videos`: asynchronous jobs, as OpenAI clients and video benchmarks drive them.

mod content;
mod create;
mod events;
mod object;
mod schema;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::Uri;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::openapi::ErrorBody;
use super::{ApiError, App};
use crate::store::JobRecord;
use object::{Status, Video, VideoList};
use schema::{Ended, VideoDeleted};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list))
        .routes(routes!(get, remove))
        .routes(routes!(content::content))
        .routes(routes!(events::events))
}

/// Which videos to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
    /// Id of the last video of the page before.
    after: Option<String>,
    /// Newest first or oldest first.
    #[param(default = "desc")]
    order: Option<Order>,
    /// Only these.
    status: Option<Status>,
}

/// Order of a list.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// List videos
///
/// Newest first, in pages: `after` the last id of a page comes the next one.
#[utoipa::path(
    get, path = "/v1/videos", tag = "Videos", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = VideoList),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody)))]
async fn list(State(app): State<App>, uri: Uri) -> Result<Json<VideoList>, ApiError> {
    let Query(query) = Query::<ListQuery>::try_from_uri(&uri)
        .map_err(|error| ApiError::invalid("query", error.body_text()))?;
    let limit = query.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        let message = format!("{limit} is not between 1 and 100");
        return Err(ApiError::invalid("limit", message));
    }
    let newest_first = !matches!(query.order, Some(Order::Asc));
    let status = query.status.map(Into::into);
    let page = app
        .jobs()
        .list(
            query.after.as_deref().filter(|id| !id.is_empty()),
            limit,
            newest_first,
            status,
        )
        .await?;
    let mut videos = Vec::with_capacity(page.jobs.len());
    for job in page.jobs {
        videos.push(Video::of(&app, job).await);
    }
    Ok(Json(VideoList::new(videos, page.has_more)))
}

async fn find(app: &App, id: &str) -> Result<JobRecord, ApiError> {
    let job = app.jobs().get(id).await?;
    job.ok_or_else(|| ApiError::no_video(id))
}

/// One video
///
/// The job and how far it is.
#[utoipa::path(
    get, path = "/v1/videos/{id}", tag = "Videos",
    params(("id" = String, Path, description = "Id of the video")),
    responses(
        (status = 200, description = "The job", body = Video),
        (status = 404, description = "There is no such video", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody)))]
async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Video>, ApiError> {
    let job = find(&app, &id).await?;
    Ok(Json(Video::of(&app, job).await))
}

/// Cancel or delete a video
///
/// An unfinished job stops before its next transformer block and is `failed` with the code `cancelled`; a
/// finished one is removed with its file.
#[utoipa::path(
    delete, path = "/v1/videos/{id}", tag = "Videos",
    params(("id" = String, Path, description = "Id of the video")),
    responses(
        (status = 200, description = "Cancelled or removed", body = Ended),
        (status = 404, description = "There is no such video", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody)))]
async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Ended>, ApiError> {
    if let Some(job) = app.jobs().cancel(&id).await? {
        let mut video = Video::of(&app, job).await;
        video.deleted = Some(false);
        return Ok(Json(Ended::Cancelled(Box::new(video))));
    }
    if app.jobs().delete(&id).await? {
        return Ok(Json(Ended::Deleted(VideoDeleted {
            id,
            object: "video.deleted",
            deleted: true,
        })));
    }
    Err(ApiError::no_video(&id))
}

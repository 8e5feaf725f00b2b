//! The platform's read interface, as far as callers of chutes use it: is it there, is it hot, which
//! revision.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use uuid::Uuid;

use super::super::{ApiError, App};
use super::Cord;
use super::generate::input_schema;
use super::schema::{Chute, ChuteCord, ChuteList, ChuteUser, DetailError};

/// Longest label of a host name that the platform makes.
const MAX_SLUG: usize = 58;

/// Under which name this node appears as a chute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChuteIdentity {
    username: String,
    name: String,
    id: Uuid,
    slug: String,
}

impl ChuteIdentity {
    /// The identity that the platform would give to a chute of this user and name.
    pub fn new(username: &str, name: &str) -> Self {
        let id = Uuid::new_v5(
            &Uuid::NAMESPACE_OID,
            format!("{username}::chute::{name}").as_bytes(),
        );
        Self {
            username: username.to_owned(),
            name: name.to_owned(),
            id,
            slug: slug(&format!("{username}-{name}")),
        }
    }

    /// UUID of the chute.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Label of its host name.
    pub fn slug(&self) -> &str {
        &self.slug
    }
}

/// Lower case letters and digits, everything else as single hyphens inside.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(MAX_SLUG);
    slug.trim_end_matches('-').to_owned()
}

/// One chute
///
/// This node as the platform's interface would show it.
#[utoipa::path(
    get, path = "/chutes/{id}", tag = "Chutes",
    params(("id" = String, Path, description = "The chute's UUID, name or slug")),
    responses(
        (status = 200, description = "The chute", body = Chute),
        (status = 404, description = "Another chute", body = DetailError)))]
pub(super) async fn chute(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Chute>, ApiError> {
    let identity = app.chute();
    let known = [
        identity.id.to_string(),
        identity.name.clone(),
        identity.slug.clone(),
    ];
    if known.contains(&id) {
        return Ok(Json(describe(&app)));
    }
    let message = "Chute not found, or does not belong to you";
    Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message))
}

/// All chutes
///
/// One: this node.
#[utoipa::path(
    get, path = "/chutes/", tag = "Chutes",
    responses((status = 200, description = "The chutes", body = ChuteList)))]
pub(super) async fn chutes(State(app): State<App>) -> Json<ChuteList> {
    Json(ChuteList {
        total: 1,
        page: 0,
        limit: 25,
        items: vec![describe(&app)],
    })
}

fn describe(app: &App) -> Chute {
    let identity = app.chute();
    let engine = app.engine().ok();
    let schema = input_schema();
    let cords = Cord::ALL.into_iter().map(|cord| ChuteCord {
        method: "POST",
        path: format!("/{}", cord.name()),
        function: cord.name(),
        stream: false,
        passthrough: false,
        public_api_path: format!("/{}", cord.name()),
        public_api_method: "POST",
        input_schema: schema.clone(),
        output_content_type: cord.content_type(),
    });
    Chute {
        chute_id: identity.id.to_string(),
        name: identity.name.clone(),
        tagline: engine.map_or_else(String::new, |engine| engine.info().name.clone()),
        readme: String::new(),
        public: true,
        slug: identity.slug.clone(),
        hot: app.readiness().ready,
        revision: engine.and_then(|engine| engine.info().revision.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        standard_template: None,
        concurrency: engine.map_or(0, |engine| engine.load().queue_capacity + 1),
        user: ChuteUser {
            username: identity.username.clone(),
        },
        cords: cords.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_slug_are_the_platforms() {
        // uuid.uuid5(uuid.NAMESPACE_OID, "alice::chute::wan") in Python.
        let identity = ChuteIdentity::new("alice", "wan");
        assert_eq!(
            identity.id().to_string(),
            "6598ee92-177f-588a-bc49-8f99db0a7c16"
        );
        assert_eq!(identity.slug(), "alice-wan");
        assert_eq!(slug("Alice--My Wan 2.2!"), "alice-my-wan-2-2");
        assert_eq!(slug(&"ab ".repeat(40)).len(), 58);
    }
}

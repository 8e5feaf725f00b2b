//! The OpenAPI document: made from the routes, with what all of them share added here.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::routing::get;
use serde::Serialize;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, Tag,
};
use utoipa::{PartialSchema, ToSchema};

use super::auth::is_public;
use super::chutes::DetailError;
use super::error::ErrorForm;
use super::{App, openapi};

/// An error of every route but those of Chutes.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorFields,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorFields {
    /// A stable word for programs.
    code: String,
    /// What is wrong and what would be right.
    message: String,
    /// Id of the request, as in the header `x-request-id` and in the server's log.
    request_id: String,
}

/// The document before the routes.
pub(super) fn base() -> OpenApi {
    let mut components = Components::new();
    for (name, schema) in [
        ("DetailError", DetailError::schema()),
        ("ErrorBody", ErrorBody::schema()),
        ("ErrorFields", ErrorFields::schema()),
    ] {
        components.schemas.insert(name.into(), schema);
    }
    components.add_security_scheme(
        "key",
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
    );
    let tag = |name: &str, about: &str| {
        let mut tag = Tag::new(name);
        tag.description = Some(about.to_owned());
        tag
    };
    let mut document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("leoma-node")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Wan 2.2 video behind HTTP: the routes of Chutes clients, and durable jobs as OpenAI \
                     clients drive them. Without a key the node answers programs of its own machine only.",
                ))
                .build(),
        )
        .components(Some(components))
        .build();
    document.tags = Some(vec![
        tag(
            "Videos",
            "Durable jobs: made now, fetched later, kept over restarts.",
        ),
        tag("Chutes", "One clip per request, answered when it is done."),
        tag(
            "Judge",
            "Whether a clip passes, on servers started with a judge.",
        ),
        tag("Node", "What is running and how well."),
    ]);
    document
}

/// Adds what the layers around the routes answer, and where a key is needed.
fn finish(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let form = ErrorForm::of(path);
        let operations = [
            ("GET", &mut item.get),
            ("POST", &mut item.post),
            ("DELETE", &mut item.delete),
            ("HEAD", &mut item.head),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else {
                continue;
            };
            let method = method.parse().unwrap_or_default();
            if is_public(&method, path) {
                operation.security = Some(Vec::new());
            } else {
                let key = SecurityRequirement::new("key", Vec::<String>::new());
                operation.security = Some(vec![key]);
                answer(operation, form, "401", "The key is missing or wrong");
            }
            answer(operation, form, "400", "The request cannot be used");
            answer(
                operation,
                form,
                "403",
                "Without a key: another `Host` or `Origin` than this machine's",
            );
        }
    }
    document
}

fn answer(operation: &mut Operation, form: ErrorForm, status: &str, about: &str) {
    let schema = match form {
        ErrorForm::Detail => "DetailError",
        ErrorForm::Error | ErrorForm::Both => "ErrorBody",
    };
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .build();
    let mut response = Response::new(about);
    response
        .content
        .insert("application/json".into(), RefOr::T(content));
    operation
        .responses
        .responses
        .entry(status.into())
        .or_insert(RefOr::T(response));
}

/// `GET /openapi.json`.
pub(super) fn route(document: OpenApi) -> Router<App> {
    let text = openapi::finish(document).to_json().unwrap_or_default();
    let answer = move || {
        let text = text.clone();
        async move {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], text)
        }
    };
    Router::new().route("/openapi.json", get(answer))
}
